"""The headline, the recommendation and the warnings of whole comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from rir_mlx.evaluation.comparison import compare_entries
from rir_mlx.evaluation.entries import EntryPredictions
from rir_mlx.evaluation.judgement import headline as headlines
from rir_mlx.evaluation.judgement.case import Case
from rir_mlx.evaluation.judgement.headline import headline
from rir_mlx.evaluation.judgement.judge import Judgement, judge
from rir_mlx.evaluation.schema import EntryKind, InferenceCost, TrainingCost
from rir_mlx.evaluation.scores import EvaluationRows
from rir_mlx.statistics.intervals import Interval
from rir_mlx.statistics.paired_tests import PairedComparison, SeedComparison

ROWS = 400
KINDS: dict[str, EntryKind] = {"qra-words": "control", "tf-idf": "baseline", "majority": "baseline"}
FALLING = [{"step": 10 * place, "loss": 2 - 0.2 * place} for place in range(1, 6)]


def entry(name: str, *accuracies: float, validation: float = 0.5, tokens: float = 0.0) -> EntryPredictions:
    """Of these accuracies by seed, on rows of which some are hard for all."""
    luck = np.random.default_rng(0).permutation(ROWS) / ROWS
    own = np.random.default_rng(list(name.encode())).normal(0, 0.05, (len(accuracies), ROWS))
    if name == "majority":
        luck = np.random.default_rng(1).permutation(ROWS) / ROWS
    right = luck + own < np.reshape(accuracies, (-1, 1))
    probabilities = np.where(right[..., None], [0.9, 0.05, 0.05], [0.05, 0.9, 0.05])
    probabilities[:, 1::2] = probabilities[:, 1::2][..., [1, 0, 2]]  # every other row has the other label
    fields: dict[str, Any] = {}
    if KINDS.get(name) != "baseline":
        fields = {
            "validation_accuracy": validation,
            "cost": InferenceCost(tokens_generated=tokens, seconds=0.01),
        }
    return EntryPredictions(name, KINDS.get(name, "arm"), probabilities, range(len(accuracies)), fields=fields)


def cost_of(steps: int) -> TrainingCost:
    return TrainingCost(steps=steps, planned=steps, tokens=100, rows=300, seconds=1)


def judged(
    *entries: EntryPredictions,
    journals: dict[str, Any] | None = None,
    leaked: int = 0,
    steps: Mapping[str, int] = MappingProxyType({}),
) -> Judgement:
    truth = np.arange(ROWS, dtype=np.int64) % 2
    rows = EvaluationRows(
        ["bug", "praise", "question"], np.zeros(600, dtype=np.int64), truth, np.arange(ROWS) >= leaked, leaked=leaked
    )
    results = [
        result
        if result.kind == "baseline"
        else result.model_copy(update={"training": cost_of(steps.get(result.name, 10))})
        for result in compare_entries(entries, rows)
    ]
    return judge(Case(entries, results, rows, entry("majority", 0.3), journals or {}))


def words(text: str) -> int:
    return len(text.split())


def test_reasoning_that_helps_is_the_headline_and_the_recommendation() -> None:
    found = judged(entry("qa", 0.6, 0.61, 0.59), entry("qra", 0.8, 0.81, 0.79, tokens=40), entry("tf-idf", 0.5))
    assert found.headline.finding == "helped"
    assert found.headline.text.startswith("Reasoning helped: qra is 19.9 points")
    assert found.recommended == "qra"
    assert found.recommendation is not None
    assert found.recommendation.startswith("Use qra (")
    assert "with the first seed, which is used, it is 19." in found.recommendation
    assert "better than this qa classifier." in found.recommendation


def test_arms_of_unequal_steps_get_no_verdict() -> None:
    arms = (entry("qa", 0.6, 0.61, 0.59), entry("qra", 0.8, 0.81, 0.79, tokens=40))
    assert judged(*arms, steps={"qra": 30}).headline == headlines.DIFFERENT_STEPS
    assert "qa 10, qra 30" in (judged(*arms, steps={"qra": 30}).verdict or "")


def test_reasoning_that_hurts_is_not_recommended() -> None:
    found = judged(entry("qa", 0.8, 0.81, 0.79), entry("qra", 0.6, 0.61, 0.59, tokens=40))
    assert found.headline.finding == "hurt"
    assert found.recommended == "qa"


def test_without_a_difference_the_cheapest_is_recommended_and_the_one_with_reasons_named() -> None:
    found = judged(entry("qa", 0.6, 0.61, 0.59), entry("qra", 0.6, 0.61, 0.59, tokens=40))
    assert found.headline == headlines.Headline(text="No evidence that reasoning helped or hurt.", finding="unclear")
    assert found.recommended == "qa"
    assert "If you want a reason with each label, use qra (" in (found.recommendation or "")


def test_nothing_learned_is_the_headline_before_all_else_and_the_losses_tell_why() -> None:
    """All arms near 20 %, TF-IDF at 100 %, and the verdict spoke of reasoning."""
    found = judged(
        entry("qa", 0.19), entry("qra", 0.2), entry("tf-idf", 2.0), journals={"qa": [FALLING], "qra": [FALLING]}
    )
    assert found.headline == headlines.NOTHING_LEARNED
    assert "reasoning helped" not in (found.verdict or "")
    assert "the loss of qa and qra was still falling" in (found.verdict or "")
    assert (found.recommended, found.recommendation) == ("tf-idf", "Use TF-IDF (100.0 %) until an arm learns the task.")
    assert "tf-idf (100.0 %) is better than every arm as trained here." in found.warnings
    assert any(warning.startswith("Trained too briefly") for warning in found.warnings)
    alone = judged(entry("qa", 0.19), entry("qra", 0.2))
    assert alone.recommended is None
    assert (alone.recommendation or "").startswith("Use none of these")


def of_rows(right: Sequence[int], count: int, name: str = "qa") -> EntryPredictions:
    """One seed that is correct on the rows at these places."""
    probabilities = np.tile([0.1, 0.9], (1, count, 1))
    probabilities[0, list(right)] = [0.9, 0.1]
    probabilities[:, 1::2] = probabilities[:, 1::2][..., [1, 0]]  # every other row has the other label
    return EntryPredictions(name, KINDS.get(name, "arm"), probabilities, [0], fields={"validation_accuracy": 0.5})


def of_few(count: int, majority: Sequence[int], *entries: EntryPredictions) -> Judgement:
    rows = EvaluationRows(["a", "b"], np.zeros(600, int), np.arange(count) % 2, np.ones(count, dtype=np.bool_))
    results = [found.model_copy(update={"training": cost_of(10)}) for found in compare_entries(entries, rows)]
    return judge(Case(entries, results, rows, of_rows(majority, count, "majority")))


def test_few_test_rows_are_not_said_to_show_that_nothing_was_learned() -> None:
    """20 rows, 50 % for the most frequent label and 75 % for the arms: `Nothing learned`, and `Use none of these`."""
    found = of_few(20, range(10), of_rows(range(5, 20), 20), of_rows(range(5, 20), 20, "qra"))
    assert found.headline.finding == "unclear"
    assert found.headline.text == "20 test rows cannot show whether any arm beats the majority label."
    assert words(found.headline.text) == 12
    assert "More test rows" in (found.verdict or "")
    assert (found.recommended, (found.recommendation or "")[:18]) == (None, "No recommendation:")


def test_the_cheaper_arm_is_not_recommended_unless_it_beats_the_most_frequent_label() -> None:
    """Label-only is not shown to differ from the reasoning arm, nor from the most frequent label."""
    majority, label_only = range(100), [*range(90), *range(150, 180)]
    found = of_few(200, majority, of_rows(label_only, 200), of_rows([*range(80), *range(145, 200)], 200, "qar"))
    assert found.recommended == "qar"


def test_arms_that_tfidf_is_not_shown_to_beat_are_compared_with_each_other() -> None:
    found = judged(entry("qa", 0.7, 0.7, 0.7), entry("qra", 0.62, 0.62, 0.62, tokens=40), entry("tf-idf", 0.71))
    assert found.headline.text.startswith("Reasoning hurt: qra is 7.")
    assert "That is evidence that reasoning hurt here." in (found.verdict or "")


@pytest.mark.parametrize(("reasoning", "tfidf", "better_than"), [(0.4, 0.78, "qa"), (0.7, 0.74, "qra")])
def test_arms_that_all_lose_to_tfidf_are_no_evidence_about_reasoning(
    reasoning: float, tfidf: float, better_than: str
) -> None:
    """Arms four points behind were compared nonetheless: `evidence that reasoning helped here`."""
    arms = entry("qa", 0.6, 0.6, 0.6), entry("qra", reasoning, reasoning, reasoning, tokens=40)
    found = judged(*arms, entry("tf-idf", tfidf))
    assert found.headline == headlines.BEHIND_TFIDF
    says_nothing_of_reasoning(found)
    assert found.recommended == "tf-idf"
    assert f"better than this {better_than} classifier." in (found.recommendation or "")


def says_nothing_of_reasoning(found: Judgement) -> None:
    said = f"{found.headline.text} {found.verdict}"
    assert not [word for word in ("helped", "hurt", "evidence", "points") if word in said]
    assert words(found.headline.text) <= 12


@pytest.mark.parametrize(("label_only", "reasoning", "weak"), [(0.3, 0.6, "qa"), (0.8, 0.3, "qra")])
def test_an_arm_that_learned_nothing_is_no_evidence_about_reasoning(
    label_only: float, reasoning: float, weak: str
) -> None:
    """Label-only answered as often right as the most frequent label, and `Reasoning helped: qra is 30.7 points
    better`."""
    arms = entry("qa", *[label_only] * 3), entry("qra", *[reasoning] * 3, tokens=40)
    found = judged(*arms, entry("tf-idf", 0.55), journals={weak: [FALLING], "qar": [FALLING]})
    assert found.headline.text == f"No verdict: {weak} does not clearly beat the majority label."
    says_nothing_of_reasoning(found)
    assert f"for the loss of {weak} was still falling" in (found.verdict or "")


def test_two_arms_that_learned_nothing_are_named_where_a_third_did() -> None:
    arms = entry("qa", 0.3), entry("qra", 0.3, validation=0.6, tokens=40), entry("qar", 0.9)
    found = judged(*arms)
    assert found.headline.text == "No verdict: qa and qra do not clearly beat the majority label."
    says_nothing_of_reasoning(found)
    assert "Likely causes: too few training steps, an unsuitable learning rate or a model that is too small." in (
        found.verdict or ""
    )


def test_a_label_only_arm_behind_tfidf_is_no_evidence_about_reasoning() -> None:
    """What qra gains on it may be a head start."""
    found = judged(entry("qa", 0.6, 0.61, 0.59), entry("qra", 0.8, 0.81, 0.79, tokens=40), entry("tf-idf", 0.7))
    assert found.headline == headlines.LABEL_ONLY_BEHIND_TFIDF
    says_nothing_of_reasoning(found)
    said = "Label-only, as trained here (qa, 60.5 %), is worse than TF-IDF with logistic regression (70"
    assert (found.verdict or "").startswith(said)
    assert "Likely causes: too few training steps" in (found.verdict or "")
    assert found.recommended == "qra"


def test_test_rows_that_were_all_seen_in_training_give_no_verdict() -> None:
    """All 400 rows were copies of training rows: `Reasoning helped`, `Use qra`, and `qra beats tf-idf`."""
    entries = entry("qa", 0.6, 0.61, 0.59), entry("qra", 0.8, 0.81, 0.79, tokens=40), entry("tf-idf", 0.5)
    found = judged(*entries, leaked=ROWS)
    assert found.headline == headlines.ALL_SEEN
    says_nothing_of_reasoning(found)
    assert (found.recommended, found.recommendation) == (None, None)
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith("Every test text is also a training or validation text, or has two labels:")
    rows = EvaluationRows(["a", "b"], np.zeros(9, int), np.arange(ROWS) % 2, np.zeros(ROWS, bool), ROWS - 1, 1)
    case = Case(entries, compare_entries(entries, rows), rows, entry("majority", 0.3))
    assert judge(case).headline == headlines.NONE_CLEAN
    assert not [result.beats for result in case.results if result.beats]


def test_of_arms_that_cost_the_same_the_validation_rows_decide() -> None:
    """qar writes its label first. TF-IDF, which qar beats, is not recommended because qa does not."""
    found = judged(entry("qa", 0.59), entry("qar", 0.61, validation=0.6), entry("tf-idf", 0.57))
    assert found.recommended == "qar"
    assert "it costs no more than qa to run, and its validation accuracy is higher." in (found.recommendation or "")
    assert judged(entry("qa", 0.6), entry("qar", 0.6, validation=0.4)).recommended == "qa"
    even = judged(entry("qa", 0.6), entry("qar", 0.62)).recommendation or ""  # both 0.5: nothing to choose by
    assert even.startswith("Use qa (61.0 %): qar costs as much to run, and is not shown to be better. If you want")
    alone = judged(entry("qar", 0.6)).recommendation or ""
    assert alone.endswith("nothing that was measured is shown to be better.")


def test_two_seeds_far_apart_have_learned_nonetheless() -> None:
    """An interval over two seeds is 90 points wide; whether these classifiers learned is seen on the rows alone."""
    found = judged(entry("qa", 0.70, 0.72), entry("qra", 0.72, 0.84))
    assert found.headline.text == "2 seeds cannot show whether reasoning helps: train 3 or more."
    assert any(warning.startswith("qra is unstable: its seeds end at 7") for warning in found.warnings)


def test_a_baseline_that_no_arm_beats_is_recommended_for_its_cost() -> None:
    found = judged(entry("qa", 0.6, 0.6, 0.6), entry("qra", 0.6, 0.61, 0.6, tokens=40), entry("tf-idf", 0.6))
    assert found.recommended == "tf-idf"
    assert "is not shown to be better, and TF-IDF is cheaper." in (found.recommendation or "")
    assert any(warning.startswith("No arm is shown to be better than tf-idf (") for warning in found.warnings)


def test_leaked_rows_are_warned_of() -> None:
    found = judged(entry("qa", 0.6), entry("qra", 0.6), leaked=12)
    assert found.warnings[0] == (
        "12 test rows also in training or validation rows: left out of all comparisons. `rir-mlx check` lists them."
    )


def compared(value: float, spread: float, seeds: int, second: str = "qra-scrambled") -> PairedComparison:
    one = SeedComparison(value, 60 if value > 0 else 10, 10 if value > 0 else 60, 1e-6)
    return PairedComparison("qa", second, 500, Interval(value, value - spread, value + spread), (one,) * seeds)


@pytest.mark.parametrize("seeds", [1, 2, 3, 12])
@pytest.mark.parametrize("value", [0.123, -0.123])
@pytest.mark.parametrize("spread", [0.01, 0.5])
@pytest.mark.parametrize("unstable", [(), (("qra-scrambled", 12.4),)])
def test_no_headline_is_longer_than_twelve_words(
    seeds: int, value: float, spread: float, unstable: Sequence[tuple[str, float]]
) -> None:
    comparison = compared(value, spread, seeds)
    for controls in ((), ("qra-words", "qra-scrambled")):
        found = headline(comparison, controls, unstable)
        assert words(found.text) <= 12
        assert (found.finding in ("helped", "hurt")) == (seeds > 2 and spread < 0.1 and not (controls and value > 0))


def test_fixed_headlines_have_at_most_twelve_words() -> None:
    fixed = [value for value in vars(headlines).values() if isinstance(value, headlines.Headline)]
    assert len(fixed) == 11
    assert all(words(found.text) <= 12 for found in fixed)


def test_seeds_that_differ_are_said_in_the_headline_where_nothing_is_shown() -> None:
    found = headline(compared(0.02, 0.3, 3, "qra"), (), [("qra", 12.4)])
    assert found.text == "No evidence either way: seeds of qra differ by 12 points."
    assert "seeds" not in headline(compared(0.02, 0.3, 3, "qra"), (), [("qar", 12.4)]).text
