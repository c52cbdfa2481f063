"""What a trained arm has to beat."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encoders import FILLER, LABELS, make_encoder, needs_torch, rows_of
from numpy.typing import NDArray

from rir_mlx.backends.base import EncoderOptions
from rir_mlx.errors import ModelError, UserError, install_extra
from rir_mlx.evaluation.baselines.encoder import EncoderTexts, TextTokenizer, encoder
from rir_mlx.models.hub import ModelFiles, resolve_model
from rir_mlx.statistics import regression
from rir_mlx.statistics.tfidf import majority_probabilities, tfidf


def texts_of(rows: list[tuple[str, str]]) -> list[str]:
    return [text for text, _ in rows]


def accuracy(probabilities: NDArray[np.float64], rows: list[tuple[str, str]], labels: list[str]) -> float:
    return float(
        np.mean([labels[best] == label for best, (_, label) in zip(probabilities.argmax(1), rows, strict=True)])
    )


def test_the_majority_is_certain_of_the_most_frequent_label() -> None:
    probabilities = majority_probabilities(["b", "a", "b"], ["a", "b", "c"], 2)
    assert probabilities.tolist() == [[0, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("validation", [rows_of(30, 2), []], ids=["validation rows", "cross-validation"])
def test_tfidf_learns_a_rule_and_gives_the_same_each_time(validation: list[tuple[str, str]]) -> None:
    test = rows_of(90, 1)
    probabilities = tfidf(rows_of(150), texts_of(test), LABELS, 0, validation)
    assert accuracy(probabilities, test, LABELS) == 1.0
    assert probabilities.sum(axis=1) == pytest.approx(1.0)
    assert (probabilities == tfidf(rows_of(150), texts_of(test), LABELS, 0, validation)).all()


def test_the_columns_of_tfidf_are_in_the_order_of_the_labels_and_an_unseen_label_gets_nothing() -> None:
    labels, test = ["joy", "unseen", "anger", "fear"], rows_of(30, 1)
    probabilities = tfidf(rows_of(150), texts_of(test), labels, 0)
    assert accuracy(probabilities, test, labels) == 1.0
    assert (probabilities[:, 1] == 0).all()


def test_characters_find_a_word_in_a_form_that_was_never_seen() -> None:
    train = [(f"{word} it", label) for word, label in [("laughing", "joy"), ("shouting", "anger")] for _ in range(4)]
    probabilities = tfidf(train, ["laughed", "shouted"], ["joy", "anger"], 0)
    assert probabilities.argmax(axis=1).tolist() == [0, 1]
    assert (probabilities.max(axis=1) > 0.6).all()


def test_two_labels_of_which_one_has_a_single_row() -> None:
    train = [("dark night", "fear"), *[(f"sunny day {number}", "joy") for number in range(9)]]
    probabilities = tfidf(train, ["sunny day", "dark night"], ["joy", "fear"], 0, validation=[("dark", "fear")])
    assert probabilities.argmax(axis=1).tolist() == [0, 1]
    assert probabilities.sum(axis=1) == pytest.approx(1.0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_as_many_labels_as_rows_are_no_error(count: int) -> None:
    train = [(f"word{number}", f"label {number}") for number in range(count)]
    labels = [label for _, label in train]
    probabilities = tfidf(train, texts_of(train), labels, 0)
    assert accuracy(probabilities, train, labels) == 1.0


def test_texts_without_words_are_classified_by_their_characters() -> None:
    train = [(":-)", "joy"), (":-(", "fear")] * 5
    probabilities = tfidf(train, [":-(", ":-)", ""], ["joy", "fear"], 0)
    assert probabilities.argmax(axis=1).tolist()[:2] == [1, 0]
    assert probabilities.sum(axis=1) == pytest.approx(1.0)


def test_texts_without_anything_get_each_label_by_its_share() -> None:
    probabilities = tfidf([("", "joy"), (" ", "joy"), ("", "joy"), ("", "fear")], ["", "x"], ["fear", "joy"], 0)
    assert probabilities.tolist() == [[0.25, 0.75], [0.25, 0.75]]


def test_no_text_gives_no_row() -> None:
    assert tfidf(rows_of(9), [], LABELS, 0).shape == (0, 3)


@pytest.mark.slow
def test_many_labels_and_rows_end_in_time_though_few_take_part_in_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    labels = [f"topic {number}" for number in range(30)]
    rows = [
        (" ".join([*rng.choices(FILLER, k=4), f"subject{number % 30}"]), labels[number % 30]) for number in range(360)
    ]
    seen = []
    fitted = regression._fitted
    monkeypatch.setattr(regression, "_CHOOSING_ROWS", 90)
    monkeypatch.setattr(regression, "_fitted", lambda made, x, y: (seen.append(x.shape[0]), fitted(made, x, y))[1])
    probabilities = tfidf(rows, texts_of(rows[:30]), labels, 0, validation=rows[:30])
    assert seen == [90] * 4 + [360]
    assert accuracy(probabilities, rows[:30], labels) == 1.0


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("models") / "bert")


OPTIONS = EncoderOptions(learning_rate=3e-3, epochs=8, batch_size=8)
KNOWN = EncoderTexts(LABELS, rows_of(120), rows_of(30, 2))


@pytest.mark.slow
@needs_torch
def test_an_encoder_learns_a_rule_and_does_the_same_each_time(bert: Path) -> None:
    import torch

    test = rows_of(90, 1)
    model = resolve_model(str(bert), key="evaluate.encoder")
    state = torch.random.get_rng_state()
    probabilities = encoder(model, KNOWN, texts_of(test), OPTIONS)
    assert probabilities.shape == (90, 3)
    assert probabilities.dtype == np.float64
    assert probabilities.sum(axis=1) == pytest.approx(1.0)
    assert accuracy(probabilities, test, LABELS) > 0.9
    assert torch.equal(state, torch.random.get_rng_state())
    short = replace(OPTIONS, epochs=1)
    first = encoder(model, KNOWN, texts_of(test), short)
    torch.manual_seed(5)
    assert (encoder(model, KNOWN, texts_of(test), short) == first).all()


@pytest.mark.slow
@needs_torch
def test_the_epoch_with_the_best_validation_accuracy_is_kept(bert: Path) -> None:
    """Here the labels of the validation rows are exchanged: the better an epoch has learned, the worse it looks."""
    turned = {"joy": "fear", "fear": "anger", "anger": "joy"}
    rows, test = rows_of(120), rows_of(90, 1)
    model = resolve_model(str(bert))
    against = EncoderTexts(LABELS, rows, [(text, turned[label]) for text, label in rows[:30]])
    assert accuracy(encoder(model, EncoderTexts(LABELS, rows), texts_of(test), OPTIONS), test, LABELS) > 0.9
    assert accuracy(encoder(model, against, texts_of(test), OPTIONS), test, LABELS) < 0.9


@pytest.mark.slow
@needs_torch
def test_long_and_empty_texts_and_written_marks_are_no_trouble_for_an_encoder(bert: Path) -> None:
    """The model has 18 places, and `[SEP]` in a text is three pieces of it."""
    model = resolve_model(str(bert))
    known = EncoderTexts(LABELS, [("smile " * 50, "joy"), ("", "fear"), ("[SEP]", "anger")])
    probabilities = encoder(model, known, ["dark " * 500, "", "[SEP]"], EncoderOptions(epochs=1))
    assert np.isfinite(probabilities).all()
    assert TextTokenizer(model, 256)(["[SEP]", "smile " * 50, ""])[0].count(3) == 1
    assert [len(tokens) for tokens in TextTokenizer(model, 256)(["smile " * 50, ""])] == [16, 2]
    assert [len(tokens) for tokens in TextTokenizer(model, 8)(["smile " * 50])] == [8]


@needs_torch
def test_an_encoder_tuned_for_other_labels_gets_a_new_head(bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_pretrained(bert, num_labels=5).save_pretrained(tmp_path)
    shutil.copy(bert / "tokenizer.json", tmp_path)
    known = EncoderTexts(LABELS, rows_of(30))
    assert encoder(resolve_model(str(tmp_path)), known, ["smile"], EncoderOptions(epochs=1)).shape == (1, 3)


def without_weights(folder: Path) -> None:
    import torch

    (folder / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": torch.zeros(25, 32)}, folder / "pytorch_model.bin")


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def with_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")


def with_another_layer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def of_a_kind_that_cannot_classify(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "vits"}), encoding="utf-8")


@needs_torch
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_weights, r"holds no \.safetensors weights"),
        (without_tokenizer, r"has no tokenizer\.json"),
        (with_a_broken_tokenizer, r"tokenizer\.json cannot be read"),
        (with_another_layer, r"lacks the weight bert\.encoder\.layer\.2\."),
        (of_a_kind_that_cannot_classify, "cannot be loaded as an encoder"),
    ],
)
def test_a_folder_that_is_no_encoder_in_safe_files_is_refused(
    bert: Path, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(bert, folder)
    damage(folder)
    with pytest.raises(ModelError, match=words) as refused:
        encoder(ModelFiles("damaged", folder, None, ""), KNOWN, ["smile"], OPTIONS)
    assert refused.value.hint


def test_without_pytorch_the_encoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=re.escape(install_extra("torch"))):
        encoder(ModelFiles("any", tmp_path, None, ""), KNOWN, ["smile"])
