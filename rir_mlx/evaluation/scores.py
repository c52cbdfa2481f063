"""The measured scores of trained classifiers, and their calibration. Knows no model and no file."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from rir_mlx.classification.scores import LabelScores
from rir_mlx.data.labels.combinations import holds
from rir_mlx.data.rows import Row
from rir_mlx.evaluation.schema import Faithfulness
from rir_mlx.prompting.prompts import answers_twice
from rir_mlx.statistics.calibration import (
    NO_ANSWER,
    RISK,
    AnswerThreshold,
    Calibration,
    fit_answer_from,
    fit_reason_below,
    fit_temperature,
)
from rir_mlx.statistics.intervals import FloatArray
from rir_mlx.statistics.several_labels import fit_thresholds, label_probabilities
from rir_mlx.types import AnswerMode, Arm, Way

FEWEST_TO_CALIBRATE = 20
"""Validation rows; with fewer, probabilities are not calibrated."""


@dataclass(frozen=True)
class EvaluationRows:
    """The rows that every entry is measured on, as indices into `labels`, the answers that there are.

    validation  [validation rows] without copies of training rows: what they show of a classifier is its memory
    test        [test rows]
    clean       [test rows] whether a row is neither a copy of a training or validation row nor a text with two labels
    leaked      how many test rows are such copies
    conflicting how many test rows have a text with two labels
    single      where a text may have several labels, these, of which the answers are combinations
    alone       the place of the one among these that texts without a label have, if there is one
    shares      where labels are distributions, these: [validation rows, labels] and [test rows, labels]
    copied      [all validation rows] whether each is such a copy; None if there are none
    """

    labels: Sequence[str]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    clean: NDArray[np.bool_]
    leaked: int = 0
    conflicting: int = 0
    single: Sequence[str] = ()
    shares: tuple[FloatArray, FloatArray] | None = None
    copied: NDArray[np.bool_] | None = None
    alone: int | None = None

    def held_out(self, values: FloatArray) -> FloatArray:
        """[validation rows, ...] of what was measured of all validation rows, without the copies."""
        return values if self.copied is None else values[~self.copied]

    @cached_property
    def members(self) -> NDArray[np.bool_]:
        """[answers, single] which labels each answer holds."""
        return holds(self.labels, self.single)

    @property
    def compared(self) -> NDArray[np.bool_]:
        """[test rows] the rows that comparisons use: the clean ones. Without any, it is all of them, and nothing is
        judged."""
        return self.clean if self.clean.any() else np.ones_like(self.clean)


def distributions(rows: Sequence[Row], labels: Sequence[str]) -> FloatArray:
    """[rows, labels] how each row's label is divided: 1 and 0 where it is not."""
    place = {label: column for column, label in enumerate(labels)}
    found = np.zeros((len(rows), len(labels)))
    for number, row in enumerate(rows):
        for label, share in row.divided:
            found[number, place[label]] = share
    return found


@dataclass(frozen=True)
class ClassifierScores:
    """The scores of one trained classifier, by the way of scoring.

    main_way    the way of scoring by which the arm is measured
    validation  scores of the validation rows
    test        scores of the test rows
    seconds     time per test row
    chains      scores of the test rows after each drawn reasoning
    """

    main_way: Way
    validation: Mapping[Way, LabelScores]
    test: Mapping[Way, LabelScores]
    seconds: Mapping[Way, float]
    chains: Sequence[LabelScores] = ()
    faithfulness: Faithfulness | None = None


@dataclass(frozen=True)
class MeasuredArm:
    """An arm's scores and calibrations, by seed."""

    arm: Arm
    scores: Sequence[ClassifierScores]
    calibrations: Sequence[Calibration]

    @property
    def main_way(self) -> Way:
        return self.scores[0].main_way

    def only_main_way(self) -> MeasuredArm:
        """Without the scores that predictions are not made from: with many labels they take gigabytes."""
        kept: set[Way] = {self.main_way, "direct"} if answers_twice(self.arm) else {self.main_way}
        return replace(self, scores=[_only(scores, kept) for scores in self.scores])


def _only(scores: ClassifierScores, ways: Container[Way]) -> ClassifierScores:
    test = {way: scored for way, scored in scores.test.items() if way in ways}
    return replace(scores, validation={}, test=test, chains=())


def calibrate(
    scores: ClassifierScores, rows: EvaluationRows, wanted_accuracy: float | None, samples: int = 1
) -> Calibration:
    """Fit on the validation rows: a temperature for each way of scoring, the confidence below which a reasoning pays
    off, and for each mode the confidence from which answers reach the wanted accuracy. `samples` are the chains over
    which `sampled` was averaged, if it was. With fewer than 20 rows nothing is fitted, and if an accuracy is wanted,
    the classifier abstains on every text. Copies of training rows count nowhere: memorised rows are confident and
    correct, and a threshold fitted on them was missed on other rows in up to 86 % of simulations."""
    truth = rows.validation
    if len(truth) < FEWEST_TO_CALIBRATE:
        modes: tuple[AnswerMode, ...] = get_args(AnswerMode)
        none = None if wanted_accuracy is None else dict.fromkeys(modes, AnswerThreshold(NO_ANSWER, 0))
        return Calibration(answer_from=none, wanted=wanted_accuracy, samples=samples if samples > 1 else 0)
    log_probabilities = {way: rows.held_out(scored.log_probabilities) for way, scored in scores.validation.items()}
    shares = None if rows.shares is None else rows.shares[0]
    fitted = {way: fit_temperature(values, truth, shares) for way, values in log_probabilities.items()}
    calibration = Calibration({**Calibration().temperature, **fitted}, len(truth))
    probabilities = {way: calibration.probabilities(values, way) for way, values in log_probabilities.items()}
    correct = {way: values.argmax(1) == truth for way, values in probabilities.items()}
    confidence = {way: values.max(1) for way, values in probabilities.items()}
    reason_below = None
    answers: dict[AnswerMode, tuple[FloatArray, NDArray[np.bool_]]] = {
        way: (confidence[way], correct[way]) for way in probabilities
    }
    if scores.main_way != "direct" and "direct" in probabilities:
        sure, right = confidence["direct"], correct["direct"]
        reason_below = fit_reason_below(sure, right, correct[scores.main_way])
        reasons = sure < reason_below
        answers["auto"] = (
            np.where(reasons, confidence[scores.main_way], sure),
            np.where(reasons, correct[scores.main_way], right),
        )
    thresholds = None
    if wanted_accuracy is not None:
        thresholds = {
            # the same rows chose `reason_below`: simulated thresholds miss in up to 8 % at the whole risk, 5 % at half
            mode: fit_answer_from(*answer, wanted_accuracy, RISK / 2 if mode == "auto" else RISK)
            for mode, answer in answers.items()
        }
    given = {way: _given_from(values, rows) for way, values in probabilities.items()} if rows.single else {}
    return replace(
        calibration,
        reason_below=reason_below,
        answer_from=thresholds,
        given_from=given,
        wanted=wanted_accuracy,
        samples=samples if "sampled" in probabilities else 0,
    )


def _given_from(probabilities: FloatArray, rows: EvaluationRows) -> dict[str, float]:
    """The threshold of each label, where a text may have several."""
    thresholds = fit_thresholds(label_probabilities(probabilities, rows.members), rows.members[rows.validation])
    return dict(zip(rows.single, thresholds.tolist(), strict=True))
