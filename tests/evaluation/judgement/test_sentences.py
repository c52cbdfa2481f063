"""What the verdict says: never more than the comparison shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rir_mlx.evaluation.judgement.sentences import (
    likely_cause,
    nothing_learned_verdict,
    verdict,
    worse_than_tfidf_verdict,
)
from rir_mlx.statistics.intervals import Interval
from rir_mlx.statistics.paired_tests import PairedComparison, SeedComparison, compare

EVIDENCE = ("That is evidence that reasoning helped", "That is evidence that reasoning hurt", "no evidence")


def outcomes(both: int, gained: int, lost: int, neither: int, seeds: int = 3) -> PairedComparison:
    first = np.eye(2)[[0] * both + [1] * gained + [0] * lost + [1] * neither][None]
    second = np.eye(2)[[0] * both + [0] * gained + [1] * lost + [1] * neither][None]
    pair = [np.concatenate([array] * seeds) for array in (first, second)]
    return compare(("qa", pair[0]), ("qra", pair[1]), np.zeros(both + gained + lost + neither, dtype=int))


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ((50, 40, 2, 8), "evidence that reasoning helped here"),
        ((50, 2, 40, 8), "evidence that reasoning hurt here"),
        ((50, 11, 9, 30), "includes 0, so there is no evidence that reasoning helped or hurt"),
        ((50, 0, 0, 50), "includes 0, so there is no evidence that reasoning helped or hurt"),
        ((0, 1, 0, 0), "no evidence that reasoning helped or hurt"),
        ((1, 0, 0, 0), "includes 0, so there is no evidence"),
    ],
)
def test_with_three_seeds_the_verdict_follows_the_interval(counts: tuple[int, int, int, int], found: str) -> None:
    text = verdict(outcomes(*counts))
    assert found in text
    assert sum(phrase in text for phrase in EVIDENCE) == 1


@pytest.mark.parametrize("counts", [(50, 40, 2, 8), (50, 2, 40, 8), (50, 11, 9, 30), (1, 0, 0, 0)])
@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_never_judge_reasoning(counts: tuple[int, int, int, int], seeds: int) -> None:
    text = verdict(outcomes(*counts, seeds=seeds))
    assert "This is no evidence that reasoning helps or hurts in training: that takes 3 seeds or more" in text
    assert "That is evidence" not in text


def test_one_seed_speaks_of_two_classifiers() -> None:
    better, worse, equal = (verdict(outcomes(50, *pair, 8, seeds=1)) for pair in ((40, 2), (2, 40), (9, 11)))
    assert better.startswith("Two classifiers compared, not two ways of training: the qra one has +38.0 points")
    assert "this qra classifier is the better one" in better
    assert "this qa classifier is the better one" in worse
    assert "It is unclear whether the qra or the qa classifier is better." in equal


def test_a_verdict_says_why_an_interval_without_0_does_not_suffice() -> None:
    """The demo with twice its steps: +0.2 to +9.1, and yet unclear."""
    seed = SeedComparison(0.047, 25, 11, 0.029)
    for compared, needed in ((1, ""), (2, "better: McNemar's exact test needs p < 0.025.")):
        text = verdict(PairedComparison("qa", "qra", 300, Interval(0.047, 0.002, 0.091), (seed,), compared=compared))
        assert ("It is unclear" in text, needed in text) == (compared > 1, True)
    wide = Interval(-0.04, -0.08, 0.0003)  # and yet p = 0.033, as of one comparison
    text = verdict(PairedComparison("qa", "qar", 500, wide, (SeedComparison(-0.04, 30, 50, 0.033),), compared=2))
    assert "better: McNemar's exact test needs p < 0.025." in text


def test_mcnemars_test_says_who_gained() -> None:
    """TREC's two seeds point opposite ways; a p-value alone does not show it."""
    better, worse, equal = (verdict(outcomes(50, *pair, 8, seeds=1)) for pair in ((40, 2), (2, 40), (9, 9)))
    assert "Only qra is right in 40 rows, only qa in 2: McNemar p = 4.1e-10, in favour of qra." in better
    assert "Only qra is right in 2 rows, only qa in 40: McNemar p = 4.1e-10, in favour of qa." in worse
    assert "McNemar p = 1." in equal
    assert "only qa in 12: McNemar p = 1. It is unclear" in verdict(outcomes(50, 13, 12, 8, seeds=1))
    one_of_two = PairedComparison("qa", "qra", 500, Interval(0.04, -0.01, 0.08), (SeedComparison(0.04, 50, 30, 0.033),))
    assert "McNemar p = 0.033, in favour of qra." in verdict(one_of_two)
    assert "McNemar p = 0.033. It" in verdict(replace(one_of_two, compared=2)), "it needs p < 0.025"
    opposite = (SeedComparison(0.06, 40, 10, 1e-4), SeedComparison(-0.06, 10, 40, 1e-4))
    text = verdict(PairedComparison("qa", "qra", 500, Interval(0.0, -0.8, 0.8), opposite))
    assert "+6.0 (40 against 10, p = 0.0001), -6.0 (10 against 40, p = 0.0001)" in text
    assert "The seeds disagree: in some qra is better, in others qa (p < 0.05 each)." in text
    assert "disagree" not in verdict(outcomes(50, 40, 2, 8))


def test_the_verdict_says_the_numbers() -> None:
    change = Interval(-0.0123, -0.031, 0.0069)
    seeds = (SeedComparison(-0.0123, 40, 65, 0.0186), SeedComparison(-0.01, 40, 60, 0.0569))
    text = verdict(PairedComparison("qa", "qra", 2000, change, seeds), chosen_among=3)
    assert "Reasoning (qra) changed accuracy by -1.2 points against qa" in text
    assert "-3.1 to +0.7" in text
    assert "2,000 test rows, 2 seeds" in text
    assert "only qra and only qa gets right and McNemar's p: -1.2 (40 against 65, p = 0.019), -1.0 (40" in text
    chosen = (
        "qra was chosen among 3 arms on validation rows. Choosing the best makes the change look a little too good."
    )
    assert chosen in text
    corrected = PairedComparison("qa", "qra", 2000, change, seeds, compared=3)
    assert "on validation rows, and the interval is corrected for that." in verdict(corrected, chosen_among=3)
    assert "chosen" not in verdict(outcomes(50, 40, 2, 8))


def test_the_verdict_on_many_seeds_gives_the_median_and_the_range() -> None:
    seeds = tuple(SeedComparison(0.01 * place, 30, 20, 0.1) for place in range(-1, 6))
    text = verdict(PairedComparison("qa", "qra", 1000, Interval(0.02, -0.01, 0.03), seeds))
    assert "By seed +2.0 (median), -1.0 to +5.0; qra is ahead in 5 of 7 seeds." in text


def test_the_verdict_on_one_row_and_on_none() -> None:
    assert "1 test row," in verdict(outcomes(1, 0, 0, 0))
    assert verdict(outcomes(0, 0, 0, 0)) == (
        "There are no test rows, so nothing shows whether reasoning (qra) helped or hurt."
    )


def test_arms_that_learned_nothing_get_no_sentence_for_or_against_reasoning() -> None:
    """77 labels, 1,500 rows: all arms at 1 to 3 %, TF-IDF at 78 %, and the verdict said that reasoning hurt."""
    nothing, behind = (
        nothing_learned_verdict(("qar", 0.031), ("bug", 0.02), likely_cause(77, [])),
        worse_than_tfidf_verdict(("qar", 0.4), 0.78, likely_cause(77, [])),
    )
    for text in (nothing, behind):
        assert "evidence" not in text
        assert "helped" not in text
        assert "or too many labels (77)." in text
    assert nothing.startswith("Nothing was learned: no arm is shown to be better than always answering 'bug'")
    said = (
        "Every arm, as trained here, is worse than TF-IDF with logistic regression (78.0 %; the best arm, qar, has 40"
    )
    assert behind.startswith(said)


def test_a_cause_that_the_losses_show_is_said_instead_of_a_list() -> None:
    assert likely_cause(6, []) == (
        "Likely causes: too few training steps, an unsuitable learning rate or a model that is too small."
    )
    assert likely_cause(6, ["qa", "qra"]) == (
        "Likely cause: training ended too early, for the loss of qa and qra was still falling. Raise "
        "classifier.epochs or classifier.learning_rate."
    )
    assert likely_cause(77, ["qa"]).endswith("The number of labels (77) makes the task harder.")


def test_three_arms_are_listed_with_an_and() -> None:
    assert "the loss of qa, qar and qra was still falling" in likely_cause(3, ["qa", "qar", "qra"])
    assert "the loss of qa was still falling" in likely_cause(3, ["qa"])
