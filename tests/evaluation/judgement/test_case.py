"""The comparisons of classifiers that the headline, the recommendation and the warnings rest on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rir_mlx.evaluation.comparison import paired
from rir_mlx.evaluation.entries import EntryPredictions
from rir_mlx.evaluation.judgement import judge, learning
from rir_mlx.evaluation.judgement.case import Case
from rir_mlx.evaluation.judgement.recommendation import recommend
from rir_mlx.evaluation.judgement.warnings import warnings
from rir_mlx.evaluation.schema import EntryKind
from rir_mlx.evaluation.scores import EvaluationRows
from rir_mlx.statistics.intervals import rows_interval
from rir_mlx.statistics.paired_tests import is_better

TRUTH = np.arange(400) % 2
ROWS = EvaluationRows(["a", "b"], np.zeros(600, int), TRUTH, np.ones(400, dtype=np.bool_))
ARMS, BASELINES = ("qa", "qra", "qar"), ("majority", "tf-idf", "embedding")


def entry(name: str, accuracy: float, seed: int = 0) -> EntryPredictions:
    rng = np.random.default_rng([seed, *name.encode()])
    right = rng.normal(np.random.default_rng(seed).normal(0, 1, 400), 1) < np.sqrt(2) * (2 * accuracy - 1) * 1.2533
    kind: EntryKind = "baseline" if name in BASELINES else "arm"
    answered = np.where(right, TRUTH, 1 - TRUTH)
    return EntryPredictions(name, kind, np.eye(2)[answered][None], fields={"validation_accuracy": 0.5})


def case_of(entries: Sequence[EntryPredictions]) -> Case:
    return Case(entries, [], ROWS, next(found for found in entries if found.name == "majority"))


def test_headline_recommendation_warnings_and_table_never_contradict_each_other() -> None:
    """The warning that a baseline is better than every arm was not corrected for the number of comparisons, and the
    recommendation was: one report said that TF-IDF is better than every arm, and to use an arm."""
    seen, uncorrected, none = 0, 0, "No arm is shown to be better than "
    for seed in range(40):
        drawn = np.random.default_rng(seed)
        arms = [entry(name, drawn.uniform(0.5, 0.6), seed) for name in ARMS]
        baselines = [entry(name, drawn.uniform(0.42, 0.68), seed) for name in BASELINES]
        case = case_of([*arms, *baselines])
        said, advice, headline = warnings(case), recommend(case, "qra"), judge.failure_to_learn(case)
        best = {line.partition(" (")[0] for line in said if line.endswith("is better than every arm as trained here.")}
        unbeaten = {line.removeprefix(none).partition(" (")[0] for line in said if line.startswith(none)}
        title = headline[0].text if headline else ""
        assert title.startswith(("TF-IDF beats", "Nothing learned") if "tf-idf" in best else ("Nothing", ""))
        assert "tf-idf" in best or not title.startswith("TF-IDF beats")
        beaten = {base.name for base in baselines if any(is_better(paired(base, arm, ROWS, 6)) for arm in arms)}
        assert beaten == {*BASELINES} - best - unbeaten
        if advice.name in ARMS:
            assert not best
            assert "majority" not in unbeaten
        seen += bool(best)
        hits = {found.name: (found.probabilities.argmax(-1) == TRUTH).astype(float) for found in case.entries}
        alone = [all(rows_interval(hits[arm] - hits[base]).high < 0 for arm in ARMS) for base in BASELINES]
        uncorrected += sum(alone) > len(best)
    assert seen >= 5
    assert uncorrected >= 3, "the draws hold cases that an uncorrected comparison decides otherwise"


def test_how_seeds_spread_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()
    monkeypatch.setattr(
        "rir_mlx.evaluation.judgement.case.unstable", lambda hits: calls.append(1) or learning.unstable(hits)
    )
    case = case_of([entry("qa", 0.55), entry("qra", 0.6), entry("majority", 0.3)])
    assert not case.spreads
    assert not [said for said in warnings(case) if "unstable" in said]
    assert len(calls) == 2, "one for each arm"
