"""The lines of a comparison: arms, controls and baselines, from their probabilities to all their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from rir_mlx.evaluation.cost_curve import cost_curve
from rir_mlx.evaluation.schema import (
    AnsweredRows,
    CalibrationMetrics,
    CalibrationResult,
    Changes,
    EntryKind,
    EntryResult,
    InferenceCost,
    LabelMass,
    Metrics,
    Outcome,
    Reliability,
    SeedMetrics,
    SetMetrics,
    SeveralLabels,
)
from rir_mlx.evaluation.scores import FEWEST_TO_CALIBRATE, EvaluationRows, MeasuredArm
from rir_mlx.prompting.prompts import answers_twice
from rir_mlx.statistics import metrics
from rir_mlx.statistics.calibration import NO_ANSWER, at_bound
from rir_mlx.statistics.intervals import FloatArray, share_interval
from rir_mlx.statistics.paired_tests import compare
from rir_mlx.statistics.several_labels import EVEN, answered_sets, per_label, set_intervals
from rir_mlx.types import CONTROLS, AnswerMode, Way

DESCRIPTIONS = {
    "qa": "label only",
    "qra": "reasoning, then label",
    "qar": "label, then reasoning",
    "qarqa": "label, reasoning, label again",
    "curriculum": "reasoning dropped in training, then label",
    "multitask": "label or reasoning, by two prompts",
    "qra-scrambled": "control: reasonings of other rows",
    "qra-words": "control: words of the reasoning shuffled",
    "majority": "the most frequent label",
    "tf-idf": "TF-IDF with logistic regression",
    "untuned": "the base model, not trained",
    "embedding": "a sentence encoder with logistic regression",
    "encoder": "a fine-tuned encoder",
}


@dataclass(frozen=True)
class EntryPredictions:
    """The probabilities of an entry for the test rows, [seeds, rows, labels].

    probabilistic  False if they are only predicted labels, 0 or 1
    thresholds     [seeds, single labels] from which probability on a label is given, where a text may have several;
                   None if none were fitted
    abstains       whether the first seed's classifier withholds every label, for want of a threshold
    fields         further fields of the entry's `EntryResult`, which only arms have
    """

    name: str
    kind: EntryKind
    probabilities: FloatArray
    seeds: Sequence[int] = (0,)
    probabilistic: bool = True
    thresholds: FloatArray | None = None
    abstains: bool = False
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def validation_accuracy(self) -> float | None:
        found: float | None = self.fields.get("validation_accuracy")
        return found

    @property
    def is_reasoning_arm(self) -> bool:
        return self.kind == "arm" and self.name != "qa"


def arm_predictions(measured: MeasuredArm, seeds: Sequence[int], rows: EvaluationRows) -> EntryPredictions:
    """An arm's calibrated probabilities for the test rows, and the measurements that only arms have."""
    way, scores = measured.main_way, measured.scores
    before = np.stack([np.exp(seed.test[way].log_probabilities) for seed in scores])
    pairs = zip(scores, measured.calibrations, strict=True)
    after = np.stack([fitted.probabilities(seed.test[way].log_probabilities, way) for seed, fitted in pairs])
    validation = [rows.held_out(seed.validation[way].scores).argmax(1) == rows.validation for seed in scores]
    mass = np.concatenate([seed.test[way].mass for seed in scores])
    fields: dict[str, Any] = {
        "validation_accuracy": float(np.mean(validation)) if len(rows.validation) else None,
        "cost": InferenceCost(
            tokens_generated=float(np.mean([seed.test[way].tokens for seed in scores])),
            seconds=float(np.mean([seed.seconds[way] for seed in scores])),
        ),
        "label_mass": LabelMass(
            mean=float(mass.mean()), p5=float(np.quantile(mass, 0.05)), p50=float(np.quantile(mass, 0.5))
        ),
        "faithfulness": scores[0].faithfulness,
        "changes": changes(measured, rows) if answers_twice(measured.arm) else None,
        "trimmed": int(np.sum(np.array(scores[0].test[way].trimmed) > 0)),
        "cost_curve": cost_curve(measured, rows) if way != "direct" else None,
    }
    if len(rows.validation) >= FEWEST_TO_CALIBRATE:
        fields |= _calibration_fields(measured, rows, before, after)
    kind: EntryKind = "control" if measured.arm in CONTROLS else "arm"
    thresholds = np.stack([fitted.thresholds(way, rows.single) for fitted in measured.calibrations])
    answer = (measured.calibrations[0].answer_from or {}).get(way)
    abstains = answer is not None and answer.confidence == NO_ANSWER
    return EntryPredictions(
        measured.arm, kind, after, list(seeds), thresholds=thresholds, abstains=abstains, fields=fields
    )


def changes(measured: MeasuredArm, rows: EvaluationRows) -> Changes:
    """What the reasoning of an arm that answers twice changed, on the rows that comparisons use."""
    keep, truth = rows.compared, rows.test[rows.compared]
    first, second = (
        np.exp(np.stack([seed.test[way].log_probabilities[keep] for seed in measured.scores]))
        for way in ("direct", measured.main_way)
    )
    before, after = first.argmax(-1), second.argmax(-1)
    was_right, is_right = before == truth, after == truth

    def outcome(hits: NDArray[np.bool_]) -> Outcome:
        return Outcome(rows=int(hits.sum()), share=share_interval(hits))

    return Changes(
        first_accuracy=share_interval(was_right),
        corrected=outcome(~was_right & is_right),
        spoiled=outcome(was_right & ~is_right),
        kept_right=outcome(was_right & is_right),
        kept_wrong=outcome(~was_right & (before == after)),
        wrong_otherwise=outcome(~was_right & ~is_right & (before != after)),
        against_first=compare((f"{measured.arm} first", first), (measured.arm, second), truth),
    )


def _calibration_fields(
    measured: MeasuredArm, rows: EvaluationRows, before: FloatArray, after: FloatArray
) -> dict[str, Any]:
    calibrations, truth = measured.calibrations, rows.test
    thresholds = [(fitted.answer_from or {}).get(measured.main_way) for fitted in calibrations]
    return {
        "calibration": CalibrationResult(
            rows=calibrations[0].rows,
            temperature=[fitted.temperature[measured.main_way] for fitted in calibrations],
            at_bounds=[
                way for way in get_args(Way) if any(at_bound(fitted.temperature[way]) for fitted in calibrations)
            ],
            reason_below=[fitted.reason_below for fitted in calibrations],
            answer_from=[threshold.confidence if threshold else None for threshold in thresholds],
            answered_rows=[threshold.rows if threshold else None for threshold in thresholds],
            wanted=calibrations[0].wanted,
            answered=_answered(measured, rows),
            before=_calibration_metrics(rows, before),
            after=_calibration_metrics(rows, after),
        ),
        "reliability": Reliability(before=metrics.reliability(truth, before), after=metrics.reliability(truth, after)),
    }


def _answered(measured: MeasuredArm, rows: EvaluationRows) -> list[AnsweredRows]:
    """What the first seed's thresholds answer of the rows that comparisons use."""
    scores, fitted, truth = measured.scores[0], measured.calibrations[0], rows.test[rows.compared]
    confidence, correct = dict[AnswerMode, FloatArray](), dict[AnswerMode, NDArray[np.bool_]]()
    for way, scored in scores.test.items():
        probabilities = fitted.probabilities(scored.log_probabilities[rows.compared], way)
        confidence[way], correct[way] = probabilities.max(1), probabilities.argmax(1) == truth
    if fitted.reason_below is not None:
        reasons, main = confidence["direct"] < fitted.reason_below, scores.main_way
        confidence["auto"] = np.where(reasons, confidence[main], confidence["direct"])
        correct["auto"] = np.where(reasons, correct[main], correct["direct"])
    found = list[AnsweredRows]()
    for mode, at in (fitted.answer_from or {}).items():
        given = confidence[mode] >= at.confidence
        share = float(given.mean()) if len(given) else 0.0
        accuracy = share_interval(correct[mode][given][None]) if given.any() else None
        row = AnsweredRows(mode=mode, threshold=at.confidence, validation_rows=at.rows, share=share, accuracy=accuracy)
        found.append(row)
    return found


def _calibration_metrics(rows: EvaluationRows, probabilities: FloatArray) -> CalibrationMetrics:
    shares = None if rows.shares is None else rows.shares[1]
    found = metrics.metrics_by_seed(rows.test, probabilities, shares=shares)
    return CalibrationMetrics(**{name: float(np.mean(found[name] or 0.0)) for name in metrics.PROBABILITY_METRICS})


def entry_result(entry: EntryPredictions, rows: EvaluationRows) -> EntryResult:
    """An entry with all its metrics, not yet compared with others."""
    truth, probabilities, probabilistic = rows.test, entry.probabilities, entry.probabilistic
    no_log_loss = {"log_loss": None} if _never_gives_a_label(entry, rows) else {}
    some_are_clean = 0 < rows.clean.sum() < len(truth)
    shares = None if rows.shares is None else rows.shares[1]

    def intervals(keep: NDArray[np.bool_]) -> Metrics:
        own = None if shares is None else shares[keep]
        found = metrics.metric_intervals(truth[keep], probabilities[:, keep], probabilistic=probabilistic, shares=own)
        return Metrics.model_validate(found | no_log_loss)

    found = several_labels(entry, rows) if rows.single else {}
    return EntryResult(
        name=entry.name,
        kind=entry.kind,
        description=DESCRIPTIONS[entry.name],
        seeds=list(entry.seeds),
        metrics=intervals(np.ones(len(truth), dtype=np.bool_)),
        by_seed=SeedMetrics.model_validate(
            metrics.metrics_by_seed(truth, probabilities, probabilistic=probabilistic, shares=shares) | no_log_loss
        ),
        cleaned=intervals(rows.clean) if some_are_clean else None,
        risk_coverage=metrics.risk_coverage(truth, probabilities) if probabilistic else None,
        **(found or _by_label(truth, probabilities, rows)),
        **entry.fields,
    )


def _never_gives_a_label(entry: EntryPredictions, rows: EvaluationRows) -> bool:
    """Whether a baseline gives none of its probability to a label, or combination, that test rows have or have a share
    of: no training row has it, or none as its main label. What its log-loss says then is what a probability of 0 is
    taken for."""
    if entry.kind != "baseline":
        return False
    never = entry.probabilities.max(axis=(0, 1), initial=0.0) == 0
    return bool(never[rows.test].any() or (rows.shares is not None and np.any(rows.shares[1][:, never] > 0)))


def _by_label(truth: NDArray[np.int64], probabilities: FloatArray, rows: EvaluationRows) -> dict[str, Any]:
    return {
        "per_class": metrics.per_class(truth, probabilities, rows.labels),
        "confusion": metrics.confusion(truth, probabilities),
    }


def several_labels(entry: EntryPredictions, rows: EvaluationRows) -> dict[str, Any]:
    """What is measured of single labels, where a text may have several. An entry without fitted thresholds gives those
    that are likelier than not."""
    members, truth = rows.members, rows.members[rows.test]
    seeds = len(entry.probabilities)
    even = np.full((seeds, len(rows.single)), EVEN)
    thresholds = even if entry.thresholds is None else entry.thresholds
    of_seeds = zip(entry.probabilities, thresholds, strict=True)
    given = np.stack([answered_sets(probabilities, members, own, rows.alone) for probabilities, own in of_seeds])
    likeliest = members[entry.probabilities.argmax(-1)]
    return {
        "several": SeveralLabels(
            by_threshold=SetMetrics(**set_intervals(truth, given)),
            likeliest=SetMetrics(**set_intervals(truth, likeliest)),
            thresholds=thresholds.tolist(),
        ),
        "per_class": per_label(truth, given, rows.single),
    }
