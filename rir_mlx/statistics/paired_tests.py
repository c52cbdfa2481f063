"""Whether two classifiers differ on the same rows, said in figures and in a sentence, and which rows are fit to ask.

Knows neither models nor files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rir_mlx.statistics.metrics import (
    Floats,
    Indices,
    Interval,
    bootstrap_means,
    right,
)

# With five rows on which two classifiers differ, all to one side, the exact test still gives p = 0.0625.
_TELLING = 6


@dataclass(frozen=True)
class SeedComparison:
    """One seed of each: `difference` is accuracy of the second minus the first; `gained` rows only the second got
    right, `lost` only the first; `p_value` is McNemar's exact two-sided test of gained against lost."""

    difference: float
    gained: int
    lost: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same rows. `difference` is accuracy of the second minus the first, the mean over seeds,
    with an interval over rows and seeds."""

    first: str
    second: str
    rows: int
    difference: Interval
    by_seed: tuple[SeedComparison, ...]


def compare(first: tuple[str, Floats], second: tuple[str, Floats], truth: Indices) -> Comparison:
    """Paired comparison of two (name, probabilities [seeds, n, labels]) on the same rows, seeds paired by position;
    a classifier with one seed is paired with every seed of the other. Raises ValueError where neither fits."""
    right_first, right_second = right(truth, first[1]), right(truth, second[1])
    if len(right_first) != len(right_second) and min(len(right_first), len(right_second)) > 1:
        raise ValueError(
            f"{first[0]} has {len(right_first)} seeds and {second[0]} {len(right_second)}; expected as many, or one"
        )
    gained, lost = right_second & ~right_first, right_first & ~right_second
    difference = bootstrap_means((gained.astype(np.float64) - lost)[None])[0]
    pairs = zip(gained.sum(1).tolist(), lost.sum(1).tolist(), strict=True)
    return Comparison(
        first[0], second[0], len(truth), difference, tuple(_seed_comparison(*pair, len(truth)) for pair in pairs)
    )


def _seed_comparison(gained: int, lost: int, rows: int) -> SeedComparison:
    from scipy.stats import binomtest

    p_value = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return SeedComparison((gained - lost) / rows if rows else float("nan"), gained, lost, p_value)


def beats(comparison: Comparison) -> bool:
    """Whether the second is better than the first: the interval lies above 0, and in some seed the two differ on at
    least six rows. On fewer no exact test could tell them apart, but a bootstrap, which knows no rows but these, would
    take four rows of one kind for certain."""
    return comparison.difference.low > 0 and _telling(comparison)


def _telling(comparison: Comparison) -> bool:
    return max(seed.gained + seed.lost for seed in comparison.by_seed) >= _TELLING


def verdict(comparison: Comparison, *, chosen_among: int = 1) -> str:
    """The answer to "did reasoning help here?" in plain sentences. `chosen_among` says among how many arms the second
    was chosen, which has to happen on validation rows."""
    if comparison.rows == 0:
        return f"There are no test rows, so nothing says whether reasoning ({comparison.second}) helped or hurt."
    change, seeds = comparison.difference, len(comparison.by_seed)
    rows = "1 test row" if comparison.rows == 1 else f"{comparison.rows:,} test rows"
    parts = [
        f"Reasoning ({comparison.second}) changed accuracy by {100 * change.value:+.1f} points against "
        f"{comparison.first} (95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f}, "
        f"{rows}, {'one seed' if seeds == 1 else f'{seeds} seeds'}; {_tests(comparison)})."
    ]
    if chosen_among > 1:
        parts.append(f"{comparison.second} was chosen among {chosen_among} arms on validation rows.")
    parts.append(_finding(comparison))
    if seeds == 1:
        parts.append("One seed is one draw: another may come out otherwise.")
    return " ".join(parts)


def _tests(comparison: Comparison) -> str:
    """McNemar's p of every seed, or of many seeds the median and the range."""
    values = sorted(seed.p_value for seed in comparison.by_seed)
    if len(values) <= 5:
        return "McNemar p = " + ", ".join(f"{seed.p_value:.2g}" for seed in comparison.by_seed)
    return f"McNemar p = {np.median(values):.2g} in the median, {values[0]:.2g} to {values[-1]:.2g}"


def _finding(comparison: Comparison) -> str:
    change = comparison.difference
    if change.low <= 0 <= change.high:
        return "The interval holds 0, so this is no evidence that reasoning helped or hurt."
    if not _telling(comparison):
        return (
            f"In no seed do the two differ on {_TELLING} rows or more, so this is no evidence that reasoning helped "
            "or hurt."
        )
    return f"That is evidence that reasoning {'helped' if change.low > 0 else 'hurt'} here."
