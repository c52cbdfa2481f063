"""How far confidences are from the share of correct answers, without the error that noise alone would show."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rir_mlx.statistics.intervals import UNDEFINED, FloatArray, Interval, crossed_interval, normal_quantile

_GROUPS = 15


def calibration_error(correct: NDArray[np.bool_], confidence: FloatArray) -> tuple[Interval, list[float]]:
    """The root-mean-square calibration error with a 95 % interval over rows and seeds, and the value of each seed.

    `correct` and `confidence`, the top probability, are [seeds, n]. The rows of a seed are sorted by confidence into 15
    groups of equal size. A group's squared gap between mean confidence and share of correct answers is estimated
    without bias: the gap's variance is subtracted (Kumar, Liang and Ma 2019, arXiv:1909.10155; Bröcker 2012). So a
    perfectly calibrated classifier is at 0, where the plug-in estimate, such as the usual ECE, is always above. What is
    below 0 by chance counts as 0; there the interval covers more often than in 95 %. So it does with few rows: groups
    whose rows are all correct show no variance, and in the interval each group counts half a correct and half a wrong
    row more (Jeffreys). Several seeds are treated as if
    the draw of rows moved all of them alike. From one row nothing can be estimated: it is the row's own gap, from 0 to
    1. Without rows it is NaN."""
    seeds, rows = correct.shape
    if rows == 0:
        return UNDEFINED, [math.nan] * seeds
    if rows == 1:
        own = np.abs(correct[:, 0] - confidence[:, 0])
        return Interval(float(own.mean()), 0.0, 1.0), own.tolist()
    pairs = [_squared_error(*seed) for seed in zip(correct, confidence, strict=True)]
    squares, deviations = np.array(pairs).T
    if seeds > 1 and np.ptp(squares) > 0:
        found = crossed_interval(squares, np.outer(deviations, deviations), (0.0, 1.0))
    else:
        spread, value = normal_quantile() * float(deviations.mean()), float(squares.mean())
        found = Interval(value, value - spread, min(1.0, value + spread))
    low, value, high = (math.sqrt(max(0.0, square)) for square in (found.low, found.value, found.high))
    return Interval(value, low, high), np.sqrt(np.maximum(0.0, squares)).tolist()


def _squared_error(correct: NDArray[Any], confidence: FloatArray) -> tuple[float, float]:
    """An unbiased estimate of the mean squared gap of groups of rows, and its standard deviation."""
    order = np.argsort(confidence, kind="stable")
    gaps = correct[order].astype(np.float64) - confidence[order]
    groups = min(_GROUPS, len(gaps) // 2)
    sizes = len(gaps) // groups + (np.arange(groups) < len(gaps) % groups)
    starts = np.cumsum(sizes) - sizes
    means = np.add.reduceat(gaps, starts) / sizes
    variances = np.add.reduceat((gaps - np.repeat(means, sizes)) ** 2, starts) / (sizes - 1)
    squares = means**2 - variances / sizes
    shares = (np.add.reduceat(correct[order], starts, dtype=np.float64) + 0.5) / (sizes + 1)
    likely = np.maximum(variances, shares * (1 - shares))
    noise = 4 * np.maximum(0.0, squares) * likely / sizes + 2 * likely**2 / (sizes * (sizes - 1))
    weights = sizes / len(gaps)
    return float(weights @ squares), math.sqrt(float(weights**2 @ noise))
