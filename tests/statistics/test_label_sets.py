"""Sets of labels: scikit-learn computes the same figures; thresholds find the best F1; intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score, precision_recall_fscore_support

from rir_mlx.statistics.several_labels import (
    EVEN,
    answered_sets,
    fit_thresholds,
    label_probabilities,
    per_label,
    set_intervals,
)

MEMBERS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]], dtype=bool)
LABELS = ("billing", "refund", "login")


def drawn_sets(rows: int, seeds: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    truth = draw.random((rows, 3)) < [0.6, 0.3, 0.1]
    truth[~truth.any(1), 0] = True
    return truth, truth ^ (draw.random((seeds, rows, 3)) < 0.2)


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_figures_are_those_of_scikit_learn(seeds: int) -> None:
    truth, answered = drawn_sets(200, seeds)
    found = set_intervals(truth, answered)
    for name, expected in (
        ("micro_f1", [f1_score(truth, each, average="micro") for each in answered]),
        ("macro_f1", [f1_score(truth, each, average="macro") for each in answered]),
        ("jaccard", [jaccard_score(truth, each, average="samples", zero_division=0) for each in answered]),
    ):
        assert found[name].value == pytest.approx(np.mean(expected))
        assert found[name].low < found[name].value < found[name].high
    table = [precision_recall_fscore_support(truth, each, zero_division=0) for each in answered]
    for place, line in enumerate(per_label(truth, answered, LABELS)):
        means = [np.mean([of_seed[column][place] for of_seed in table]) for column in range(4)]
        assert [line.precision, line.recall, line.f1, line.support] == pytest.approx(means)
        assert line.label == LABELS[place]


def test_a_label_that_no_row_has_does_not_count_and_all_right_is_not_certain() -> None:
    truth, answered = drawn_sets(60, 1)
    truth[:, 2] = answered[..., 2] = False
    found = set_intervals(truth, answered)
    assert found["macro_f1"].value == pytest.approx(f1_score(truth[:, :2], answered[0][:, :2], average="macro"))
    perfect = set_intervals(truth, truth[None])
    assert perfect["micro_f1"].value == perfect["jaccard"].high == 1.0
    assert 0.9 < perfect["macro_f1"].low < 1.0


def test_intervals_cover_what_many_rows_show() -> None:
    """200 rows out of a population, 200 times: the 95 % interval holds the population's value."""
    truth, answered = drawn_sets(20_000, 1)
    whole = {name: found.value for name, found in set_intervals(truth[:20_000], answered).items()}
    draw, held = np.random.default_rng(1), dict.fromkeys(whole, 0)
    for _ in range(200):
        rows = draw.choice(len(truth), 200, replace=False)
        for name, found in set_intervals(truth[rows], answered[:, rows]).items():
            held[name] += found.low <= whole[name] <= found.high
    assert all(180 <= count <= 199 for count in held.values()), held


def test_a_label_is_as_probable_as_the_answers_that_hold_it() -> None:
    probabilities = np.array([[0.1, 0.2, 0.05, 0.5, 0.15]])
    np.testing.assert_allclose(label_probabilities(probabilities, MEMBERS), [[0.6, 0.85, 0.2]])


def test_the_threshold_of_a_label_gives_the_best_f1_but_for_what_one_row_decides() -> None:
    draw = np.random.default_rng(3)
    truth = draw.random((300, 3)) < [0.5, 0.2, 0.1]
    probabilities = np.clip(0.25 * truth + draw.random((300, 3)) * 0.4, 0, 1)
    fitted = fit_thresholds(probabilities, truth)
    for place, threshold in enumerate(fitted):
        own, has = probabilities[:, place], truth[:, place]
        given = own >= np.unique(own)[:, None]
        best, row = (2 * (given & has).sum(1) / (given.sum(1) + has.sum())).max(), 1 / has.sum()
        assert best - row < f1_score(has, own >= threshold) <= best


def test_one_row_moves_no_threshold_from_one_half() -> None:
    """A label was given at 7 %, for one validation row that was right there."""
    has = np.array([True] * 18 + [False] * 12)[:, None]
    probabilities = np.array([0.9] * 17 + [0.07] + [0.02] * 12)[:, None]
    assert fit_thresholds(probabilities, has)[0] == EVEN
    many = np.array([0.9] * 10 + [0.3] * 8 + [0.02] * 12)[:, None]
    assert fit_thresholds(many, has)[0] == pytest.approx((0.3 + 0.02) / 2)


def test_a_threshold_lies_at_one_half_where_that_is_as_good() -> None:
    has = np.array([True] * 10 + [False] * 2)[:, None]
    apart = np.array([0.9, 0.8, 0.9, 0.85, 0.7, 0.9, 0.8, 0.9, 0.85, 0.7, 0.2, 0.1])[:, None]
    assert fit_thresholds(apart, has)[0] == EVEN
    assert fit_thresholds(apart / 2, has)[0] == pytest.approx((0.35 + 0.1) / 2)


def test_a_label_with_few_rows_and_none_at_all_keep_one_half() -> None:
    truth = np.zeros((30, 2), dtype=bool)
    truth[:9, 0] = True
    assert fit_thresholds(np.full((30, 2), 0.1), truth).tolist() == [EVEN, EVEN]


def test_a_text_has_the_labels_above_their_thresholds_or_those_of_the_likeliest_answer() -> None:
    probabilities = np.array([[0.1, 0.2, 0.05, 0.5, 0.15], [0.4, 0.05, 0.05, 0.05, 0.45]])
    thresholds = np.array([0.5, 0.9, 0.2])
    assert answered_sets(probabilities, MEMBERS, thresholds).tolist() == [[True, False, True], [False, False, True]]
    with_none = np.array([[0.45, 0.0, 0.55, 0.0, 0.0], [0.6, 0.0, 0.4, 0.0, 0.0], [0.1, 0.1, 0.4, 0.4, 0.0]])
    low = np.array([0.3, 0.3, 0.3])
    assert answered_sets(with_none, MEMBERS, low).sum(1).tolist() == [2, 2, 3]
    assert answered_sets(with_none, MEMBERS, low, 2).tolist() == [
        [False, False, True],
        [True, False, False],
        [True, True, False],
    ]
    nothing = answered_sets(probabilities, MEMBERS, np.ones(3))
    assert nothing.tolist() == [[True, True, False], [False, True, True]]
