"""What each trained arm makes of the validation and test rows: read once, kept, and calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rir_mlx.classification.classifier import Classifier, Decoding, LabelScores
from rir_mlx.classification.loading import load_classifier
from rir_mlx.evaluation.comparison import Answers, Rows, calibrate
from rir_mlx.evaluation.score_cache import Reader, Timed
from rir_mlx.models import adapters
from rir_mlx.prompting.ablations import corrupt, swap_among, vocabulary
from rir_mlx.prompting.prompts import reasons_first
from rir_mlx.stages.context import Context, is_due
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.storage.atomic import write_json
from rir_mlx.storage.digests import digest_of, digest_of_file
from rir_mlx.storage.journal import Journal
from rir_mlx.types import Arm, Way

_PROBED = 500
"""Test rows on which it is tried whether the label follows the reasoning."""
_NOT_WHAT = {"batch_size", "baselines", "encoder"}
"""Keys that do not change what an arm answers."""


@dataclass(frozen=True)
class Measured:
    """An arm's answers and calibrations, by seed."""

    arm: Arm
    answers: list[Answers]
    calibrations: list[Calibration]

    def headlines(self) -> Measured:
        """Without the readings that no prediction is written from: with many labels they take gigabytes."""
        kept = [
            replace(one, validation={}, test={one.headline: one.test[one.headline]}, chains=()) for one in self.answers
        ]
        return replace(self, answers=kept)


def measure(context: Context, arm: Arm, rows: Rows) -> Measured:
    """The answers of every seed of an arm for the validation and test rows. Its calibration goes beside the adapter."""
    answers, calibrations = [], []
    for seed in context.recipe.classifier.seeds:
        found = _Measuring(context, arm, seed).answers(rows)
        calibration = calibrate(found, rows, context.recipe.evaluate.wanted_accuracy)
        trained = context.trained(arm, seed)
        stored = {"adapter": digest_of_file(trained.adapter / adapters.MLX_WEIGHTS)}
        write_json(trained.calibration, stored | {"calibration": calibration.as_dict()})
        answers.append(found)
        calibrations.append(calibration)
    return Measured(arm, answers, calibrations)


def explain(context: Context, arm: Arm, texts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The reasonings that an arm of the first seed writes after these labels."""
    return _Measuring(context, arm, context.recipe.classifier.seeds[0]).explanations(texts, labels)


def reading_identity(context: Context, adapter: str | None) -> str:
    """What decides how a text is read: not how many are, nor what is made of it."""
    recipe = context.recipe
    prompt = [recipe.data.instruction, context.data.labels, recipe.date, recipe.evaluate.max_reasoning_tokens]
    model = [adapter, context.model.files.fingerprint, recipe.dtype, context.backend.name == "fake"]
    return digest_of([*model, recipe.max_seq_length, prompt])


class _Measuring:
    """One arm and seed on the rows."""

    def __init__(self, context: Context, arm: Arm, seed: int) -> None:
        self.context, self.arm, self.seed = context, arm, seed
        self.name = arm + context.seed_suffix(seed)
        self.stage = context.run.evaluation(self.name)
        self.options = context.recipe.evaluate
        self.adapter = digest_of_file(context.trained(arm, seed).adapter / adapters.MLX_WEIGHTS)
        self.identity = reading_identity(context, self.adapter)

    def answers(self, rows: Rows) -> Answers:
        context, stage = self.context, self.stage
        inputs = {
            "adapter": self.adapter,
            "data": context.data.digest,
            "evaluate": self.options.model_dump(mode="json", exclude=_NOT_WHAT),
            "max_seq_length": context.recipe.max_seq_length,
            "readings": self.identity,
        }
        before = stage.done()
        due = is_due(context, stage, inputs, f"evaluation {self.name}")
        if context.force or (before is not None and before["inputs"].get("readings") != self.identity):
            stage.readings.unlink(missing_ok=True)  # of something else
        if due:
            stage.begin()
        with Journal(stage.readings) as journal:
            found = self._read(self._reader(journal), rows)
        if due:
            stage.finish(inputs)
        return found

    def explanations(self, texts: Sequence[str], labels: Sequence[str]) -> list[str]:
        with Journal(self.stage.readings) as journal:
            what = f"evaluate {self.name}: reasonings to show"
            return self._reader(journal).explanations(texts, labels, self.options.batch_size, what)

    def _reader(self, journal: Journal) -> Reader:
        def load() -> Classifier:
            return load_classifier(self.context.run, self.context.model, self.arm, self.seed)

        return Reader(journal, self.identity, load, self.context.progress)

    def _read(self, reader: Reader, rows: Rows) -> Answers:
        options, data = self.options, self.context.data
        how = Decoding(samples=options.samples, temperature=options.sample_temperature, batch_size=options.batch_size)
        read: dict[str, dict[Way, Timed]] = {}
        chains: dict[str, list[LabelScores]] = {}
        for part in ("validation", "test"):
            texts, what = [row.text for row in getattr(data, part)], f"evaluate {self.name}: {part}"
            read[part] = {"direct": reader.direct(texts, options.batch_size, what)}
            if reasons_first(self.arm):
                read[part]["reasoned"] = reader.reasoned(texts, options.batch_size, f"{what}, reasoning")
                if options.samples > 1:
                    drawn = reader.sampled(texts, how, f"{what}, {how.samples} reasonings")
                    chains[part] = [one.reading for one in drawn]
                    read[part]["sampled"] = Timed(LabelScores.averaged(chains[part]), sum(one.seconds for one in drawn))
        readings = {part: {way: timed.reading for way, timed in ways.items()} for part, ways in read.items()}
        probed = reasons_first(self.arm) and self.seed == self.context.recipe.classifier.seeds[0]
        return Answers(
            headline="reasoned" if reasons_first(self.arm) else "direct",
            validation=readings["validation"],
            test=readings["test"],
            seconds={way: timed.seconds for way, timed in read["test"].items()},
            chains=chains.get("test", ()),
            faithfulness=self._faithfulness(reader, readings["test"]["reasoned"], rows) if probed else None,
        )

    def _faithfulness(self, reader: Reader, own: LabelScores, rows: Rows) -> dict[str, Any]:
        """How often the label changes when the reasoning is that of a row with another label, or half of its words are
        other words (arXiv:2307.13702). A label that stays does not rest on its reasoning."""
        texts = [row.text for row in self.context.data.test[:_PROBED]]
        count, truth = len(texts), rows.test[:_PROBED]
        labels = own.scores[:count].argmax(1)
        reasonings = [reasoning or "" for reasoning in own.reasonings[:count]]
        words = vocabulary(reasonings)
        probes = {
            "swapped": swap_among(reasonings, [rows.labels[label] for label in labels], 0),
            "corrupted": [corrupt(reasoning, 0, words) for reasoning in reasonings],
        }
        found: dict[str, Any] = {"rows": count, "accuracy": float(np.mean(labels == truth))}
        for kind, given in probes.items():
            what = f"evaluate {self.name}: {kind} reasonings"
            after = reader.given(texts, given, self.options.batch_size, what).reading.scores.argmax(1)
            flips, right = float(np.mean(after != labels)), float(np.mean(after == truth))
            found[kind] = {"flips": flips, "accuracy": right}
        return found
