from __future__ import annotations

import math

import numpy as np
import pytest

from rir_mlx.recipe.schema import ClassifierSection, Recipe
from rir_mlx.stages.checking import power_note
from rir_mlx.statistics.intervals import FloatArray
from rir_mlx.statistics.paired_tests import (
    PairedComparison,
    SeedComparison,
    compare,
    detectable_difference,
    is_better,
    is_significant,
)


def predictions(both: int, gained: int, lost: int, neither: int) -> tuple[FloatArray, FloatArray]:
    """[1, n, 2] of two classifiers, of which both, one, or neither are right for so many rows; the truth is 0."""
    first = [0] * both + [1] * gained + [0] * lost + [1] * neither
    second = [0] * both + [0] * gained + [1] * lost + [1] * neither
    return np.eye(2)[first][None], np.eye(2)[second][None]


def outcomes(*counts: int, seeds: int = 1) -> PairedComparison:
    first, second = (np.concatenate([probabilities] * seeds) for probabilities in predictions(*counts))
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
    assert comparison.difference.value == 0
    assert comparison.difference.low < 0 < comparison.difference.high


def test_the_interval_of_the_difference_is_paired() -> None:
    """Two classifiers of like accuracy that err on the same rows differ far less than their own intervals suggest."""
    comparison = outcomes(500, 2, 2, 496)
    assert comparison.difference.high - comparison.difference.low < 0.01


def test_seeds_are_paired_by_position_and_a_single_one_with_each() -> None:
    truth = np.zeros(3, dtype=int)
    first = np.eye(2)[[[0, 1, 1], [0, 0, 0]]]
    second = np.eye(2)[[[0, 0, 0], [1, 0, 0]]]
    paired = compare(("a", first), ("b", second), truth)
    assert [(seed.gained, seed.lost) for seed in paired.by_seed] == [(2, 0), (0, 1)]
    assert paired.difference.value == pytest.approx((2 / 3 - 1 / 3) / 2)
    spread = compare(("a", first[:1]), ("b", second), truth)
    assert [(seed.gained, seed.lost) for seed in spread.by_seed] == [(2, 0), (2, 1)]
    assert [(seed.gained, seed.lost) for seed in compare(("a", first), ("b", second[:1]), truth).by_seed] == [
        (2, 0),
        (0, 0),
    ]


def test_two_and_three_seeds_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="qa has 2 seeds and qra 3"):
        compare(("qa", np.ones((2, 4, 2))), ("qra", np.ones((3, 4, 2))), np.zeros(4, dtype=int))


def test_a_gain_that_one_seed_in_three_loses_again_is_no_evidence() -> None:
    """40 rows gained of 200 by two seeds, and 40 lost by the third: the seeds, not the rows, show that it is chance."""
    better, worse = predictions(100, 40, 0, 60), predictions(100, 0, 40, 60)
    first = np.concatenate([better[0], better[0], worse[0]])
    second = np.concatenate([better[1], better[1], worse[1]])
    comparison = compare(("qa", first), ("qra", second), np.zeros(200, dtype=int))
    assert comparison.difference.value == pytest.approx(40 / 600)
    assert not is_better(comparison)
    assert is_better(compare(("qa", first[[0, 1, 0]]), ("qra", second[[0, 1, 0]]), np.zeros(200, dtype=int)))


@pytest.mark.parametrize(("gained", "lost", "better"), [(40, 2, True), (2, 40, False), (11, 9, False), (0, 0, False)])
@pytest.mark.parametrize("seeds", [1, 3])
def test_better_and_worse_are_mirror_images(gained: int, lost: int, better: bool, seeds: int) -> None:
    forth, back = outcomes(50, gained, lost, 8, seeds=seeds), outcomes(50, lost, gained, 8, seeds=seeds)
    assert is_better(forth) == better
    assert is_significant(back) == is_significant(forth)
    assert not (is_better(back) and better)


def test_with_one_seed_the_exact_test_has_to_agree_with_the_interval() -> None:
    """Five rows all to one side: p = 0.0625, although the interval lies above 0."""
    comparison = outcomes(50, 5, 0, 5)
    assert comparison.difference.low > 0
    assert not is_significant(comparison)
    assert is_significant(outcomes(50, 6, 0, 5))
    assert not is_significant(outcomes(50, 5, 0, 5, seeds=3))


def test_a_correction_for_several_comparisons_widens_the_interval_and_lowers_the_threshold() -> None:
    first, second = predictions(50, 12, 3, 35)
    truth = np.zeros(100, dtype=int)
    plain, corrected = (compare(("qa", first), ("qra", second), truth, compared=count) for count in (1, 4))
    assert corrected.difference.low < plain.difference.low
    assert plain.by_seed[0].p_value == corrected.by_seed[0].p_value == pytest.approx(0.0352, abs=1e-4)
    assert is_better(plain)
    assert not is_better(corrected)


def test_three_seeds_judge_the_way_of_training() -> None:
    assert [outcomes(5, 3, 1, 1, seeds=seeds).judges_training for seeds in (1, 2, 3)] == [False, False, True]


@pytest.mark.parametrize(("seeds", "rows"), [(1, 600), (3, 600), (3, 2000), (5, 600)])
def test_the_difference_that_is_said_to_show_shows_in_four_runs_of_five(seeds: int, rows: int) -> None:
    """Classifiers that are correct on 70 % of the rows and on that many more; seeds vary by 2 points."""
    difference = detectable_difference(rows, seeds)
    found = 0
    for repeat in range(100):
        rng = np.random.default_rng(repeat)
        luck = rng.random((1, rows)) * 0.8 + rng.random((2, seeds, rows)) * 0.2
        levels = np.quantile(luck, [0.7, 0.7 + difference])[:, None, None]
        levels = levels + 0.8 * rng.normal(0, 0.02, (2, seeds, 1))  # 1.25 rows in 100 for each hundredth of luck
        correct = luck < (levels if seeds > 1 else levels.mean(2, keepdims=True))
        pair = [np.eye(2)[np.where(hits, 0, 1)] for hits in correct]
        found += is_better(compare(("qa", pair[0]), ("qra", pair[1]), np.zeros(rows, dtype=int)))
    assert 69 <= found <= 93  # at 80 %, fewer, and at 84 %, more of 100 come once in 200


def test_more_rows_and_seeds_show_smaller_differences_and_more_arms_only_larger_ones() -> None:
    assert detectable_difference(2000, 1) < detectable_difference(500, 1) < detectable_difference(500, 1, compared=3)
    # two seeds leave one degree of freedom
    assert detectable_difference(500, 2) > 3 * detectable_difference(500, 1)
    assert detectable_difference(500, 5) < detectable_difference(500, 3) < detectable_difference(50, 3)


@pytest.mark.parametrize(
    ("rows", "seeds", "said"),
    [
        (1, 1, "1 test row can hardly tell two classifiers apart"),
        (29, 3, "29 test rows can hardly tell two classifiers apart"),
        (
            30,
            1,
            "With 30 test rows, two classifiers that differ by 26 points are told apart in 80 % of runs.",
        ),
        (100_000, 1, "two classifiers that differ by 0.4 points are"),
        (100_000, 5, "two ways of training that differ by 5 points are"),
    ],
)
def test_no_difference_is_promised_that_so_many_rows_cannot_show(rows: int, seeds: int, said: str) -> None:
    """100,000 rows were said to tell apart classifiers that differ by 0 points; and 5 rows those that differ by 63 in
    80 % of runs, where five discordant rows are never significant."""
    keys = {"arms": ["qa", "qra"], "seeds": list(range(seeds))}
    [note] = power_note(Recipe(classifier=ClassifierSection.model_validate(keys)), rows, rows)
    assert said in note


def test_from_thirty_rows_on_the_difference_that_is_said_to_show_does() -> None:
    rng, found, rows = np.random.default_rng(0), 0, 30
    difference = detectable_difference(rows, 1)
    for _ in range(200):
        gained = rng.random(rows) < difference  # as many rows differ as the difference needs
        found += is_better(outcomes(int((~gained).sum()), int(gained.sum()), 0, 0))
    assert found >= 130
