"""Accuracy against training rows: parts that are nested, trained once, and a conclusion that the intervals allow."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from evaluated_run import evaluated, kept, opened

from rir_mlx import stages
from rir_mlx.classification.scores import LabelScores
from rir_mlx.data.rows import Row
from rir_mlx.data.splits import nested_part
from rir_mlx.errors import RecipeError
from rir_mlx.evaluation.cleaning import row_faults
from rir_mlx.evaluation.judgement.case import Case
from rir_mlx.evaluation.judgement.headline import DIFFERENT_STEPS
from rir_mlx.evaluation.learning_curve import conclusion, learning_curve
from rir_mlx.evaluation.schema import Headline
from rir_mlx.evaluation.scores import ClassifierScores, EvaluationRows, MeasuredArm
from rir_mlx.guide.planning import plan
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.stages.evaluation import _that_learned
from rir_mlx.stages.measuring import measure_learning_curve
from rir_mlx.statistics.intervals import Interval
from rir_mlx.statistics.paired_tests import PairedComparison, SeedComparison


def gain(value: float, spread: float = 0.02) -> Interval:
    return Interval(value, value - spread, value + spread)


def with_reasonings(change: Interval, seeds: int) -> PairedComparison:
    return PairedComparison("qa", "qra", 400, change, (SeedComparison(change.value, 30, 10, 0.002),) * seeds)


@pytest.mark.parametrize(
    ("labels", "reasoning", "said"),
    [
        (
            gain(0.06),
            None,
            "qa changed by +6.0 points (95 % interval +4.0 to +8.0) (one seed). With one seed, that is about these two",
        ),
        (gain(0.0, 0.01), None, "More labels may hardly help."),
        (gain(0.01, 0.03), None, "whether more labels would help is unclear."),
        (
            gain(-0.06),
            None,
            "(one seed). With one seed, that is about these two classifiers. The seed, chance or rows of another kind "
            "can do that: more labels may not help.",
        ),
        (gain(0.06), gain(0.01), "Reasonings (qra) changed it by +1.0 points (95 % interval -1.0 to +3.0), less than"),
        (gain(0.01), gain(0.09), "(95 % interval +7.0 to +11.0), more than the labels."),
        (gain(0.06), gain(0.05), "and which of the two helps more is unclear."),
        (gain(0.0, 0.01), gain(-0.1, 0.04), "(95 % interval -14.0 to -6.0), which did not help."),
        (gain(-0.1, 0.04), gain(0.0, 0.01), "and which of the two helps more is unclear."),
        (gain(-0.09, 0.01), gain(-0.06, 0.01), "which did not help."),
    ],
)
def test_the_conclusion_claims_what_the_intervals_show(labels: Interval, reasoning: Interval | None, said: str) -> None:
    text = conclusion("qa", (500, 1000), labels, None if reasoning is None else with_reasonings(reasoning, seeds=3))
    assert text.startswith("From 500 to 1,000 training rows, qa changed by ")
    assert said in text


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        (
            1,
            "This qra classifier has +19.2 points (95 % interval +17.2 to +21.2) against qa, more than the labels; one",
        ),
        (
            2,
            "These 2 qra classifiers have +19.2 points (95 % interval +17.2 to +21.2) against qa, more than the labels",
        ),
    ],
)
def test_few_seeds_say_what_these_reasoning_classifiers_gained(seeds: int, said: str) -> None:
    """One seed of each, and reasonings `changed it by +19.2 points, more than the labels`."""
    text = conclusion("qa", (500, 1000), gain(0.01), with_reasonings(gain(0.192), seeds))
    assert said in text
    assert "Reasonings" not in text


def test_a_curve_goes_from_few_rows_to_all_and_its_gain_is_paired() -> None:
    luck = np.random.default_rng(0).random(400)
    found = learning_curve("qa", 3, {1000: luck < 0.8, 250: luck < 0.6, 500: luck < 0.7})
    assert [point.rows for point in found.points] == [250, 500, 1000]
    assert [point.accuracy.value for point in found.points] == sorted(point.accuracy.value for point in found.points)
    assert found.gain.value == pytest.approx((luck < 0.8).mean() - (luck < 0.7).mean())
    assert found.gain.high - found.gain.low < 0.07, "not the interval of two samples of their own"
    assert "(one seed). With one seed, that is about these two classifiers. More labels may help." in found.text


def test_smaller_parts_are_in_larger_ones_and_every_label_is_in_each() -> None:
    rows = [Row(f"text {number}", "joy" if number % 10 else "rare", id=str(number)) for number in range(40)]
    parts = [{row.id for row in nested_part(rows, percent, 0)} for percent in (10, 25, 50)]
    assert [len(part) for part in parts] == [4, 10, 20]
    assert parts[0] < parts[1] < parts[2]
    assert all({row.label for row in rows if row.id in part} == {"joy", "rare"} for part in parts)
    assert len(nested_part(rows[:3], 25, 0)) == 2, "a row of each label"


def test_the_arm_of_a_curve_is_one_that_is_trained() -> None:
    with pytest.raises(RecipeError, match="learning_curve names qar, which is not among arms"):
        load_recipe(None, ("classifier.arms=[qa, qra]", "classifier.learning_curve=qar"))


def test_a_run_trains_the_parts_once_and_shows_their_curve(
    evaluated_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "classifier.learning_curve=qra"
    trained = {path: path.read_bytes() for path in evaluated_run.glob("classifier-*/done.json")}
    context = opened("runs/small", key)
    assert [stage.name for stage in plan(context)] == ["learning curve"]
    stages.train_learning_curve(context)
    found, train = evaluated(key), len(context.data.train)
    curve, qra = found["learning_curve"], next(line for line in found["entries"] if line["name"] == "qra")
    assert [point["rows"] for point in curve["points"]] == [round(train / 4), round(train / 2), train]
    assert curve["points"][-1]["accuracy"]["value"] == pytest.approx(qra["by_seed"]["accuracy"][0])
    assert "against qa" not in curve["text"], "nothing was learned, so nothing is said of reasonings"
    assert curve["text"] in (evaluated_run / "report.html").read_text(encoding="utf-8")
    done = {path: path.read_bytes() for path in evaluated_run.glob("learning-curve/*/done.json")}
    results = [json.loads(record)["results"] for record in done.values()]
    whole = json.loads(trained[evaluated_run / "classifier-qra/done.json"])["results"]
    assert {record["steps"] for record in results} == {whole["steps"]}
    assert all(record["rows"] < whole["rows"] for record in results)
    stages.train_learning_curve(opened("runs/small", key))
    assert {path: path.read_bytes() for path in done} == done
    assert {path: path.read_bytes() for path in trained} == trained, "the key changes no other training"
    with monkeypatch.context() as patched:
        check_copied_test_rows_have_no_curve(key, patched)
    check_a_part_trained_otherwise_is_left_out(key, evaluated_run / "learning-curve/qra-25/done.json")


def test_a_part_without_reasonings_ends_no_run(evaluated_run: Path) -> None:
    """A quarter of few rows may have none of the few reasonings that were kept: the run ended before it was evaluated,
    with an error that none of it had passed the filters."""
    context = opened("runs/small", "classifier.learning_curve=qar")
    path = context.run.augmented_rows("train")
    part = {row.id for row in nested_part(context.data.train, 25, context.recipe.seed)}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    others = [line for line in lines if line["id"] not in part]
    assert 0 < len(others) < len(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in others), encoding="utf-8")
    stages.train_learning_curve(context)
    assert not list(evaluated_run.glob("learning-curve/*/done.json"))


def check_copied_test_rows_have_no_curve(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every test text is a training text, an accuracy says nothing of more labels."""
    monkeypatch.setattr(
        "rir_mlx.stages.evaluation.row_faults", lambda _, texts, labels: row_faults(texts, texts, labels)
    )
    found = evaluated(key)
    assert found["learning_curve"] is None
    assert found["headline"]["text"] == "No verdict: every test text is a training or validation text."
    assert (found["recommended"], found["recommendation"]) == (None, None)
    assert len(found["entries"]) == len(kept(Path("runs/small"))["entries"]) > 3, "the figures are there"


def test_nothing_is_said_of_reasonings_where_there_is_no_verdict() -> None:
    case = Case([], [SimpleNamespace(name="qra")], EvaluationRows([], *[np.zeros(0, int)] * 2, np.zeros(0, bool)), None)  # type: ignore
    assert not _that_learned(case, DIFFERENT_STEPS)
    assert _that_learned(case, Headline(text="No evidence.", finding="unclear")) == case.results


def check_a_part_trained_otherwise_is_left_out(key: str, record: Path) -> None:
    """Of a training that was stopped between the arm and its parts: the parts of the training before say nothing."""
    values = json.loads(record.read_text(encoding="utf-8"))
    values["inputs"]["classifier"]["learning_rate"] *= 2
    record.write_text(json.dumps(values), encoding="utf-8")
    context, scores = opened("runs/small", key), LabelScores(np.zeros((1, 2)), [None], [0], [0])
    measured = MeasuredArm("qra", [ClassifierScores("reasoned", {}, {"reasoned": scores}, {})], [])
    rows = EvaluationRows(["joy", "fear"], np.zeros(0, int), np.zeros(1, int), np.ones(1, bool))
    assert measure_learning_curve(context, measured, rows) == {}


def test_without_a_curve_nothing_more_is_trained(evaluated_run: Path) -> None:
    context = opened("runs/small")
    stages.train_learning_curve(context)
    assert not (evaluated_run / "learning-curve").exists()
    assert "learning curve" not in [name for name, _ in stages.in_order(context)]
