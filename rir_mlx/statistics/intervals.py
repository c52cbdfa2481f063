"""Intervals of shares, differences and metrics over rows and training seeds.

With one seed an interval covers the draw of the test rows. With several it also covers the draw of the seeds, as few as
they are: the rows and seeds are crossed random effects, and the interval takes its t-quantile from the few degrees of
freedom that the seeds leave (Obuchowski and Rockette 1995, with the degrees of freedom of Hillis 2007, Statistics in
Medicine 26:596; there the seeds are readers and the rows are cases).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 2000
_MAX_NUMBERS = 8_000_000  # held at once while resampling: 64 MB
_ROWS_COUNTED_AT_ONCE = 100_000  # one numpy call per sample would cost more than the counting

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


UNDEFINED = Interval(float("nan"), float("nan"), float("nan"))


def share_interval(hits: NDArray[Any], level: float = LEVEL) -> Interval:
    """The share of True in `hits` [seeds, n], such as an accuracy.

    With one seed, or where all rows are hits or none is, it is Wilson's interval (1927): 10 of 10 is 72 to 100 %, not
    100 to 100 %. Without rows it is NaN."""
    seeds, rows = hits.shape
    if rows == 0:
        return UNDEFINED
    share = float(hits.mean())
    if seeds == 1 or share in (0.0, 1.0):
        return _wilson(share, rows, level)
    values = np.asarray(hits, dtype=np.float64)
    return crossed_interval(values.mean(1), np.cov(values) / rows, (0.0, 1.0), level)


def difference_interval(differences: NDArray[Any], level: float = LEVEL) -> Interval:
    """The mean of `differences` [seeds, n], each -1, 0 or 1: what the second of two classifiers gains and loses on the
    same rows.

    With one seed, or where the classifiers differ on no row, it is the interval of Agresti and Min (2005, Statistics in
    Medicine 24:729), which adds half a row to each cell of the table. Without rows it is NaN."""
    seeds, rows = differences.shape
    if rows == 0:
        return UNDEFINED
    if seeds == 1 or not differences.any():
        gained, lost = float((differences[0] > 0).sum()) + 0.5, float((differences[0] < 0).sum()) + 0.5
        center = (gained - lost) / (rows + 2)
        spread = normal_quantile(level) * math.sqrt(gained + lost - (gained - lost) ** 2 / (rows + 2)) / (rows + 2)
        return Interval(float(differences.mean()), max(-1.0, center - spread), min(1.0, center + spread))
    values = np.asarray(differences, dtype=np.float64)
    if rows == 1:  # one row says nothing of how rows vary
        return Interval(float(values.mean()), -1.0, 1.0)
    return crossed_interval(values.mean(1), np.cov(values) / rows, (-1.0, 1.0), level)


def crossed_interval(
    values: FloatArray, covariance: FloatArray, bounds: tuple[float, float], level: float = LEVEL
) -> Interval:
    """The mean of a metric's `values` [seeds] with an interval over rows and seeds, two seeds or more.

    `covariance` [seeds, seeds] is that of the values over samples of rows. Its mean off the diagonal is what the rows
    contribute to all seeds alike. The variance of the seeds is at least what the rows alone make of it: two or three
    seeds may be close by chance. `bounds` limit the metric."""
    from scipy.stats import t

    seeds = len(values)
    own = float(np.trace(covariance)) / seeds
    shared = max(0.0, (float(covariance.sum()) - own * seeds) / (seeds * (seeds - 1)))
    between = float(values.var(ddof=1))
    total = max(between, own - shared) + seeds * shared
    freedom = (between + seeds * shared) ** 2 / (between**2 / (seeds - 1)) if between > 1e-15 else math.inf
    quantile = float(t.ppf((1 + level) / 2, freedom)) if math.isfinite(freedom) else normal_quantile(level)
    spread, value = quantile * math.sqrt(total / seeds), float(values.mean())
    return Interval(value, max(bounds[0], value - spread), min(bounds[1], value + spread))


def percentile_interval(value: float, draws: FloatArray, level: float = LEVEL) -> Interval:
    """The percentile-bootstrap interval of a metric with one seed, from its `draws` over resampled rows."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def resampled_sums(columns: Any, seed: int = 0) -> FloatArray:
    """Sums of `columns` [columns, n], dense or sparse, over 2000 samples of n rows with replacement: [2000, columns].

    A sample is a vector of how often each row was drawn, so its sums are one matrix product. Samples are drawn in
    batches, so that a hundred thousand rows need megabytes. The same seed draws the same rows for any columns."""
    count, rows = columns.shape
    draw = np.random.default_rng(seed)
    sums = np.empty((RESAMPLES, count))
    at_once = max(1, min(RESAMPLES, _MAX_NUMBERS // max(1, rows)))
    together = max(1, _ROWS_COUNTED_AT_ONCE // max(1, rows))
    for start in range(0, RESAMPLES, at_once):
        drawn = np.empty((min(at_once, RESAMPLES - start), rows))
        for samples in np.split(drawn, range(together, len(drawn), together)):
            cells = draw.integers(0, rows, samples.shape, dtype=np.int32) + rows * np.arange(len(samples))[:, None]
            samples[:] = np.bincount(cells.ravel(), minlength=samples.size).reshape(samples.shape)
        sums[start : start + len(drawn)] = (columns @ np.ascontiguousarray(drawn.T)).T
    return sums


def _wilson(share: float, rows: int, level: float) -> Interval:
    quantile = normal_quantile(level)
    extra = quantile**2 / rows
    center = (share + extra / 2) / (1 + extra)
    spread = quantile * math.sqrt(share * (1 - share) / rows + extra / rows / 4) / (1 + extra)
    # at the edges rounding leaves 1e-17
    low, high = (0.0 if share == 0 else center - spread), (1.0 if share == 1 else center + spread)
    return Interval(share, max(0.0, low), min(1.0, high))


def normal_quantile(level: float = LEVEL) -> float:
    """How many standard deviations on either side hold that share of a normal distribution."""
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + level) / 2)
