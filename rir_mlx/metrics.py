"""How good a classifier is, with intervals, and whether two of them differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % percentile-bootstrap interval."""

    value: float
    low: float
    high: float


def bootstrap_mean(values: NDArray[np.float64], seed: int = 0) -> Interval:
    """The mean of [n] values, and an interval from resampling them with replacement."""
    if len(values) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    means = np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def accuracy(truth: Sequence[str], predicted: Sequence[str]) -> Interval:
    return bootstrap_mean(_right(truth, predicted))


def macro_f1(truth: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(truth, predicted, labels=list(labels), average="macro", zero_division=0))


def majority(train_labels: Sequence[str]) -> str:
    """The label that the training rows hold most often; of equals, the first in the alphabet."""
    counts = Counter(train_labels)
    return min(counts, key=lambda label: (-counts[label], label))


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same rows. `difference` is accuracy of the second minus the first; `gained` rows only the
    second got right, `lost` only the first; `p_value` is McNemar's exact test of gained against lost."""

    first: str
    second: str
    rows: int
    difference: Interval
    gained: int
    lost: int
    p_value: float


def compare(first: tuple[str, Sequence[str]], second: tuple[str, Sequence[str]], truth: Sequence[str]) -> Comparison:
    """Paired comparison of two classifiers' (name, predicted labels) for the same rows."""
    from scipy.stats import binomtest

    right_first, right_second = _right(truth, first[1]), _right(truth, second[1])
    gained = int(((right_second == 1) & (right_first == 0)).sum())
    lost = int(((right_second == 0) & (right_first == 1)).sum())
    p_value = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    difference = bootstrap_mean(right_second - right_first)
    return Comparison(first[0], second[0], len(truth), difference, gained, lost, p_value)


def verdict(comparison: Comparison) -> str:
    """The answer to "did reasoning help here?", in one sentence."""
    change = comparison.difference
    found = "The interval holds 0, so this is no evidence that reasoning helped or hurt."
    if change.low > 0:
        found = "That is evidence that reasoning helped here."
    elif change.high < 0:
        found = "That is evidence that reasoning hurt here."
    return (
        f"Reasoning ({comparison.second}) changed accuracy by {100 * change.value:+.1f} points against "
        f"{comparison.first} (95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f}, "
        f"{comparison.rows:,} test rows, one seed; McNemar p = {comparison.p_value:.2g}). {found}"
    )


def _right(truth: Sequence[str], predicted: Sequence[str]) -> NDArray[np.float64]:
    return np.array([a == b for a, b in zip(truth, predicted, strict=True)], dtype=np.float64)
