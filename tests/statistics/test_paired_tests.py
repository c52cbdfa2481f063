from __future__ import annotations

import math

import numpy as np
import pytest

from rir_mlx.evaluation.verdict import verdict
from rir_mlx.statistics.metrics import FloatArray, Interval
from rir_mlx.statistics.paired_tests import (
    PairedComparison,
    SeedComparison,
    compare,
    is_better,
)


def predictions(both: int, gained: int, lost: int, neither: int) -> tuple[FloatArray, FloatArray]:
    """[1, n, 2] of two classifiers, of which both, one, or neither are right for so many rows; the truth is 0."""
    first = [0] * both + [1] * gained + [0] * lost + [1] * neither
    second = [0] * both + [0] * gained + [1] * lost + [1] * neither
    return np.eye(2)[first][None], np.eye(2)[second][None]


def outcomes(*counts: int, seeds: int = 1) -> PairedComparison:
    first, second = (np.concatenate([one] * seeds) for one in predictions(*counts))
    return compare(("qa", first), ("qra", second), np.zeros(sum(counts), dtype=int))


@pytest.mark.parametrize(("gained", "lost"), [(9, 2), (2, 9), (5, 5), (1, 0), (12, 1), (7, 3)])
def test_the_p_value_is_mcnemars_exact_two_sided_one(gained: int, lost: int) -> None:
    """Under no difference the discordant rows fall either way like a fair coin: twice the smaller tail, at most 1."""
    comparison = outcomes(20, gained, lost, 4)
    tail = sum(math.comb(gained + lost, k) for k in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    (only,) = comparison.by_seed
    assert only.p_value == pytest.approx(min(1.0, 2 * tail))
    assert (only.gained, only.lost) == (gained, lost)
    assert comparison.rows == 24 + gained + lost
    assert comparison.difference.value == pytest.approx((gained - lost) / comparison.rows)
    assert only.difference == pytest.approx(comparison.difference.value)


def test_classifiers_that_never_differ_have_a_p_value_of_one() -> None:
    comparison = outcomes(5, 0, 0, 5)
    assert comparison.by_seed == (SeedComparison(0.0, 0, 0, 1.0),)
    assert comparison.difference == Interval(0.0, 0.0, 0.0)


def test_the_interval_of_the_difference_is_paired() -> None:
    """Two classifiers of like accuracy that err on the same rows differ far less than their own intervals suggest."""
    comparison = outcomes(500, 2, 2, 496)
    assert comparison.difference.high - comparison.difference.low < 0.01


def test_seeds_are_paired_by_position_and_a_single_one_with_each() -> None:
    truth = np.zeros(3, dtype=int)
    first = np.eye(2)[[[0, 1, 1], [0, 0, 0]]]
    second = np.eye(2)[[[0, 0, 0], [1, 0, 0]]]
    paired = compare(("a", first), ("b", second), truth)
    assert [(one.gained, one.lost) for one in paired.by_seed] == [(2, 0), (0, 1)]
    assert paired.difference.value == pytest.approx((2 / 3 - 1 / 3) / 2)
    spread = compare(("a", first[:1]), ("b", second), truth)
    assert [(one.gained, one.lost) for one in spread.by_seed] == [(2, 0), (2, 1)]
    assert [(one.gained, one.lost) for one in compare(("a", first), ("b", second[:1]), truth).by_seed] == [
        (2, 0),
        (0, 0),
    ]


def test_two_and_three_seeds_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="qa has 2 seeds and qra 3"):
        compare(("qa", np.ones((2, 4, 2))), ("qra", np.ones((3, 4, 2))), np.zeros(4, dtype=int))


def test_a_gain_that_one_seed_in_three_loses_again_is_no_evidence() -> None:
    """40 rows gained of 200 by two seeds, and 40 lost by the third: no row but the seeds say that this is chance."""
    better, worse = predictions(100, 40, 0, 60), predictions(100, 0, 40, 60)
    first = np.concatenate([better[0], better[0], worse[0]])
    second = np.concatenate([better[1], better[1], worse[1]])
    comparison = compare(("qa", first), ("qra", second), np.zeros(200, dtype=int))
    assert comparison.difference.value == pytest.approx(40 / 600)
    assert not is_better(comparison)
    assert "no evidence" in verdict(comparison)
    assert is_better(compare(("qa", first[:2]), ("qra", second[:2]), np.zeros(200, dtype=int)))


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ((50, 40, 2, 8), "evidence that reasoning helped here"),
        ((50, 2, 40, 8), "evidence that reasoning hurt here"),
        ((50, 11, 9, 30), "includes 0, so there is no evidence that reasoning helped or hurt"),
        ((50, 0, 0, 50), "includes 0, so there is no evidence that reasoning helped or hurt"),
        # Few rows all to one side, and one row alone: resampling them finds no doubt, the exact test nothing else.
        ((50, 5, 0, 5), "on 6 rows or more, so there is no evidence that reasoning helped or hurt"),
        ((50, 0, 5, 5), "on 6 rows or more, so there is no evidence that reasoning helped or hurt"),
        ((0, 1, 0, 0), "on 6 rows or more, so there is no evidence that reasoning helped or hurt"),
        ((50, 6, 0, 0), "evidence that reasoning helped here"),
        ((1, 0, 0, 0), "includes 0, so there is no evidence"),
    ],
)
def test_the_verdict_follows_the_interval(counts: tuple[int, int, int, int], found: str, seeds: int) -> None:
    comparison = outcomes(*counts, seeds=seeds)
    text = verdict(comparison)
    assert found in text
    others = {"that is evidence that reasoning helped", "that is evidence that reasoning hurt", "there is no evidence"}
    assert sum(other in text.lower() for other in others) == 1
    assert is_better(comparison) == ("helped here" in text)


def test_the_verdict_says_the_numbers() -> None:
    change = Interval(-0.0123, -0.031, 0.0069)
    seeds = (SeedComparison(-0.0123, 40, 65, 0.0186), SeedComparison(-0.01, 40, 60, 0.0569))
    text = verdict(PairedComparison("qa", "qra", 2000, change, seeds), chosen_among=3)
    assert "Reasoning (qra) changed accuracy by -1.2 points against qa" in text
    assert "-3.1 to +0.7" in text
    assert "2,000 test rows, 2 seeds" in text
    assert "p = 0.019, 0.057" in text
    assert "qra was chosen among 3 arms on validation rows." in text
    assert "Another training seed" not in text


def test_the_verdict_on_one_seed_says_that_it_is_one_draw_and_that_nothing_was_chosen() -> None:
    text = verdict(outcomes(50, 40, 2, 8))
    assert "one seed;" in text
    assert text.endswith("Another training seed may give another result.")
    assert "chosen" not in text


def test_the_verdict_on_many_seeds_gives_the_median_and_the_range() -> None:
    seeds = tuple(SeedComparison(0.01, 30, 20, 0.1 * (one + 1)) for one in range(7))
    text = verdict(PairedComparison("qa", "qra", 1000, Interval(0.01, -0.01, 0.03), seeds))
    assert "McNemar p = 0.4 (median), 0.1 to 0.7" in text


def test_the_verdict_on_one_row_and_on_none() -> None:
    assert "1 test row," in verdict(outcomes(1, 0, 0, 0))
    nothing = outcomes(0, 0, 0, 0)
    assert verdict(nothing) == "There are no test rows, so nothing shows whether reasoning (qra) helped or hurt."
    assert not is_better(nothing)
