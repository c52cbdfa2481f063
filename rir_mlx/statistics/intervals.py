"""Intervals of shares, differences and metrics over rows and training seeds.

With one seed an interval covers the draw of the test rows. With several it also covers the draw of the seeds, as few as
they are: the rows and seeds are crossed random effects (Obuchowski and Rockette 1995; there the seeds are readers and
the rows are cases). The part of the variance that the seeds show gets a t-quantile of as many degrees of freedom as
there are seeds less one, the part of the rows a normal quantile, each weighted by its part (Cochran 1964, Biometrics
20:191). A common t-quantile with estimated degrees of freedom (Hillis 2007) is narrower, and covers too seldom with two
or three seeds (`benchmarks/verdict.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
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
    100 to 100 %. With several it is `crossed_interval`, and reaches at least as far as Wilson's of the mean share, for
    as many rows as give a share the variance that rows give this mean: `n` of them if the seeds are alike, more if
    they err on different rows. Without rows it is NaN."""
    seeds, rows = hits.shape
    if rows == 0:
        return UNDEFINED
    share = float(hits.mean())
    if seeds == 1 or share in (0.0, 1.0):
        return wilson_interval(share, rows, level)
    values = np.asarray(hits, dtype=np.float64)
    if rows == 1:  # one row says nothing of how rows vary
        return Interval(share, 0.0, 1.0)
    crossed = crossed_interval(values.mean(1), np.cov(values) / rows, (0.0, 1.0), level)
    variance, of_one = float(values.mean(0).var()), share * (1 - share)
    alike = rows * (of_one / variance if variance * seeds > of_one else seeds)
    of_rows = wilson_interval(share, alike, level)
    return Interval(share, min(crossed.low, of_rows.low), max(crossed.high, of_rows.high))


def difference_interval(differences: NDArray[Any], level: float = LEVEL) -> Interval:
    """The mean of `differences` [seeds, n], each -1, 0 or 1: what the second of two classifiers gains and loses on the
    same rows.

    With one seed, or where the classifiers differ on no row, it is the interval of Agresti and Min (2005, Statistics in
    Medicine 24:729), which adds half a row to each cell of the table. Without rows it is NaN."""
    seeds, rows = differences.shape
    if rows == 0:
        return UNDEFINED
    if seeds == 1 or not differences.any():
        return rows_interval(differences, level)
    values = np.asarray(differences, dtype=np.float64)
    if rows == 1:  # one row says nothing of how rows vary
        return Interval(float(values.mean()), -1.0, 1.0)
    return crossed_interval(values.mean(1), np.cov(values) / rows, (-1.0, 1.0), level)


def rows_interval(differences: NDArray[Any], level: float = LEVEL) -> Interval:
    """The mean of `differences` [seeds, n] with an interval over the draw of rows alone: of these classifiers as they
    are trained, not of the way of training.

    It is the interval of Agresti and Min, on each row's mean over the seeds."""
    of_rows = np.asarray(differences, dtype=np.float64).mean(0)
    rows, total = len(of_rows), float(of_rows.sum())
    if rows == 0:
        return UNDEFINED
    center, squares = total / (rows + 2), float(of_rows @ of_rows) + 1
    spread = normal_quantile(level) * math.sqrt(squares - total**2 / (rows + 2)) / (rows + 2)
    return Interval(float(of_rows.mean()), max(-1.0, center - spread), min(1.0, center + spread))


def crossed_interval(
    values: FloatArray, covariance: FloatArray, bounds: tuple[float, float], level: float = LEVEL
) -> Interval:
    """The mean of a metric's `values` [seeds] with an interval over rows and seeds, two seeds or more.

    `covariance` [seeds, seeds] is that of the values over samples of rows. Its mean off the diagonal is what the rows
    contribute to all seeds alike. The interval is at least as wide as one over the rows alone: two or three seeds may
    be close by chance. `bounds` limit the metric."""
    own, shared = row_variances(covariance)
    spread = crossed_spread(float(values.var(ddof=1)), (own, shared), len(values), level)
    value = float(values.mean())
    return Interval(value, max(bounds[0], value - float(spread)), min(bounds[1], value + float(spread)))


def row_variances(covariance: FloatArray) -> tuple[float, float]:
    """From [seeds, seeds], the variance that the draw of rows gives the value of one seed, and the part of it that all
    seeds share."""
    seeds = len(covariance)
    own = float(np.trace(covariance)) / seeds
    shared = max(0.0, (float(covariance.sum()) - own * seeds) / (seeds * (seeds - 1)))
    return own, min(own, shared)


def crossed_spread(between: Any, rows: tuple[float, float], seeds: int, level: float = LEVEL) -> Any:
    """Half the width of `crossed_interval`, for the variance `between` the seeds' values (a number or an array) and
    `row_variances`."""
    from scipy.special import stdtrit  # `scipy.stats` takes half a second to import, and its t.ppf 50 times as long

    own, shared = rows
    by_seeds = np.asarray(between, dtype=np.float64) / seeds
    quantile, few = normal_quantile(level), float(stdtrit(seeds - 1, (1 + level) / 2))
    total = by_seeds + shared
    weighted = np.divide(few * by_seeds + quantile * shared, np.sqrt(total), out=np.zeros_like(total), where=total > 0)
    return np.maximum(weighted, quantile * math.sqrt((own - shared) / seeds + shared))


def percentile_interval(value: float, draws: FloatArray, level: float = LEVEL) -> Interval:
    """The percentile-bootstrap interval of a metric with one seed, from its `draws` over resampled rows."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def resampled_sums(columns: Any, seed: int = 0) -> FloatArray:
    """Sums of `columns` [columns, n], dense or sparse, over 2000 samples of n rows with replacement: [2000, columns].

    A sample is a vector of how often each row was drawn, so its sums are one matrix product. Samples are drawn in
    batches, so that a hundred thousand rows need megabytes. The same seed draws the same rows for any columns; those of
    up to 4,000 rows are kept, for the next arm of an evaluation is measured on the same ones."""
    count, rows = columns.shape
    at_once = max(1, min(RESAMPLES, _MAX_NUMBERS // max(1, rows)))
    batches = [_kept_samples(rows, seed)] if at_once == RESAMPLES else _samples(rows, seed, at_once)
    sums, start = np.empty((RESAMPLES, count)), 0
    for drawn in batches:
        sums[start : start + drawn.shape[1]] = (columns @ drawn.astype(np.float64)).T
        start += drawn.shape[1]
    return sums


@lru_cache(maxsize=2)  # all test rows, and those that are clean
def _kept_samples(rows: int, seed: int) -> NDArray[np.uint8]:
    """The counts of all samples, as bytes: no row is drawn more than 255 times, where it is expected once."""
    return next(_samples(rows, seed, RESAMPLES)).astype(np.uint8)


def _samples(rows: int, seed: int, at_once: int) -> Iterator[NDArray[np.int32]]:
    """[rows, samples] how often each row was drawn, of so many samples at a time."""
    draw = np.random.default_rng(seed)
    together = max(1, _ROWS_COUNTED_AT_ONCE // max(1, rows))
    for start in range(0, RESAMPLES, at_once):
        drawn = np.empty((min(at_once, RESAMPLES - start), rows), dtype=np.int32)
        for samples in np.split(drawn, range(together, len(drawn), together)):
            cells = draw.integers(0, rows, samples.shape, dtype=np.int32) + rows * np.arange(len(samples))[:, None]
            samples[:] = np.bincount(cells.ravel(), minlength=samples.size).reshape(samples.shape)
        yield np.ascontiguousarray(drawn.T)


def wilson_interval(share: float, rows: float, level: float = LEVEL) -> Interval:
    """Wilson's interval (1927) of a share of so many rows, at least one."""
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
