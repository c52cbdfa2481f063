"""`RirClassifier.fit`: training from lists, with scikit-learn's conventions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import LABELS, WORDS

from rir_mlx import RirClassifier
from rir_mlx.errors import RecipeError, RirError, UserError
from rir_mlx.estimator import _rows
from rir_mlx.evaluation.score_cache import ScoreCache
from rir_mlx.statistics.calibration import NO_ANSWER, Calibration

TEXTS = [f"{WORDS[label]} {number}" for number in range(20) for label in LABELS]
TRUTH = [label for _ in range(20) for label in LABELS]
WHY = [f"because of {' '.join(text.split()[-3:])}" for text in TEXTS]


@pytest.fixture
def parameters(tiny: Path, tmp_path: Path) -> dict[str, Any]:
    """Parameters for the backend that runs no model, with triples of its own."""
    triples = [{"question": f"how is {text}?", "answer": "joy", "reasoning": f"since {text}"} for text in TEXTS]
    path = tmp_path / "triples.jsonl"
    path.write_text("".join(json.dumps(triple) + "\n" for triple in triples), encoding="utf-8")
    recipe = {
        "max_seq_length": 320,
        "reasoning": {"source": str(path), "val_size": 5},
        "rgen": {"epochs": 1},
        "classifier": {"epochs": 1},
        "augment": {"max_tokens": 24, "filters": []},
        "evaluate": {"max_reasoning_tokens": 24},
    }
    return {"model": str(tiny), "backend": "fake", "offline": True, "recipe": recipe}


def test_fit_trains_the_arm_and_answers_for_every_label(parameters: dict[str, Any]) -> None:
    classifier = RirClassifier(arm="qa", **parameters)
    assert classifier.fit(TEXTS, TRUTH) is classifier
    assert classifier.classes_.tolist() == sorted(LABELS)
    probabilities = classifier.predict_proba(TEXTS[:4])
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(4))
    assert 0 <= classifier.score(TEXTS, TRUTH) <= 1
    assert len(list(classifier.run_.glob("rows-*.jsonl"))) == 1


def test_reasonings_of_ones_own_need_no_rgen(parameters: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    classifier = RirClassifier(arm="qra", run=run, **parameters).fit(TEXTS, TRUTH, WHY)
    assert not (run / "rgen").exists()
    kept = [json.loads(line) for line in (run / "augmented/train.jsonl").open(encoding="utf-8")]
    assert {row["reasoning"] for row in kept} <= set(WHY)
    assert isinstance(classifier.explain(["i feel happy today"])[0].reasoning, str)
    assert RirClassifier.load(run, arm="qra", backend="fake").classes_.tolist() == sorted(LABELS)


def test_without_reasonings_rgen_learns_from_the_recipes_triples(parameters: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    classifier = RirClassifier(run=run, **parameters).fit(TEXTS, TRUTH)
    assert classifier.classifier.arm == "qra"
    assert (run / "rgen/done.json").is_file()
    assert (run / "augmented/done.json").is_file()


def test_a_second_fit_in_the_same_run_trains_nothing_again(parameters: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    first = RirClassifier(arm="qa", run=run, **parameters).fit(TEXTS, TRUTH)
    done = (run / "classifier-qa/done.json").read_text(encoding="utf-8")
    second = RirClassifier(arm="qa", run=run, **parameters).fit(TEXTS, TRUTH)
    assert (run / "classifier-qa/done.json").read_text(encoding="utf-8") == done
    assert second.predict_proba(TEXTS).tolist() == first.predict_proba(TEXTS).tolist()


def test_probabilities_are_calibrated_on_the_rows_set_aside(parameters: dict[str, Any]) -> None:
    recipe = parameters["recipe"] | {"data": {"val_size": 24}}
    fitted = RirClassifier(arm="qa", **parameters | {"recipe": recipe}).fit(TEXTS, TRUTH)
    assert fitted.classifier.calibration.rows == 24
    few = RirClassifier(arm="qa", **parameters).fit(TEXTS, TRUTH).classifier.calibration
    assert few == Calibration()


def test_where_too_few_rows_can_show_the_wanted_accuracy_every_text_is_abstained_on(
    parameters: dict[str, Any],
) -> None:
    """Six rows set aside: the classifier answered everything, as if no accuracy had been asked for."""
    recipe = parameters["recipe"] | {"evaluate": {"wanted_accuracy": 0.9}}
    few = RirClassifier(arm="qa", **parameters | {"recipe": recipe}).fit(TEXTS, TRUTH).classifier.calibration
    assert {threshold.confidence for threshold in (few.answer_from or {}).values()} == {NO_ANSWER}


def test_validation_rows_are_scored_once_for_an_adapter(
    parameters: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters["recipe"] |= {"data": {"val_size": 24}}
    first = RirClassifier(arm="qra", run=tmp_path / "mine", **parameters).fit(TEXTS, TRUTH, WHY)
    monkeypatch.setattr(ScoreCache, "classifier", None)  # nothing is left to score
    again = RirClassifier(arm="qra", run=tmp_path / "mine", **parameters).fit(TEXTS, TRUTH, WHY)
    assert again.classifier.calibration == first.classifier.calibration


def test_scikit_learn_clones_changes_and_validates_it(parameters: dict[str, Any]) -> None:
    base = pytest.importorskip("sklearn.base")
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.utils.validation import check_is_fitted

    classifier = RirClassifier(arm="qa", threshold=0.2, **parameters)
    copy = base.clone(classifier)
    assert copy is not classifier
    assert copy.get_params() == classifier.get_params()
    assert classifier.set_params(arm="qar", threshold=None).arm == "qar"
    with pytest.raises(ValueError, match="Invalid parameter 'arms'"):
        classifier.set_params(arms=["qa"])
    classifier.set_params(arm="qa")
    scores = cross_val_score(classifier, np.array(TEXTS), np.array(TRUTH), cv=2)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()
    search = GridSearchCV(classifier, {"random_state": [0, 1]}, cv=2).fit(TEXTS, TRUTH)
    assert search.best_params_["random_state"] in (0, 1)
    check_is_fitted(search.best_estimator_)


def test_nothing_is_answered_before_it_is_trained() -> None:
    exceptions = pytest.importorskip("sklearn.exceptions")
    with pytest.raises(exceptions.NotFittedError, match="call fit"):
        RirClassifier().predict(["a"])
    with pytest.raises(UserError, match="Only what fit trained"):
        RirClassifier().save("somewhere")


def test_labels_that_are_numbers_come_back_as_numbers_in_their_order(parameters: dict[str, Any]) -> None:
    """`10` sorts before `9` as a text, and scikit-learn's metrics compare values, not names."""
    numbers = np.array([{"joy": 9, "sadness": 10, "anger": 2}[label] for label in TRUTH])
    classifier = RirClassifier(arm="qa", **parameters).fit(TEXTS, numbers)
    assert classifier.classes_.tolist() == [2, 9, 10]
    predicted, probabilities = classifier.predict(TEXTS), classifier.predict_proba(TEXTS)
    assert predicted.dtype.kind == "i"
    assert predicted.tolist() == classifier.classes_[probabilities.argmax(1)].tolist()
    assert classifier.score(TEXTS, numbers) == np.mean(predicted == numbers)
    with pytest.raises(ValueError, match="numbers cannot express"):
        RirClassifier(threshold=0.5, **parameters).fit(TEXTS, numbers)


@pytest.mark.parametrize(
    ("texts", "labels", "reasonings", "words"),
    [
        (TEXTS, TRUTH[1:], None, "60 texts, 59 labels and 60 reasonings"),
        (TEXTS, TRUTH, WHY[1:], "60 labels and 59 reasonings"),
        (TEXTS, [*TRUTH[1:], None], None, "no label"),
        (["", *TEXTS[1:]], TRUTH, None, "the text is empty"),
        (TEXTS, [0, *TRUTH[1:]], None, "labels are numbers and texts"),
        (TEXTS, [1, *["1"] * 59], None, "labels are numbers and texts"),
        (TEXTS, [1, *[True] * 59], None, "labels are numbers and truth values"),
    ],
)
def test_rows_that_do_not_fit_together_are_refused(
    parameters: dict[str, Any], texts: Any, labels: Any, reasonings: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        RirClassifier(**parameters).fit(texts, labels, reasonings)


def test_a_fitted_classifier_is_saved_as_a_run(
    parameters: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = RirClassifier(arm="qa", descriptions={"joy": "glad"}, **parameters).fit(TEXTS, TRUTH)
    saved = classifier.save(tmp_path / "kept")
    loaded = RirClassifier.load(saved, backend="fake")
    assert loaded.predict_proba(TEXTS).tolist() == classifier.predict_proba(TEXTS).tolist()
    assert loaded.classifier.task.labels["joy"] == "glad"
    with pytest.raises(UserError, match="exists"):
        classifier.save(saved)
    monkeypatch.setattr("shutil.copytree", lambda source, target: (target / "half").mkdir(parents=True) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        classifier.save(tmp_path / "stopped")
    assert not (tmp_path / "stopped").exists(), "half a folder would be in the way of the next call"


def test_a_shipped_recipe_keeps_its_training_and_gives_up_its_rows() -> None:
    classifier = RirClassifier(recipe="demo", arm="qa")
    recipe = classifier._recipe(Path("runs/mine"), [{"label": "b"}, {"label": "a"}])
    assert (recipe.model, recipe.fine_tune_type, recipe.classifier.arms) == ("builtin:tiny-llama", "full", ("qa",))
    assert (recipe.data.validation, list(recipe.data.labels), recipe.data.val_size) == (None, ["a", "b"], 0.1)
    assert Path(recipe.data.train.path).match("runs/mine/rows-*.jsonl")


def test_a_reasoning_that_is_missing_is_none() -> None:
    """NaN, as pandas reads an empty cell, was a reasoning."""
    pandas = pytest.importorskip("pandas")
    given = [None, "", " ", float("nan"), np.float64("nan"), pandas.NA, pandas.NaT, "since it rains"]
    rows, _ = _rows(["a"] * 8, ["x", "y"] * 4, given)
    assert [row.get("reasoning") for row in rows] == [None] * 7 + ["since it rains"]
    with pytest.raises(TypeError, match=r"reasonings\[1\] is not a string but 3"):
        _rows(["a", "b"], ["x", "y"], [None, 3])


@pytest.mark.parametrize("labels", [[["x"], ["x", "y"]], [("x",), ()], [{"x": 2}, {"y": 1}], np.eye(2, dtype=int)])
def test_several_labels_or_votes_a_text_are_refused_with_what_takes_them(labels: Any) -> None:
    """Only "the label is not a string" was said; of a frame, how many columns it has."""
    pandas = pytest.importorskip("pandas")
    for given in (labels, pandas.DataFrame({"x": [1, 0], "y": [1, 1]})):
        with pytest.raises(ValueError, match=r"fit takes one label a text, not a .*data\.label_separator"):
            _rows(["a", "b"], given, None)


def test_what_a_recipe_says_beside_its_rows_stays(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data: {train: a.csv, text_column: t, instruction: 'Which mood?', val_size: 0.2, max_samples: 50,"
        " labels: {joy: good, anger: cross}}",
        encoding="utf-8",
    )
    rows, _ = _rows(TEXTS, TRUTH, None)
    made = RirClassifier(recipe=path, descriptions={"anger": "furious"})._recipe(tmp_path / "run", rows).data
    assert (made.instruction, made.val_size, made.max_samples, made.text_column) == ("Which mood?", 0.2, 50, "text")
    assert made.labels == {"anger": "furious", "joy": "good", "sadness": ""}
    plain = RirClassifier()._recipe(tmp_path / "run", rows).data
    assert (plain.val_size, plain.max_samples, "emotion" in plain.instruction) == (0.1, None, False)


def test_a_run_is_in_one_folder_and_faults_are_told_before_it_is_made(tmp_path: Path) -> None:
    rows, _ = _rows(TEXTS, TRUTH, None)
    assert RirClassifier(recipe={"name": "other"})._recipe(tmp_path / "run", rows).name == "run"
    with pytest.raises(ValueError, match="my-run"):
        RirClassifier(run=tmp_path / "my run").fit(TEXTS, TRUTH)
    for wrong, words in (({"recipe": {"clasifier": {}}}, "unknown key 'clasifier'"), ({"random_state": None}, "seed")):
        with pytest.raises(RecipeError, match=words):
            RirClassifier(run=tmp_path / "run", **wrong).fit(TEXTS, TRUTH)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    other, _ = _rows(TEXTS[1:], TRUTH[1:], None)
    recipes = [RirClassifier()._recipe(tmp_path / "run", given).data.train.path for given in (rows, other, rows)]
    assert recipes[0] == recipes[2] != recipes[1]


def test_a_mapping_with_rows_of_its_own_leaves_their_file_alone(parameters: dict[str, Any], tmp_path: Path) -> None:
    """A recipe file that was loaded as a dictionary: `fit` wrote its rows over the table that `data.train` names."""
    table = tmp_path / "mine.csv"
    table.write_text("text,label\nof another table,joy\n", encoding="utf-8")
    data = {"train": str(table), "test": str(table), "labels": ["joy", "fear"], "val_size": 7, "text_column": "text"}
    recipe = parameters["recipe"] | {"name": "other", "data": data, "classifier": {"epochs": 1, "arms": ["qra", "qar"]}}
    fitted = RirClassifier(arm="qa", **parameters | {"recipe": recipe}).fit(TEXTS, TRUTH)
    assert table.read_text(encoding="utf-8") == "text,label\nof another table,joy\n"
    assert fitted.classes_.tolist() == sorted(LABELS)
    done = json.loads((fitted.run_ / "classifier-qa/done.json").read_text(encoding="utf-8"))
    assert done["results"]["rows"] == len(TEXTS) - 7


def test_parameters_are_not_overruled_by_a_mapping(parameters: dict[str, Any], tmp_path: Path) -> None:
    """GridSearchCV over `model` or `random_state` trained the same classifier every time, that of the mapping."""
    rows, _ = _rows(TEXTS, TRUTH, None)
    recipe = {"model": "a/b", "revision": "c", "data": {"instruction": "Which mood?", "labels": {"joy": "glad"}}}
    kept = RirClassifier(recipe=recipe)._recipe(tmp_path / "run", rows)
    assert (kept.model, kept.revision, kept.data.instruction) == ("a/b", "c", "Which mood?")
    assert kept.data.labels == {"anger": "", "joy": "glad", "sadness": ""}
    given = RirClassifier(recipe=recipe, model="d/e", instruction="What?", descriptions={"joy": "merry"}, samples=3)
    made = given._recipe(tmp_path / "run", rows)
    assert (made.model, made.revision, made.data.instruction) == ("d/e", None, "What?")
    assert (made.data.labels["joy"], made.evaluate.samples) == ("merry", 3)
    for seeded, key in (({"seed": 9}, "seed is 9"), ({"classifier": {"seeds": [3, 4]}}, "classifier.seeds is 3, 4")):
        with pytest.raises(ValueError, match=rf"{key}, and random_state=0"):
            RirClassifier(recipe=seeded)._recipe(tmp_path / "run", rows)
    same = RirClassifier(recipe={"seed": 9}, random_state=9)._recipe(tmp_path / "run", rows)
    assert (same.seed, same.classifier.seeds) == (9, (9,))


@pytest.mark.parametrize(
    "spelt",
    [
        {"joy": "1.0", "sadness": "2.0", "anger": "10.0"},
        {"joy": "True", "sadness": "False", "anger": "TRUE?"},
        {"joy": " joy", "sadness": "a  b", "anger": "anger"},
    ],
)
def test_labels_that_are_texts_come_back_as_they_are_spelt(parameters: dict[str, Any], spelt: dict[str, str]) -> None:
    """`cross_val_score(…, scoring="accuracy")` was 0.0: "1.0" came back as "1", "True" as "true", " joy" as "joy"."""
    metrics = pytest.importorskip("sklearn.metrics")
    truth = [spelt[label] for label in TRUTH]
    classifier = RirClassifier(arm="qa", **parameters).fit(TEXTS, truth)
    assert classifier.classes_.tolist() == sorted(spelt.values())
    predicted = classifier.predict(TEXTS)
    assert metrics.accuracy_score(truth, predicted) == classifier.score(TEXTS, truth) > 0
    assert predicted.tolist() == classifier.classes_[classifier.predict_proba(TEXTS).argmax(1)].tolist()
    classifier.set_params(threshold=1)
    assert set(classifier.predict(TEXTS)) <= {"", *spelt.values()}


def test_spellings_of_one_label_are_told_of() -> None:
    with pytest.warns(UserWarning, match=r"the labels '1', '1.0' are taken for one, '1'"):
        rows, values = _rows(["a", "b", "c"], ["1", "1.0", "x"], None)
    assert [row["label"] for row in rows] == ["1", "1", "x"]
    assert values == {}


def test_descriptions_are_found_by_labels_as_they_are_given(tmp_path: Path) -> None:
    """{1: "glad"} described nothing where the labels were 0 and 1, and neither did {"True": "glad"} or a slip."""
    for labels, descriptions, name in (([0, 1], {1: "glad"}, "1"), (["True", "False"], {"True": "glad"}, "True")):
        rows, _ = _rows(["a", "b"], labels, None)
        made = RirClassifier(descriptions=descriptions)._recipe(tmp_path / "run", rows)  # type: ignore[arg-type]
        assert made.data.labels[name] == "glad"
    with pytest.warns(UserWarning, match="descriptions of labels that no text has: jyo"):
        RirClassifier(descriptions={"jyo": "glad"})._recipe(tmp_path / "run", _rows(["a", "b"], ["joy", "x"], None)[0])


def test_truth_values_count_as_the_numbers_that_they_equal(parameters: dict[str, Any]) -> None:
    """The score was 0.0 with True for 1, though `predict(texts) == labels` everywhere."""
    numbers = np.array([int(label == "joy") for label in TRUTH])
    classifier = RirClassifier(arm="qa", **parameters).fit(TEXTS, numbers)
    assert classifier.score(TEXTS, numbers == 1) == classifier.score(TEXTS, numbers) > 0
    truths = RirClassifier(arm="qa", **parameters).fit(TEXTS, numbers == 1)
    assert truths.score(TEXTS, numbers) == truths.score(TEXTS, numbers == 1) > 0


def test_a_fit_that_fails_leaves_the_earlier_one_whole(parameters: dict[str, Any], tmp_path: Path) -> None:
    """Its folder was gone, and `save` failed."""
    classifier = RirClassifier(arm="qa", **parameters).fit(TEXTS, TRUTH)
    with pytest.raises(RirError):
        classifier.fit(TEXTS, ["joy"] * len(TEXTS))
    assert RirClassifier.load(classifier.save(tmp_path / "kept"), backend="fake").predict(["a"]).shape == (1,)


def test_parameters_that_are_set_later_are_checked(parameters: dict[str, Any]) -> None:
    """`samples=0` was answered, and a threshold of 50 withheld every label."""
    classifier = RirClassifier(arm="qa", **parameters).fit(TEXTS, TRUTH)
    with pytest.raises(ValueError, match="threshold is a probability"):
        classifier.set_params(threshold=50).predict(["a"])
    with pytest.raises(ValueError, match="samples and batch_size are 1 or more"):
        classifier.set_params(threshold=None, samples=0).predict_proba(["a"])
