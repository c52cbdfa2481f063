"""Paired tests: whether two classifiers differ in accuracy on the same rows.

Knows neither models nor files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rir_mlx.statistics.metrics import (
    FloatArray,
    IndexArray,
    Interval,
    bootstrap_means,
    correct,
)

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


def compare(first: tuple[str, FloatArray], second: tuple[str, FloatArray], truth: IndexArray) -> PairedComparison:
    """Paired comparison of two (name, probabilities [seeds, n, labels]) on the same rows, seeds paired by position;
    a classifier with one seed is paired with every seed of the other. Raises ValueError where the numbers of
    seeds differ otherwise."""
    correct_first, correct_second = correct(truth, first[1]), correct(truth, second[1])
    if len(correct_first) != len(correct_second) and min(len(correct_first), len(correct_second)) > 1:
        raise ValueError(
            f"{first[0]} has {len(correct_first)} seeds and {second[0]} {len(correct_second)}; expected as many, or one"
        )
    gained, lost = correct_second & ~correct_first, correct_first & ~correct_second
    difference = bootstrap_means((gained.astype(np.float64) - lost)[None])[0]
    pairs = zip(gained.sum(1).tolist(), lost.sum(1).tolist(), strict=True)
    return PairedComparison(
        first[0], second[0], len(truth), difference, tuple(_seed_comparison(*pair, len(truth)) for pair in pairs)
    )


def _seed_comparison(gained: int, lost: int, rows: int) -> SeedComparison:
    from scipy.stats import binomtest

    p_value = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return SeedComparison((gained - lost) / rows if rows else float("nan"), gained, lost, p_value)


def is_better(comparison: PairedComparison) -> bool:
    """Whether the second classifier is better than the first: the interval lies above 0, and there are enough
    discordant rows."""
    return comparison.difference.low > 0 and enough_discordant(comparison)


def enough_discordant(comparison: PairedComparison) -> bool:
    """Whether in some seed the two classifiers differ on `MIN_DISCORDANT` rows or more. On fewer no exact test could
    tell them apart, yet a bootstrap, which knows only these rows, finds no doubt in four rows of one kind."""
    return max(seed.gained + seed.lost for seed in comparison.by_seed) >= MIN_DISCORDANT
