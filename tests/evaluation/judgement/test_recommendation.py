"""Which classifier is recommended, and what is said of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rir_mlx.evaluation.comparison import compare_entries
from rir_mlx.evaluation.entries import EntryPredictions
from rir_mlx.evaluation.judgement import headline as headlines
from rir_mlx.evaluation.judgement.case import Case
from rir_mlx.evaluation.judgement.judge import Judgement, judge
from rir_mlx.evaluation.schema import EntryKind, InferenceCost, TrainingCost
from rir_mlx.evaluation.scores import EvaluationRows

TRUTH = np.repeat([0, 1], [324, 276])
MAJORITY = np.zeros(600, dtype=int)
COST = TrainingCost(steps=9, planned=9, tokens=1, rows=9, seconds=1)


def answers(accuracy: float, seed: int) -> np.ndarray:
    """Labels of which that share is correct; the rows that are hard are so for all seeds in part."""
    luck = 0.6 * np.random.default_rng(99).random(600) + 0.4 * np.random.default_rng(seed).random(600)
    return np.where(luck <= np.quantile(luck, accuracy), TRUTH, 1 - TRUTH)


def entry(name: str, *answered: np.ndarray, validation: float = 0.7) -> EntryPredictions:
    kind: EntryKind = "baseline" if name in ("majority", "tf-idf", "encoder") else "arm"
    probabilities = np.where(np.eye(2, dtype=bool)[np.stack(answered)], 0.9, 0.1)
    cost = InferenceCost(tokens_generated=0.0 if name == "qa" else 30.0, seconds=0.1)
    fields: dict[str, Any] = {} if kind == "baseline" else {"validation_accuracy": validation, "cost": cost}
    return EntryPredictions(name, kind, probabilities, range(len(answered)), fields=fields)


def judged(*entries: EntryPredictions, truth: Sequence[int] | np.ndarray = TRUTH) -> Judgement:
    found = np.asarray(truth)
    rows = EvaluationRows(["a", "b"], np.zeros(600, int), found, np.ones(len(found), dtype=np.bool_))
    majority = entry("majority", np.zeros(len(found), dtype=int))
    results = [
        result if result.kind == "baseline" else result.model_copy(update={"training": COST})
        for result in compare_entries([*entries, majority], rows)
    ]
    return judge(Case([*entries, majority], results, rows, majority))


def test_the_first_seeds_classifier_decides_since_it_is_the_one_that_is_used() -> None:
    """qra had 54, 58 and 83 %, qa 62, 58 and 57: qra was recommended for its mean of 65 %, and the classifier that was
    then used had 54 %, eight points less than that of qa."""
    label_only = [answers(share, seed) for seed, share in enumerate((0.62, 0.58, 0.57), 1)]
    reasoning = [answers(share, seed) for seed, share in enumerate((0.54, 0.58, 0.83), 4)]
    found = judged(entry("qa", *label_only), entry("qra", *reasoning, validation=0.75))
    assert found.recommended == "qa"
    said = found.recommendation or ""
    assert said.startswith(
        "Use qa (59.0 %, 62.0 % with the first seed, which is used): with that seed, it is 8.0 points"
    )
    lucky = judged(entry("qa", *label_only), entry("qra", *reasoning[::-1], validation=0.75))
    assert lucky.recommended == "qra"
    assert "(65.0 %, 83.0 % with the first seed, which is used): with that seed, it is 21.0 points" in (
        lucky.recommendation or ""
    )


def test_the_mean_of_seeds_that_are_not_used_recommends_nothing() -> None:
    """qa's second seed collapsed: qra was recommended for a mean that is 10 points higher, though the first seed's qa
    is as good, and cheaper."""
    label_only = [answers(0.81, 1), MAJORITY, answers(0.8, 2)]
    found = judged(entry("qa", *label_only), entry("qra", *(answers(0.8, seed) for seed in (4, 5, 6)), validation=0.8))
    assert found.recommendation is not None
    assert found.recommendation.startswith(
        "Use qa (71.7 %, 81.0 % with the first seed, which is used): it is cheaper than qra, which is not shown to be "
    )
    assert found.recommended == "qa"


def test_a_first_seed_that_is_hardly_ahead_is_not_said_to_have_learned() -> None:
    """It was recommended for what the mean of the seeds shows."""
    found = judged(entry("qa", MAJORITY, MAJORITY), entry("qra", answers(0.56, 1), answers(0.9, 2)))
    assert found.recommendation == (
        "No recommendation: qra beats the most frequent label on average, but not clearly with the first seed, which "
        "is used."
    )


def test_an_arm_that_learned_only_with_other_seeds_is_not_recommended() -> None:
    found = judged(entry("qa", MAJORITY, MAJORITY), entry("qra", MAJORITY, answers(0.83, 1)))
    assert found.recommended is None
    assert found.recommendation == (
        "No recommendation: qra beats the most frequent label on average, but not clearly with the first seed, which "
        "is used."
    )
    beside = judged(entry("qa", MAJORITY, MAJORITY), entry("qra", MAJORITY, answers(0.83, 1)), entry("tf-idf", TRUTH))
    assert (beside.recommendation or "").startswith(
        "Use TF-IDF (100.0 %): qra beats the most frequent label on average"
    )


def test_no_reasons_are_recommended_of_an_arm_that_learned_nothing() -> None:
    """qra was 30 points behind and below the most frequent label: `If you want a reason with each label, use qra`."""
    bad = judged(entry("qa", answers(0.8, 1)), entry("qra", answers(0.5, 2)), entry("tf-idf", answers(0.79, 3)))
    assert bad.recommended == "tf-idf"
    assert "reason" not in (bad.recommendation or "")


def test_how_far_the_arm_with_reasons_is_behind_is_said() -> None:
    arms = entry("qa", answers(0.9, 1)), entry("qra", answers(0.75, 2))
    good = judged(*arms, entry("tf-idf", answers(0.89, 3))).recommendation or ""
    assert good.startswith("Use TF-IDF (89.0 %): qa (90.0 %) is not shown to be better, and TF-IDF is cheaper. If you")
    assert "use qra (75.0 %), which is 14.0 points (95 % interval" in good
    assert good.endswith(") worse.")


def test_a_loss_is_said_of_the_classifiers_not_of_their_ways_of_training() -> None:
    """With one seed the report said that TF-IDF is worse or better than `qa`: another seed's may be the better one."""
    found = judged(entry("qa", answers(0.8, 1)), entry("qra", answers(0.65, 2)), entry("tf-idf", answers(0.95, 3)))
    assert found.headline == headlines.BEHIND_TFIDF
    assert "Every arm, as trained here, is worse than TF-IDF" in (found.verdict or "")
    assert (found.recommendation or "").endswith("better than this qa classifier.")
    assert "tf-idf (95.0 %) is better than every arm as trained here." in found.warnings


def test_a_rare_label_that_is_found_is_not_called_nothing_learned() -> None:
    """12 of 400 rows have the rare label, so no arm can gain more than 3 points: a gain of 5 was excluded whatever the
    arm did."""
    truth = np.repeat([1, 0], [12, 388])
    found_rare = np.repeat([1, 0, 1, 0], [9, 3, 2, 386])
    found = judged(entry("qa", found_rare), entry("qra", np.roll(found_rare, 1)), truth=truth)
    assert found.headline == headlines.too_few_rows(400)
    assert not (found.recommendation or "").startswith("Use none")
    blind = judged(entry("qa", np.zeros(400, int)), entry("qra", np.zeros(400, int)), truth=truth)
    assert blind.headline == headlines.NOTHING_LEARNED, "without any gain, half of the 3 points is excluded"


def test_an_arm_that_pays_for_a_rare_label_with_false_alarms_has_learned_something() -> None:
    """It finds 200 of 300 rare rows among 10,000, with 200 false alarms: as accurate as never answering it."""
    truth = np.repeat([1, 0], [300, 9700])
    labels = np.repeat([1, 0, 1, 0], [200, 100, 200, 9500])
    found = judged(entry("qa", labels), entry("qra", np.zeros(10_000, int)), truth=truth)
    assert found.headline == headlines.NO_MORE_ACCURATE
    assert "But qa agrees with the true labels more than by chance" in (found.verdict or "")
    assert "Nothing" not in (found.verdict or "")


def test_of_many_arms_one_agrees_more_than_by_chance_by_chance() -> None:
    """It finds 19 of 100 rare rows with 90 false alarms of 900: beside three that learned nothing, that is luck."""
    truth = np.repeat([1, 0], [100, 900])
    lucky, blind = np.repeat([1, 0, 1, 0], [19, 81, 90, 810]), np.zeros(1000, int)
    alone = judged(entry("qa", lucky), truth=truth)
    assert "But qa agrees with the true labels more than by chance" in (alone.verdict or "")
    among_four = judged(entry("qa", lucky), *(entry(name, blind) for name in ("qra", "qar", "qarqa")), truth=truth)
    assert "more than by chance" not in (among_four.verdict or "")
    assert among_four.headline == headlines.NOTHING_LEARNED


def test_an_arm_that_learned_and_was_not_chosen_is_named() -> None:
    """qar had 81 %, and the recommendation said that none beats the most frequent label."""
    arms = entry("qa", MAJORITY), entry("qra", MAJORITY, validation=0.8), entry("qar", answers(0.81, 1))
    found = judged(*arms)
    assert found.chosen == "qra"
    assert found.recommendation == (
        "No recommendation: qa and qra are not shown to beat always answering the most frequent label. qar (81.0 %) is "
        "shown to beat it, but was not chosen on the validation rows."
    )
    warning = "qra, the chosen arm, is not shown to beat always answering the most frequent label; qar is."
    assert warning in found.warnings
    assert warning not in judged(*arms[:2]).warnings


@pytest.mark.parametrize("label", [0, 1])
def test_test_rows_of_one_label_show_nothing_whichever_label_it_is(label: int) -> None:
    """Of 100 rows of a label that is not the most frequent one, `Use qa (100.0 %)` came without a warning."""
    ones = np.full(100, label)
    found = judged(entry("qa", ones), entry("qra", ones), entry("tf-idf", ones), truth=ones)
    assert found.headline == headlines.ONE_LABEL
    assert (
        found.verdict == f"All 100 test rows have the label {'ab'[label]!r}, so nothing shows what an arm has learned."
    )
    assert found.recommended is None
    assert (found.recommendation or "").startswith("No recommendation: 100 test rows of one label cannot show")


def test_where_no_arm_learned_the_cheapest_baseline_is_recommended() -> None:
    """The encoder was 0.2 points ahead, at a thousand times the cost."""
    arms = entry("qa", MAJORITY), entry("qra", MAJORITY)
    even = judged(*arms, entry("tf-idf", answers(0.81, 1)), entry("encoder", answers(0.815, 2)))
    assert even.recommended == "tf-idf"
    better = judged(*arms, entry("tf-idf", answers(0.65, 1)), entry("encoder", answers(0.9, 2)))
    assert better.recommended == "encoder"
