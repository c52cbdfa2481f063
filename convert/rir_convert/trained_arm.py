"""A trained arm as the reference that every export of it is compared with."""

from __future__ import annotations

from functools import cached_property

from rir_convert.prompt_parts import MADE_UP
from rir_convert.verification.probe import (
    ROWS,
    Probe,
    Reference,
    answer_rows,
    mean_difference,
    most_tokens,
    reference_answers,
)
from rir_mlx.backends import release_memory
from rir_mlx.backends.base import Tokens
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.loading import read_classifier, trained_since
from rir_mlx.data.rows import Row
from rir_mlx.evaluation.schema import Comparison, read_comparison
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import Prompt, answer_format
from rir_mlx.stages import Context
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.storage.atomic import read_jsonl
from rir_mlx.types import Arm

_EFFECT_ROWS = 16


class TrainedArm:
    """One arm of a run: its adapter, the rows that it is asked about, and its answers."""

    def __init__(self, context: Context, arm: Arm) -> None:
        self.context, self.arm = context, arm
        stored = read_classifier(context.run, context.model, arm)
        self.folder, self.adapter, self.task = stored.folder, stored.adapter, stored.task
        self.calibration = stored.calibration or Calibration()

    @cached_property
    def comparison(self) -> Comparison | None:
        """The run's comparison if these very weights were measured for it, of every seed; else None, with a warning if
        the arm was trained again since.

        Raises UserError for a comparison that another version wrote."""
        path = self.context.run.comparison
        found = read_comparison(path) if path.is_file() else None
        entry = found.entry(self.arm) if found else None
        if found is None or entry is None:
            return None
        if not trained_since(self.context.run, [(self.arm, entry.seeds)], found.run.finished, gone_too=True):
            return found
        self.context.progress.warn(
            f"The {self.arm} classifier is not the one that {path} measured, so the model card shows no accuracy. "
            f"`rir-mlx evaluate {self.context.run.folder}` measures it."
        )
        return None

    @cached_property
    def rows(self) -> list[tuple[Row, str]]:
        """Rows of the run, each with the reasoning that the arm wrote during evaluation, if any."""
        data = self.context.data
        rows = (data.test or data.validation or data.train)[:ROWS]
        path = self.context.run.predictions(self.arm)
        reasonings = {line["id"]: line["reasoning"] for line in read_jsonl(path)} if path.is_file() else {}
        return [(row, reasonings.get(row.id) or "") for row in rows]

    @cached_property
    def prompts(self) -> list[tuple[Prompt, Tokens]]:
        """The rows' prompts, each with the token ids that training used."""
        task, made = self.task, []
        for row, _ in self.rows:
            prompt = task.prompt(row.text, answer_format(self.arm))
            encoded = self.codec.encode(prompt, task.max_seq_length)
            made.append((prompt, encoded.prefix + encoded.row))
        return made

    @property
    def codec(self) -> Codec:
        return self.context.model.codec

    def reference(self, *, example: bool = False) -> Reference:
        """The adapter model's answers in float32, and how far they are from the base's. With `example` also what the
        classifier makes of the model card's text."""
        context, files = self.context, self.context.model.files
        context.progress.say(f"Asking the trained model for {len(self.rows)} rows …")
        model = context.backend.load(files.folder, dtype="float32", adapter=(self.adapter.spec, self.adapter.tensors))
        classifier = Classifier(model, self.codec, self.task, self.arm)
        texts, reasonings = [row.text for row, _ in self.rows], [reasoning for _, reasoning in self.rows]
        limit = most_tokens(files.config, model.longest)
        probe = Probe(*classifier.prompts(texts, reasonings), classifier.label_tokens, limit=limit)
        answers = reference_answers(model, probe)
        made_up = classifier.predict([MADE_UP])[0] if example else None
        del model, classifier
        release_memory()
        base = answer_rows(context.backend.load(files.folder, dtype="float32"), probe, _EFFECT_ROWS)
        release_memory()
        return Reference(probe, answers, mean_difference(base, answers.rows), made_up)
