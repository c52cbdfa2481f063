"""From a text to a calibrated prediction, with a reasoning if one is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rir_mlx.backends.base import Model
from rir_mlx.classification.scores import LabelScores, Prediction
from rir_mlx.classification.scoring import LabelScorer, OnText, PredictOptions
from rir_mlx.data.labels.combinations import holds, place_of
from rir_mlx.errors import UserError
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.codec import Codec
from rir_mlx.statistics.calibration import NO_ANSWER, Calibration
from rir_mlx.statistics.intervals import FloatArray
from rir_mlx.statistics.several_labels import answered_sets, label_probabilities
from rir_mlx.types import AnswerMode, Arm, Way


def no_threshold() -> UserError:
    """The error of a classifier of which an accuracy is wanted that was never measured for it."""
    return UserError(
        "evaluate.wanted_accuracy is set, and was not measured for this classifier: no threshold is known.",
        hint="Run `rir-mlx evaluate` on its run (and export it again, if this is an export), or choose a threshold "
        "yourself: 0 labels every text.",
    )


class Classifier(LabelScorer):
    """A label scorer whose probabilities are calibrated."""

    def __init__(
        self, model: Model, codec: Codec, task: ClassificationTask, arm: Arm, calibration: Calibration | None = None
    ) -> None:
        super().__init__(model, codec, task, arm)
        self.calibration = calibration or Calibration()

    def predict(
        self, texts: Sequence[str], options: PredictOptions | None = None, *, on_text: OnText | None = None
    ) -> list[Prediction]:
        """Labels for texts, in their order. `on_text` gets the reasoning piece by piece as it is generated; it makes
        sense for one text at a time.

        Raises UserError for `auto` if no confidence was chosen on validation rows."""
        options = options or PredictOptions()
        if not texts:
            return []
        if not self.reasons_first:
            predictions = self.predictions(self.direct(texts, options.batch_size, mass=options.mass), "direct")
            explained = options.reason == "always" and self.writes_reasoning
            return self._explained(texts, predictions, options, on_text) if explained else predictions
        if options.reason == "always" and not self.answers_twice:
            return self._reasoned_predictions(texts, options, on_text)
        predictions = self.predictions(self.direct(texts, options.batch_size, mass=options.mass), "direct")
        if options.reason == "never":
            return predictions
        chosen = list(range(len(texts))) if options.reason == "always" else self._doubtful(predictions)
        firsts = [predictions[index] for index in chosen] if self.answers_twice else None
        reasoned = self._reasoned_predictions([texts[index] for index in chosen], options, on_text, firsts)
        for index, prediction in zip(chosen, reasoned, strict=True):
            predictions[index] = prediction
        return predictions

    def predictions(self, scored: LabelScores, way: Way) -> list[Prediction]:
        """Calibrated predictions from scores that were made that way."""
        scores = scored.log_probabilities
        probabilities = self.calibration.probabilities(scores, way)
        names = self.task.names
        found = [
            Prediction(names[best], dict(zip(names, row, strict=True)), mass, *rest)
            for best, row, mass, *rest in zip(
                scores.argmax(axis=1).tolist(),
                probabilities.tolist(),
                scored.mass.tolist() if scored.knows_mass else [None] * len(scores),
                scored.reasonings,
                scored.trimmed,
                scored.tokens,
                strict=True,
            )
        ]
        return self._with_labels(found, probabilities, way) if self.task.combinations else found

    @cached_property
    def _members(self) -> NDArray[np.bool_]:
        """[answers, labels] which labels each answer holds."""
        return holds(self.task.names, list(self.task.labels))

    def _with_labels(self, found: Sequence[Prediction], probabilities: FloatArray, way: Way) -> list[Prediction]:
        """The predictions of texts that may have several labels, with each that is likely enough."""
        single, members = list(self.task.labels), self._members
        chances = label_probabilities(probabilities, members)
        thresholds = self.calibration.thresholds(way, single)
        given = answered_sets(probabilities, members, thresholds, place_of(self.task.no_label, single))
        return [
            replace(
                prediction,
                labels=tuple(single[place] for place in np.argsort(-row, kind="stable") if has[place]),
                singly=dict(zip(single, row.tolist(), strict=True)),
            )
            for prediction, row, has in zip(found, chances, given, strict=True)
        ]

    @property
    def reason_below(self) -> float:
        """The confidence below which `auto` generates a reasoning. Raises UserError if it has not been measured."""
        if self.calibration.reason_below is None:
            raise UserError(
                "`auto` needs the confidence below which a reasoning is worth writing, and it has not been measured.",
                hint="Run `rir-mlx evaluate`, or choose always or never.",
            )
        return self.calibration.reason_below

    def answer_from(self, options: PredictOptions) -> float | None:
        """The probability below which the classifier abstains if it classifies like this; None if no accuracy was
        wanted. Raises UserError if one was wanted, and no threshold was measured for it, or not for this way."""
        thresholds = self.calibration.answer_from
        if thresholds is None:
            return None
        if not thresholds:
            raise no_threshold()
        mode: AnswerMode = "direct"
        if self.reasons_first and options.reason != "never":
            mode = "sampled" if options.samples > 1 else "auto" if options.reason == "auto" else "reasoned"
        mixed = self.reasons_first and options.reason == "auto" and options.samples > 1
        abstains = mode in thresholds and thresholds[mode].confidence == NO_ANSWER
        if not abstains and (mode not in thresholds or mixed or not self.is_calibrated(options)):
            raise UserError(
                "evaluate.wanted_accuracy was not measured for this way of classifying, so no threshold is known.",
                hint="Choose --threshold yourself; or, for --samples, set evaluate.samples to the same number. Then, "
                "or after a change of evaluate.sample_temperature, run `rir-mlx evaluate`.",
            )
        return thresholds[mode].confidence

    def is_calibrated(self, options: PredictOptions) -> bool:
        """Whether probabilities that are averaged over several reasonings were calibrated over as many, drawn at the
        same temperature; of other ways of classifying, true."""
        if not self.reasons_first or options.reason == "never" or options.samples == 1:
            return True
        samples, temperature = self.calibration.samples, self.calibration.sample_temperature
        return samples in (None, options.samples) and temperature in (None, options.temperature)

    @property
    def of_samples(self) -> str:
        """How many reasonings were averaged when that was calibrated, and how they were drawn, as the end of a
        sentence."""
        measured, drawn = self.calibration.samples, self.calibration.sample_temperature
        at = f" at a temperature of {drawn:g} (evaluate.sample_temperature)" if drawn is not None else ""
        if not self.calibration.rows:
            return "nothing was calibrated on validation rows"
        return f"the validation rows had {measured} (evaluate.samples){at}" if measured else "evaluate.samples was 1"

    def _doubtful(self, predictions: Sequence[Prediction]) -> list[int]:
        """Places of predictions whose confidence is so low that a reasoning is worth generating."""
        below = self.reason_below
        return [index for index, prediction in enumerate(predictions) if prediction.probability < below]

    def _reasoned_predictions(
        self,
        texts: Sequence[str],
        options: PredictOptions,
        on_text: OnText | None,
        firsts: Sequence[Prediction] | None = None,
    ) -> list[Prediction]:
        if not texts:
            return []
        labels = None if firsts is None else [first.label for first in firsts]
        if options.samples == 1:
            scores = self.reasoned(texts, options.batch_size, on_text, firsts=labels, mass=options.mass)
            found = self.predictions(scores, "reasoned")
        else:
            scores = LabelScores.averaged(self.sampled(texts, options, firsts=labels))
            if on_text is not None:  # which reasoning is kept is not known before all of them are generated
                on_text(scores.reasonings[0] or "")
            found = self.predictions(scores, "sampled")
        if firsts is None:
            return found
        return [replace(prediction, first=first) for prediction, first in zip(found, firsts, strict=True)]

    def _explained(
        self,
        texts: Sequence[str],
        predictions: Sequence[Prediction],
        options: PredictOptions,
        on_text: OnText | None,
    ) -> list[Prediction]:
        """The predictions, each with a reasoning that was generated after its label."""
        labels = [prediction.label for prediction in predictions]
        explanations = self.explanations(texts, labels, options.batch_size, on_text)
        return [
            replace(prediction, reasoning=reasoning, tokens=tokens)
            for prediction, (reasoning, tokens) in zip(predictions, explanations, strict=True)
        ]
