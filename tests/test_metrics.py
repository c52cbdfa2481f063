from __future__ import annotations

import math

import numpy as np
import pytest

from rir_mlx.metrics import Comparison, Interval, accuracy, bootstrap_mean, compare, macro_f1, majority, verdict


def test_majority_is_the_commonest_training_label() -> None:
    assert majority(["b", "a", "b", "c"]) == "b"


def test_of_equally_common_labels_the_first_in_the_alphabet_wins() -> None:
    assert majority(["b", "a", "b", "a", "c"]) == "a"
    assert majority(["a", "b"]) == majority(["b", "a"])


def test_the_bootstrap_is_deterministic_and_changes_with_its_seed() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1).low != bootstrap_mean(values, seed=2).low


def test_the_interval_is_that_of_a_share() -> None:
    """80 of 100: the normal approximation gives 0.8 ± 1.96 · √(0.8 · 0.2 / 100) = 0.8 ± 0.078."""
    values = np.array([1.0] * 80 + [0.0] * 20)
    interval = bootstrap_mean(values)
    assert interval.value == pytest.approx(0.8)
    # Shares move in steps of 0.01, and 2000 resamples place a 2.5 % quantile within about one step.
    assert interval.low == pytest.approx(0.722, abs=0.02)
    assert interval.high == pytest.approx(0.878, abs=0.02)


def test_the_interval_covers_the_truth_about_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    trials = 60
    intervals = [bootstrap_mean((rng.random(200) < 0.7).astype(np.float64), seed=trial) for trial in range(trials)]
    covered = sum(one.low <= 0.7 <= one.high for one in intervals)
    # 57 are expected; fewer than 51 come by chance once in 200 (binomial, p = 0.95).
    assert covered >= 51
    assert np.mean([one.high - one.low for one in intervals]) == pytest.approx(
        2 * 1.96 * math.sqrt(0.21 / 200), rel=0.1
    )


def test_values_that_are_all_alike_have_an_interval_of_no_width() -> None:
    assert bootstrap_mean(np.ones(10)) == Interval(1.0, 1.0, 1.0)


def test_no_rows_have_no_accuracy() -> None:
    assert all(math.isnan(value) for value in (accuracy([], []).value, accuracy([], []).low, accuracy([], []).high))


def test_accuracy_counts_equal_labels() -> None:
    assert accuracy(["a", "b", "a", "c"], ["a", "b", "b", "a"]).value == 0.5


def test_lists_of_different_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        accuracy(["a", "b"], ["a"])


def test_macro_f1_weighs_labels_alike_and_counts_those_never_predicted() -> None:
    """a: precision 2/3, recall 1, F1 0.8. b: precision 1, recall 1/2, F1 2/3. c: never there, F1 0."""
    assert macro_f1(["a", "a", "b", "b"], ["a", "a", "a", "b"], ["a", "b", "c"]) == pytest.approx((0.8 + 2 / 3) / 3)


def outcomes(both: int, gained: int, lost: int, neither: int) -> Comparison:
    """A comparison of made-up predictions with so many rows of each kind."""
    truth = ["x"] * (both + gained + lost + neither)
    first = ["x"] * both + ["y"] * gained + ["x"] * lost + ["y"] * neither
    second = ["x"] * both + ["x"] * gained + ["y"] * lost + ["z"] * neither
    return compare(("qa", first), ("qra", second), truth)


@pytest.mark.parametrize(("gained", "lost"), [(9, 2), (2, 9), (5, 5), (1, 0), (12, 1), (7, 3)])
def test_the_p_value_is_mcnemars_exact_two_sided_one(gained: int, lost: int) -> None:
    """Under no difference the discordant rows fall either way like a fair coin: twice the smaller tail, at most 1."""
    comparison = outcomes(20, gained, lost, 4)
    tail = sum(math.comb(gained + lost, k) for k in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    assert comparison.p_value == pytest.approx(min(1.0, 2 * tail))
    assert (comparison.gained, comparison.lost) == (gained, lost)
    assert comparison.rows == 24 + gained + lost
    assert comparison.difference.value == pytest.approx((gained - lost) / comparison.rows)


def test_classifiers_that_never_differ_have_a_p_value_of_one() -> None:
    comparison = outcomes(5, 0, 0, 5)
    assert comparison.p_value == 1.0
    assert comparison.difference == Interval(0.0, 0.0, 0.0)


def test_the_interval_of_the_difference_is_paired() -> None:
    """Two classifiers of like accuracy that err on the same rows differ far less than their own intervals suggest."""
    comparison = outcomes(500, 2, 2, 496)
    assert comparison.difference.high - comparison.difference.low < 0.01


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ((50, 40, 2, 8), "evidence that reasoning helped here"),
        ((50, 2, 40, 8), "evidence that reasoning hurt here"),
        ((50, 11, 9, 30), "no evidence that reasoning helped or hurt"),
        ((50, 0, 0, 50), "no evidence that reasoning helped or hurt"),
    ],
)
def test_the_verdict_follows_the_interval(counts: tuple[int, int, int, int], found: str) -> None:
    text = verdict(outcomes(*counts))
    assert found in text
    others = {"that is evidence that reasoning helped", "that is evidence that reasoning hurt", "this is no evidence"}
    assert sum(other in text.lower() for other in others) == 1


def test_the_verdict_says_the_numbers() -> None:
    comparison = Comparison("qa", "qra", 2000, Interval(-0.0123, -0.031, 0.0069), 40, 65, 0.0186)
    text = verdict(comparison)
    assert "Reasoning (qra) changed accuracy by -1.2 points against qa" in text
    assert "-3.1 to +0.7" in text
    assert "2,000 test rows" in text
    assert "p = 0.019" in text
