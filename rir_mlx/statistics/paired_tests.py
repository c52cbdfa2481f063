"""Paired tests: whether two classifiers differ in accuracy on the same rows.

Knows neither models nor files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rir_mlx.statistics.intervals import (
    LEVEL,
    FloatArray,
    Interval,
    crossed_spread,
    difference_interval,
    normal_quantile,
)
from rir_mlx.statistics.metrics import IndexArray, correct

MIN_SEEDS = 3
"""Training seeds from which a comparison is about the way of training."""
FEWEST_TO_TELL_APART = 30
"""Test rows from which `detectable_difference` holds for one seed: with 20, what it gives is found in 65 % of runs, and
with 10 in 25 %."""
_POWER, _DISCORDANT, _SEED_DEVIATION = 0.8, 0.25, 0.02
"""What `detectable_difference` aims at and assumes."""
_QUANTILES = 2000
"""Points of the distribution of the seeds' variance over which a power is averaged."""
MIN_DISCORDANT = 6
"""With five discordant rows, all in favour of one classifier, McNemar's exact test still gives p = 0.0625."""


@dataclass(frozen=True)
class SeedComparison:
    """One seed of each classifier."""

    difference: float
    """Accuracy of the second classifier minus that of the first."""
    gained: int
    """Rows that only the second classifies correctly."""
    lost: int
    """Rows that only the first classifies correctly."""
    p_value: float
    """McNemar's exact two-sided test of gained against lost."""


@dataclass(frozen=True)
class PairedComparison:
    """Two classifiers on the same rows."""

    first: str
    """Name of the reference."""
    second: str
    rows: int
    difference: Interval
    """Accuracy of the second minus that of the first: the mean over seeds, with an interval over rows and seeds."""
    by_seed: tuple[SeedComparison, ...]
    compared: int = 1
    """Number of comparisons that the interval is corrected for (Bonferroni): it holds for all of them together."""

    @property
    def judges_training(self) -> bool:
        """Whether the comparison is about the two ways of training, not only about the classifiers that it holds. That
        needs three seeds or more."""
        return len(self.by_seed) >= MIN_SEEDS


def compare(
    first: tuple[str, FloatArray], second: tuple[str, FloatArray], truth: IndexArray, *, compared: int = 1
) -> PairedComparison:
    """Paired comparison of two (name, probabilities [seeds, n, labels]) on the same rows, seeds paired by position;
    a classifier with one seed is paired with every seed of the other. Raises ValueError if the numbers of
    seeds differ otherwise."""
    correct_first, correct_second = correct(truth, first[1]), correct(truth, second[1])
    if len(correct_first) != len(correct_second) and min(len(correct_first), len(correct_second)) > 1:
        raise ValueError(
            f"{first[0]} has {len(correct_first)} seeds and {second[0]} {len(correct_second)}; expected as many, or one"
        )
    gained, lost = correct_second & ~correct_first, correct_first & ~correct_second
    difference = difference_interval(gained.astype(np.int8) - lost.astype(np.int8), 1 - (1 - LEVEL) / compared)
    pairs = zip(gained.sum(1).tolist(), lost.sum(1).tolist(), strict=True)
    seeds = tuple(_seed_comparison(*pair, len(truth)) for pair in pairs)
    return PairedComparison(first[0], second[0], len(truth), difference, seeds, compared)


def detectable_difference(rows: int, seeds: int, *, compared: int = 1) -> float:
    """The smallest true difference in accuracy, a share, that a comparison on so many test rows finds significant in
    80 % of runs. From three seeds on it is one between ways of training, with fewer between two classifiers. Two seeds
    have so wide an interval that it takes a larger difference than with one.

    It assumes what is usual: two classifiers differ on 25 % of the rows, half of that variance is the same for all
    seeds, and the accuracy of seeds has a standard deviation of 2 points. How much the seeds of a run will seem to vary
    is itself uncertain: the power is the mean over the distribution of their variance. With fewer rows than
    `FEWEST_TO_TELL_APART` it is too small."""
    from scipy.optimize import brentq
    from scipy.special import gammaincinv, ndtr

    own = _DISCORDANT / rows
    level = 1 - (1 - LEVEL) / compared
    if seeds == 1:
        return (normal_quantile(level) + normal_quantile(2 * _POWER - 1)) * math.sqrt(own)
    shared, freedom = own / 2, seeds - 1
    between = 2 * _SEED_DEVIATION**2 + own - shared
    seen = between * 2 * gammaincinv(freedom / 2, (np.arange(_QUANTILES) + 0.5) / _QUANTILES) / freedom
    spreads, deviation = crossed_spread(seen, (own, shared), seeds, level), math.sqrt(between / seeds + shared)

    def missing(difference: float) -> float:
        return float(ndtr((difference - spreads) / deviation).mean()) - _POWER

    return float(brentq(missing, 0, float(spreads.max()) + 3 * deviation))


def _seed_comparison(gained: int, lost: int, rows: int) -> SeedComparison:
    return SeedComparison((gained - lost) / rows if rows else float("nan"), gained, lost, mcnemar(gained, lost))


def mcnemar(gained: int, lost: int) -> float:
    """The p-value of McNemar's exact two-sided test, from the rows that only the second and only the first classifies
    correctly."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def is_better(comparison: PairedComparison) -> bool:
    """Whether the second classifier is better than the first; with three seeds or more: whether its way of training
    is."""
    return comparison.difference.low > 0 and is_significant(comparison)


def is_significant(comparison: PairedComparison) -> bool:
    """Whether the difference is more than chance: the interval excludes 0; with one seed McNemar's exact test agrees;
    with several, in some seed the two differ on `MIN_DISCORDANT` rows or more."""
    if comparison.difference.low <= 0 <= comparison.difference.high:
        return False
    if len(comparison.by_seed) == 1:
        return comparison.by_seed[0].p_value < (1 - LEVEL) / comparison.compared
    return max(seed.gained + seed.lost for seed in comparison.by_seed) >= MIN_DISCORDANT
