"""Accuracy against tokens generated: what reasoning buys, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rir_mlx.classification.scores import LabelScores
from rir_mlx.evaluation.schema import CostPoint
from rir_mlx.evaluation.scores import EvaluationRows, MeasuredArm
from rir_mlx.statistics.calibration import auto_curve
from rir_mlx.statistics.intervals import FloatArray, share_interval
from rir_mlx.types import Way

_CHAIN_COUNTS = (2, 4, 8, 16, 32)


def cost_curve(measured: MeasuredArm, rows: EvaluationRows) -> list[CostPoint]:
    """Means over seeds: never reasoning, always, below the fitted threshold, below increasing thresholds, and averaged
    over more and more drawn reasonings."""
    correct = {way: _correct([scores.test[way] for scores in measured.scores], rows) for way in _ways()}
    tokens = np.array([scores.test["reasoned"].tokens for scores in measured.scores], dtype=np.float64)
    confidence = _probabilities(measured, "direct")
    points = [_point("never", correct["direct"], 0 * tokens), _point("always", correct["reasoned"], tokens, 1.0)]
    thresholds = [calibration.reason_below for calibration in measured.calibrations]
    if None not in thresholds:
        doubtful = confidence.max(-1) < np.array(thresholds, dtype=np.float64)[:, None]
        mixed = np.where(doubtful, correct["reasoned"], correct["direct"])
        points.append(_point("auto", mixed, tokens * doubtful, float(doubtful.mean())))
    for auto in auto_curve(confidence, _probabilities(measured, "reasoned"), rows.test, tokens):
        points.append(
            CostPoint(
                reason="auto",
                threshold=auto.threshold,
                share_reasoned=auto.share_reasoned,
                tokens_generated=auto.tokens_generated,
                accuracy=auto.accuracy,
            )
        )
    return points + _sampled_points(measured, rows)


def _sampled_points(measured: MeasuredArm, rows: EvaluationRows) -> list[CostPoint]:
    most = min(len(scores.chains) for scores in measured.scores)
    points = []
    for samples in sorted({count for count in (*_CHAIN_COUNTS, most) if 1 < count <= most}):
        averaged = [LabelScores.averaged(scores.chains[:samples]) for scores in measured.scores]
        tokens = np.array([scored.tokens for scored in averaged], dtype=np.float64)
        points.append(_point("always", _correct(averaged, rows), tokens, 1.0, samples))
    return points


def _ways() -> tuple[Way, Way]:
    return "direct", "reasoned"


def _correct(scored: Sequence[LabelScores], rows: EvaluationRows) -> NDArray[np.bool_]:
    """[seeds, rows]"""
    return np.stack([seed.scores.argmax(1) == rows.test for seed in scored])


def _probabilities(measured: MeasuredArm, way: Way) -> FloatArray:
    """[seeds, rows, labels], calibrated."""
    pairs = zip(measured.scores, measured.calibrations, strict=True)
    return np.stack([fitted.probabilities(scores.test[way].log_probabilities, way) for scores, fitted in pairs])


def _point(
    reason: Literal["never", "always", "auto"],
    correct: NDArray[np.bool_],
    tokens: FloatArray,
    share_reasoned: float = 0.0,
    samples: int = 1,
) -> CostPoint:
    return CostPoint(
        reason=reason,
        samples=samples,
        share_reasoned=share_reasoned,
        tokens_generated=float(tokens.mean()),
        accuracy=share_interval(correct),
    )
