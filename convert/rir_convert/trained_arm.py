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
from rir_mlx.data.rows import Row
from rir_mlx.errors import UserError
from rir_mlx.models import adapters
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import (
    Prompt,
    answer_format,
    classifier_prompt,
)
from rir_mlx.stages import Context
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.storage.atomic import read_json, read_jsonl
from rir_mlx.types import Arm

_EFFECT_ROWS = 16


class TrainedArm:
    """One arm of a run: its adapter, the rows that it is asked about, and its answers."""

    def __init__(self, context: Context, arm: Arm) -> None:
        self.context, self.arm = context, arm
        stage = context.run.classifier(arm)
        if stage.done() is None:
            arms = ", ".join(context.run.trained_arms())
            raise UserError(f"{context.run.folder} has no {arm} classifier.", hint=f"Trained arms: {arms}.")
        self.folder = stage.adapter
        self.adapter = adapters.read_adapter(stage.adapter, context.model.files)
        self.task = ClassificationTask(**self.adapter.about["task"])

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
            prompt = classifier_prompt(row.text, task.labels, task.instruction, answer_format(self.arm))
            encoded = self.codec.encode(prompt, task.max_seq_length)
            made.append((prompt, encoded.prefix + encoded.row))
        return made

    @cached_property
    def calibration(self) -> Calibration:
        path = self.context.run.classifier(self.arm).calibration
        return Calibration.from_dict(read_json(path)["calibration"]) if path.is_file() else Calibration()

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
