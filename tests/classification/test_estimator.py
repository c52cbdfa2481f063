"""The classifier as an object: scikit-learn's methods, its column order, and no framework until it is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import LABELS, Finished, Run

from rir_mlx import RirClassifier
from rir_mlx.classification.scores import Prediction
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.data.loading import load_labelled
from rir_mlx.errors import UserError
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.recipe.schema import DataSection
from rir_mlx.statistics.calibration import Calibration

TEXTS = ["i feel happy today", "i was sad", "now i am angry at the rain", "a day"]
UNSORTED = ("sadness", "joy", "anger")


class Fake:
    """Answers by the text's length, and keeps what it was asked."""

    arm = "qra"
    reasons_first = True
    calibration = Calibration()
    task = ClassificationTask(dict.fromkeys(UNSORTED, ""), "Which?", 320, 24)

    def __init__(self) -> None:
        self.asked: list[tuple[int, PredictOptions]] = []

    def answer_from(self, options: PredictOptions) -> float | None:
        return None

    def is_calibrated(self, options: PredictOptions) -> bool:
        return True

    def predict(self, texts: Sequence[str], how: PredictOptions, *, on_text: Any = None) -> list[Prediction]:
        self.asked.append((len(texts), how))
        return [self.answer(len(text)) for text in texts]

    def answer(self, length: int) -> Prediction:
        probabilities = dict(zip([*UNSORTED[length % 3 :], *UNSORTED[: length % 3]], (0.6, 0.3, 0.1), strict=True))
        return Prediction(UNSORTED[length % 3], probabilities, 0.9, "because")


def made(**parameters: Any) -> RirClassifier:
    return RirClassifier(**parameters).use(Fake())  # type: ignore[arg-type]


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys, rir_mlx\nassert rir_mlx.__version__\n"
        "heavy = {'torch', 'mlx', 'numpy', 'transformers', 'sklearn', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "rir_mlx.RirClassifier\nheavy = {'torch', 'mlx', 'transformers', 'sklearn', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "try:\n    rir_mlx.Nonsense\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "has no attribute 'Nonsense'" in done.stdout


@pytest.mark.parametrize("backend", ["fake", "torch"])
def test_a_run_is_loaded_and_answers_alike_however_texts_are_given(rir: Run, recipe: Path, backend: str) -> None:
    if backend == "torch":
        pytest.importorskip("peft")
    pandas = pytest.importorskip("pandas")
    assert rir("train-classifier", str(recipe), "--arm", "qa", "--set", f"backend={backend}", "-q").code == 0
    classifier = RirClassifier.load("runs/small", backend=backend)
    assert classifier.classes_.tolist() == sorted(LABELS)
    labels, probabilities = classifier.predict(TEXTS), classifier.predict_proba(TEXTS)
    assert probabilities.shape == (4, 3)
    assert probabilities.dtype == np.float64
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(4))
    assert labels.tolist() == classifier.classes_[probabilities.argmax(axis=1)].tolist()
    for texts in (np.array(TEXTS), pandas.Series(TEXTS, index=[7, 7, 3, 1]), tuple(TEXTS), (text for text in TEXTS)):
        assert classifier.predict(texts).tolist() == labels.tolist()
    explained = classifier.explain(TEXTS)
    assert [prediction.label for prediction in explained] == labels.tolist()
    assert classifier.score(TEXTS, labels) == 1.0
    wrong = [next(label for label in LABELS if label != predicted) for predicted in labels[1:]]
    assert classifier.score(pandas.Series(TEXTS), pandas.Series([labels[0], *wrong])) == 0.25
    assert classifier.score(TEXTS, ["x", *labels[1:]]) == 0.75, "a label that was not trained is never given"


@pytest.mark.slow
def test_the_arm_is_the_one_that_the_command_line_takes(rir: Run, finished: Finished) -> None:
    classifier = RirClassifier.load("runs/small", backend=None)
    assert f"Using the {classifier.classifier.arm} classifier" in rir("classify", "a day").err
    assert isinstance(classifier.explain(["a day"])[0].reasoning, str)
    alone = RirClassifier.load("runs/small", arm="qa", backend="fake", batch_size=2)
    assert alone.explain(["a day"])[0].reasoning is None


def test_a_folder_without_a_classifier_says_what_to_do(rir: Run, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recipe.yaml"):
        RirClassifier.load(tmp_path / "nothing")
    rir("train-rgen", str(recipe), "-q")
    with pytest.raises(UserError, match="rir-mlx demo"):
        RirClassifier.load("runs/small", backend="fake")


def test_nothing_in_gives_empty_arrays_of_the_right_shape() -> None:
    classifier = made()
    for nothing in ([], np.array([], dtype=str)):
        assert classifier.predict_proba(nothing).shape == (0, 3)
        assert classifier.predict(nothing).shape == (0,)
        assert classifier.predict(nothing).dtype.kind == "U"
        assert classifier.explain(nothing) == []


@pytest.mark.parametrize(
    ("texts", "error", "words"),
    [
        ("i was sad", TypeError, r"for a single text: \[text\]"),
        (b"i was sad", TypeError, "single text"),
        ([["a"], ["b"]], TypeError, r"texts\[0\] is not a string but \['a'\]"),
        (np.array([["a", "b"]]), TypeError, "one column"),
        ({"text": ["a"]}, TypeError, "one column"),
        (["a", None], TypeError, r"texts\[1\] is not a string but None"),
        (["a", float("nan")], TypeError, r"texts\[1\] is not a string but nan"),
        (["a", " "], ValueError, r"texts\[1\]: the text is empty"),
        (["a", "\ud83d"], ValueError, "half a character"),
    ],
)
def test_what_is_no_column_of_texts_is_refused_in_words(texts: Any, error: type[Exception], words: str) -> None:
    classifier = made()
    with pytest.raises(error, match=words):
        classifier.predict(texts)
    assert classifier.classifier.asked == []  # type: ignore[attr-defined]


def test_a_frame_is_refused_with_the_way_to_its_column() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"frame\['text'\]"):
        made().predict(pandas.DataFrame({"text": ["a"]}))
    with pytest.raises(TypeError, match=r"texts\[1\] is not a string"):
        made().predict(pandas.Series(["a", None]))


def test_parameters_reach_the_classifier_and_many_texts_are_given_in_parts() -> None:
    classifier = made(reason="auto", samples=5, batch_size=8)
    assert len(classifier.explain(["a"] * 2500)) == 2500
    asked = classifier.classifier.asked  # type: ignore[attr-defined]
    assert [count for count, _ in asked] == [1024, 1024, 452]
    assert {how for _, how in asked} == {PredictOptions("auto", 5, batch_size=8)}
    for wrong in ({"threshold": 1.5}, {"samples": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=r"threshold|1 or more"):
            made(**wrong)


def test_a_threshold_withholds_labels_and_changes_no_probability() -> None:
    sure, doubtful = made(threshold=0.6), made(threshold=0.61)
    assert "" not in sure.predict(TEXTS).tolist()
    assert doubtful.predict(TEXTS).tolist() == [""] * 4
    assert doubtful.predict_proba(TEXTS).tolist() == sure.predict_proba(TEXTS).tolist()
    assert doubtful.score(TEXTS, sure.predict(TEXTS)) == 0.0


def test_numbers_cannot_express_a_withheld_label() -> None:
    """`wanted_accuracy` withholds labels too, which was a KeyError."""
    values = {"sadness": 0, "joy": 1, "anger": 2}
    classifier = RirClassifier(threshold=0.61).use(Fake(), values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="4 of 4 labels are withheld"):
        classifier.predict(TEXTS)
    assert classifier.score(TEXTS, [0, 1, 2, 0]) == 0.0
    assert RirClassifier(threshold=0).use(Fake(), values).predict(TEXTS).dtype.kind == "i"  # type: ignore[arg-type]


def test_scores_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="4 texts, but 1 labels"):
        made().score(TEXTS, ["joy"])
    with pytest.raises(ValueError, match="no texts"):
        made().score([], [])


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (("true", "false", "maybe"), [[True, False], [np.True_, np.False_], ["TRUE", " False "]]),
        (("1", "0", "2"), [[1, 0], [1.0, 0.0], np.array([1.0, 0.0], np.float32), np.array([1, 0]), ["1.0", "0"]]),
    ],
)
def test_labels_of_any_type_are_scored_as_a_table_reads_them(
    names: tuple[str, ...], given: list[Any], tmp_path: Path
) -> None:
    """Truth values and numbers got 0.0 for right answers."""
    classifier = made()
    classifier.classifier.task = ClassificationTask(dict.fromkeys(names, ""), "Which?", 320, 24)
    by_text = {
        "first": Prediction(names[0], {names[0]: 1.0}, 1.0),
        "second": Prediction(names[1], {names[1]: 1.0}, 1.0),
    }
    classifier.classifier.predict = lambda texts, how, **_: [by_text[text] for text in texts]  # type: ignore[method-assign]
    for labels in given:
        assert classifier.score(["first", "second"], labels) == 1.0
        assert classifier.score(["second", "first"], labels) == 0.0
        rows = zip(["first", "second"], np.asarray(labels).tolist(), strict=True)
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
        section = DataSection.model_validate({"train": str(tmp_path / "rows.jsonl"), "val_size": 0, "test_size": 0})
        assert [row.label for row in load_labelled(section, 0).train] == list(names[:2])
    for wrong in (None, float("nan"), "nan"):
        with pytest.raises(ValueError, match="label"):
            classifier.score(["first"], [wrong])


def test_scorers_of_scikit_learn_take_it_as_it_is() -> None:
    """They take the columns of probabilities to be in sorted order, in which these labels were not trained."""
    calibration, metrics = pytest.importorskip("sklearn.calibration"), pytest.importorskip("sklearn.metrics")
    from sklearn.base import is_classifier

    classifier, truth = made(), ["joy", "sadness", "anger", "joy"]
    assert is_classifier(classifier)
    expected = -np.mean(
        [np.log(prediction.probabilities[t]) for prediction, t in zip(classifier.explain(TEXTS), truth, strict=True)]
    )
    assert metrics.get_scorer("neg_log_loss")(classifier, TEXTS, truth) == pytest.approx(-expected)
    assert metrics.get_scorer("accuracy")(classifier, TEXTS, truth) == classifier.score(TEXTS, truth)
    report = metrics.classification_report(truth, classifier.predict(TEXTS), output_dict=True, zero_division=0)
    assert report["accuracy"] == classifier.score(TEXTS, truth)
    column = classifier.classes_.tolist().index("joy")
    share, mean = calibration.calibration_curve(
        [t == "joy" for t in truth], classifier.predict_proba(TEXTS)[:, column], n_bins=2
    )
    assert len(share) == len(mean) >= 1


def test_it_says_what_it_is() -> None:
    assert repr(made(threshold=0.5, arm="qa")) == "RirClassifier(arm='qa', threshold=0.5)"
