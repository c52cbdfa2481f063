"""Intervals over rows and seeds: by hand, and by simulation with bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtri

from rir_mlx.statistics.intervals import (
    UNDEFINED,
    FloatArray,
    Interval,
    crossed_interval,
    crossed_spread,
    difference_interval,
    percentile_interval,
    resampled_sums,
    rows_interval,
    share_interval,
)
from rir_mlx.statistics.paired_tests import compare, is_better, is_significant


def hits(count: int, rows: int) -> np.ndarray:
    """[1, rows] of which so many are True."""
    return (np.arange(rows) < count)[None]


def test_one_row_of_several_seeds_shows_nothing() -> None:
    assert share_interval(np.array([[True], [False]])) == Interval(0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    ("count", "rows", "low", "high"),
    [(10, 10, 0.722, 1.0), (1, 1, 0.207, 1.0), (0, 10, 0.0, 0.278), (80, 100, 0.711, 0.867), (9, 10, 0.596, 0.982)],
)
def test_a_share_of_one_seed_has_wilsons_interval(count: int, rows: int, low: float, high: float) -> None:
    """Also at the edges: 10 of 10 is not known to be 100 to 100 %."""
    found = share_interval(hits(count, rows))
    assert found.value == count / rows
    assert (found.low, found.high) == (pytest.approx(low, abs=0.001), pytest.approx(high, abs=0.001))
    assert found == share_interval(hits(count, rows))


def test_wilsons_interval_is_that_of_scipy() -> None:
    from scipy.stats import binomtest

    for count, rows in ((0, 7), (3, 20), (41, 50), (200, 200)):
        theirs = binomtest(count, rows).proportion_ci(method="wilson")
        found = share_interval(hits(count, rows))
        assert [found.low, found.high] == pytest.approx([theirs.low, theirs.high], abs=1e-9)


def test_seeds_that_are_right_everywhere_know_no_more_than_their_rows() -> None:
    assert share_interval(np.ones((3, 10), dtype=bool)) == share_interval(hits(10, 10))


def test_no_rows_have_no_interval() -> None:
    assert share_interval(np.zeros((1, 0), dtype=bool)) is UNDEFINED
    assert difference_interval(np.zeros((2, 0))) is UNDEFINED


def test_classifiers_that_differ_on_no_row_may_still_differ_on_others() -> None:
    """Agresti and Min: half a row in each cell. 80 rows: 1.96 · √1 / 82 = 2.4 points."""
    found = difference_interval(np.zeros((1, 80)))
    assert (found.value, found.low, found.high) == (
        0.0,
        pytest.approx(-0.0239, abs=1e-4),
        pytest.approx(0.0239, abs=1e-4),
    )
    assert difference_interval(np.zeros((3, 80))) == found


def test_a_difference_by_hand() -> None:
    """12 gained and 4 lost of 100: (12.5 - 4.5) / 102 ± 1.96 · √(17 - 8² / 102) / 102."""
    differences = np.zeros((1, 100))
    differences[0, :12], differences[0, 12:16] = 1, -1
    found = difference_interval(differences)
    spread = 1.959964 * math.sqrt(17 - 64 / 102) / 102
    assert found.value == pytest.approx(0.08)
    assert [found.low, found.high] == pytest.approx([8 / 102 - spread, 8 / 102 + spread], abs=1e-6)


def test_three_seeds_leave_few_degrees_of_freedom() -> None:
    """Where the seeds alone vary, it is Student's interval with two degrees of freedom: ± 4.30 deviations."""
    values = np.array([0.70, 0.75, 0.80])
    found = crossed_interval(values, np.zeros((3, 3)), (0.0, 1.0))
    assert found.value == pytest.approx(0.75)
    assert found.high - found.value == pytest.approx(4.3027 * 0.05 / math.sqrt(3), rel=1e-4)


def test_where_rows_alone_vary_the_interval_is_theirs() -> None:
    covariance = np.full((3, 3), 0.02**2)
    found = crossed_interval(np.array([0.75, 0.75, 0.75]), covariance, (0.0, 1.0))
    assert found.high - found.value == pytest.approx(1.96 * 0.02, rel=1e-3)


def test_seeds_that_are_close_by_chance_do_not_narrow_the_interval() -> None:
    """Each seed has a deviation of 2 points from its rows alone; three equal values are luck."""
    found = crossed_interval(np.array([0.75, 0.75, 0.75]), np.eye(3) * 0.02**2, (0.0, 1.0))
    assert found.high - found.value == pytest.approx(1.96 * 0.02 / math.sqrt(3), rel=1e-3)


def test_an_interval_stays_within_what_the_metric_can_be() -> None:
    found = crossed_interval(np.array([0.9, 0.99]), np.zeros((2, 2)), (0.0, 1.0))
    assert (found.low, found.high) == (pytest.approx(0.373, abs=0.01), 1.0)


def test_percentiles_are_those_of_the_draws() -> None:
    found = percentile_interval(5.0, np.arange(1001.0))
    assert [found.value, found.low, found.high] == pytest.approx([5.0, 25.0, 975.0])


def test_how_many_rows_are_drawn_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(0).normal(size=(3, 40))
    at_once = resampled_sums(columns)
    monkeypatch.setattr("rir_mlx.statistics.intervals._MAX_NUMBERS", 40 * 7)
    assert np.allclose(resampled_sums(columns), at_once, rtol=1e-12)
    # The mean of 2000 resampled sums of 40 rows strays from the sum by √(40 / 2000) deviations of a row: 0.14.
    assert np.abs(at_once.mean(0) - columns.sum(1)).max() < 4 * 0.15


# simulations: two ways of training that are equal, whose seeds vary by so many points of accuracy


def simulated(rng: np.random.Generator, seeds: int, rows: int, points: float, arms: int = 2) -> np.ndarray:
    """[arms, seeds, rows] whether a row is classified correctly: accuracies near 80 %, with rows that are hard for all
    classifiers. 0.105 in the logit move the accuracy by a point."""
    logits = 1.9 + rng.normal(0, 1.5, rows) + rng.normal(0, points * 0.095, (arms, seeds, 1))
    return rng.random((arms, seeds, rows)) < 1 / (1 + np.exp(-logits))


def as_probabilities(correct: np.ndarray) -> FloatArray:
    """[seeds, rows] → [seeds, rows, 2] where label 0 is the true one."""
    return np.eye(2)[np.where(correct, 0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "rows", "points"), [(3, 500, 0), (3, 500, 2), (3, 2000, 4), (5, 500, 4)])
def test_equal_ways_of_training_are_found_different_in_at_most_one_run_in_twenty(
    seeds: int, rows: int, points: float
) -> None:
    rng, truth, trials, alarms = np.random.default_rng(0), np.zeros(rows, dtype=int), 300, 0
    for _ in range(trials):
        first, second = simulated(rng, seeds, rows, points)
        found = compare(("qa", as_probabilities(first)), ("qra", as_probabilities(second)), truth)
        assert found.judges_training
        alarms += is_significant(found)
    assert alarms <= 25  # at a rate of 5 %, more of 300 come once in 200 (binomial)


def test_one_seed_speaks_of_its_two_classifiers_alone_and_errs_on_them_at_most_once_in_twenty() -> None:
    """The truth is that of the two classifiers: without variation of seeds they are equal."""
    rng, truth, alarms = np.random.default_rng(1), np.zeros(500, dtype=int), 0
    for _ in range(200):
        first, second = simulated(rng, 1, 500, 0)
        found = compare(("qa", as_probabilities(first)), ("qra", as_probabilities(second)), truth)
        assert not found.judges_training
        alarms += is_significant(found)
    assert alarms <= 19  # at a rate of 5 %, more of 200 come once in 200


@pytest.mark.slow
def test_the_best_of_three_arms_is_not_better_by_having_been_chosen() -> None:
    """Chosen on 500 validation rows that share their seeds with the test rows; corrected for three comparisons."""
    rng, truth, alarms = np.random.default_rng(2), np.zeros(500, dtype=int), 0
    for _ in range(200):
        arms = simulated(rng, 3, 1000, 2, arms=4)
        best = 1 + int(arms[1:, :, :500].mean((1, 2)).argmax())
        named = [("qa", as_probabilities(arms[0][:, 500:])), ("qra", as_probabilities(arms[best][:, 500:]))]
        alarms += is_better(compare(*named, truth, compared=3))
    assert alarms <= 11  # one side: at a rate of 2.5 %, more come once in 200


@pytest.mark.parametrize(("seeds", "points"), [(1, 0), (2, 1), (2, 3), (3, 0), (3, 3)])
def test_an_accuracys_interval_covers_the_truth_nineteen_times_in_twenty(seeds: int, points: float) -> None:
    rng, covered = np.random.default_rng(3), 0
    logits = 1.9 + np.hypot(1.5, points * 0.095) * ndtri((np.arange(10_000) + 0.5) / 10_000)
    truth = float((1 / (1 + np.exp(-logits))).mean())
    for _ in range(300):
        found = share_interval(simulated(rng, seeds, 400, points)[0])
        covered += found.low <= truth <= found.high
    assert covered >= 274  # at 95 %, fewer come once in 200
    assert covered <= 298  # at 97 %, more come once in 200


def test_several_seeds_that_err_alike_know_a_high_accuracy_no_better_than_one() -> None:
    """Of 100 rows at 97 %, intervals of five alike seeds covered the truth in 90 %: they were symmetrical."""
    rng, covered = np.random.default_rng(5), 0
    for _ in range(400):
        difficulty = np.sqrt(0.95) * rng.normal(size=100) + np.sqrt(0.05) * rng.normal(size=(5, 100))
        found = share_interval(difficulty < 1.880794)  # the 97 % quantile
        covered += found.low <= 0.97 <= found.high
    assert covered >= 369  # at 95 %, fewer come once in 200
    alike, single = share_interval(np.tile(hits(97, 100), (5, 1))), share_interval(hits(97, 100))
    assert alike.low == pytest.approx(single.low)
    assert alike.high >= single.high
    apart = np.ones((3, 90), dtype=bool)
    for seed in range(3):
        apart[seed, 30 * seed : 30 * seed + 9] = False
    found = share_interval(apart)
    assert found.high - found.low < share_interval(apart[:1]).high - share_interval(apart[:1]).low


def test_the_parts_of_rows_and_of_seeds_have_quantiles_of_their_own() -> None:
    """Seeds with a variance of the mean of 3, rows with 1, three seeds: (4.30 * 3 + 1.96 * 1) / √4 (Cochran 1964)."""
    assert crossed_spread(9.0, (1.0, 1.0), 3) == pytest.approx((4.3027 * 3 + 1.95996) / 2, rel=1e-4)
    assert crossed_spread(0.0, (0.0, 0.0), 3) == 0


def test_classifiers_as_they_are_vary_by_their_rows_alone() -> None:
    """Two seeds, each 30 points better on other rows: on the next rows these classifiers gain as much."""
    gains = np.zeros((2, 100))
    gains[0, :30], gains[1, 30:60] = 1, 1
    found = rows_interval(gains)
    spread = 1.959964 * math.sqrt(60 / 4 + 1 - 30**2 / 102) / 102
    assert found.value == pytest.approx(0.3)
    assert [found.low, found.high] == pytest.approx([30 / 102 - spread, 30 / 102 + spread], abs=1e-6)
    assert difference_interval(gains).high - difference_interval(gains).low > found.high - found.low
    assert rows_interval(np.zeros((2, 0))) is UNDEFINED


def test_a_real_difference_is_found() -> None:
    """Three seeds that vary by a point, 2,000 rows, and a second way of training that is 8 points better."""
    rng, truth, found = np.random.default_rng(4), np.zeros(2000, dtype=int), 0
    for _ in range(50):
        first, second = simulated(rng, 3, 2000, 1)
        second |= rng.random(second.shape) < 0.4
        found += is_better(compare(("qa", as_probabilities(first)), ("qra", as_probabilities(second)), truth))
    assert found >= 40
