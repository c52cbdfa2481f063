"""A GGUF file holds the model that was fused, and llama.cpp computes the same with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import ml_dtypes
import numpy as np
import pytest
from exports import adapter_for, in_dtype, read, spec_of
from rir_convert.gguf.architectures import architecture_of, permute, rope_factors
from rir_convert.gguf.export import _first_tensor
from rir_convert.gguf.modelfile import around, joint_ids, modelfile
from rir_convert.gguf.vocabulary import pre_tokenizer
from rir_convert.gguf.writer import gguf_tensors, write_gguf
from rir_convert.weights.merging import Fused
from rir_convert.weights.tensors import InMemory, Weights
from safetensors.numpy import load_file
from tiny import LLAMA_SPLIT, make_tiny_llama

from rir_mlx.errors import ModelError, UserError
from rir_mlx.models.config import read_config
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import classifier_prompt
from rir_mlx.types import GgufType

gguf = pytest.importorskip("gguf")
LABELS = {"joy": "feels {{good}}", "anger": '"""', "sadness": ""}
TEXTS = ("i feel happy today", "Ünïcode \U0001f642 and 12345 numbers", "it's  two spaces", " starts with one", "")


def written(folder: Path, path: Path, kind: GgufType = "f32") -> Any:
    write_gguf(folder, path, kind)
    return gguf.GGUFReader(path)


def value(reader: Any, key: str) -> Any:
    return reader.get_field(key).contents()


def rotated_halves(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """transformers' rotary embedding of [size] at one position: pairs are (i, i + size / 2)."""
    half = len(x) // 2
    a, b = x[:half], x[half:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)])


def rotated_pairs(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """llama.cpp's: pairs are (2i, 2i + 1)."""
    a, b = x[::2], x[1::2]
    pairs = [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)]
    return np.stack(pairs, axis=1).reshape(-1)


def test_queries_and_keys_meet_at_the_same_angle_after_the_permutation() -> None:
    """Without it every attention score with a distance in it is another one."""
    rng = np.random.default_rng(0)
    q, k, x, y = rng.normal(size=(16, 8)), rng.normal(size=(16, 8)), rng.normal(size=8), rng.normal(size=8)
    here, there = rng.uniform(size=4), rng.uniform(size=4)
    for head in range(2):
        rows = slice(head * 8, head * 8 + 8)
        expected = rotated_halves((q @ x)[rows], here) @ rotated_halves((k @ y)[rows], there)
        swapped = [(permute(matrix, 2) @ z)[rows] for matrix, z in ((q, x), (k, y))]
        assert rotated_pairs(swapped[0], here) @ rotated_pairs(swapped[1], there) == pytest.approx(expected)
        left = rotated_pairs((q @ x)[rows], here) @ rotated_pairs((k @ y)[rows], there)
        assert left != pytest.approx(expected)
    np.testing.assert_array_equal(permute(permute(q, 2), 2, back=True), q)


def test_the_rotary_factors_are_those_of_transformers(tiny: Path) -> None:
    pytest.importorskip("torch")
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = read_config(tiny)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](AutoConfig.from_pretrained(tiny), device="cpu")
    plain = 500000.0 ** -(np.arange(0, 8, 2) / 8)
    factors = rope_factors(config)
    assert factors is not None
    np.testing.assert_allclose(plain / factors, scaled.numpy(), rtol=1e-5)
    assert factors.max() > 30
    assert factors.min() == 1
    assert rope_factors(config | {"rope_scaling": None}) is None
    with pytest.raises(ModelError, match="kind yarn"):
        architecture_of(config | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}})


@pytest.mark.parametrize("model", ["tiny", "untied"])
@pytest.mark.parametrize(("kind", "bound"), list(zip(get_args(GgufType), (0, 5e-4, 4e-3, 1e-2), strict=True)))
def test_tensors_come_back_as_they_were(
    model: str, kind: GgufType, bound: float, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    reader = written(folder, tmp_path / "x.gguf", kind)
    expected = load_file(folder / "model.safetensors")
    found = dict(gguf_tensors(tmp_path / "x.gguf", read_config(folder)))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.shape == expected[name].shape
        off = np.linalg.norm(tensor - expected[name]) / np.linalg.norm(expected[name])
        assert off <= (bound if tensor.ndim > 1 else 0), name
    names = {tensor.name for tensor in reader.tensors}
    assert ("output.weight" in names) == (model == "untied")
    assert "rope_freqs.weight" in names


def test_a_tensor_of_zeros_is_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The biases of a Qwen2 that was not trained yet: the export ended in a division by zero."""
    config = {"model_type": "qwen2", "hidden_size": 4, "num_attention_heads": 1} | dict.fromkeys(
        ("num_hidden_layers", "intermediate_size", "max_position_embeddings", "rms_norm_eps", "vocab_size"), 1
    )
    name = "model.layers.0.self_attn.q_proj.bias"
    for written, first in ((0.0, None), (0.5, name)):
        found = [(name, np.full(4, written, dtype=np.float32))]
        monkeypatch.setattr("rir_convert.gguf.export.gguf_tensors", lambda *_, found=found: iter(found))
        assert _first_tensor(Path(), config, InMemory({name: np.zeros(4, dtype=np.float32)}), "f16") == (
            written * 2,
            first,
        )


def test_the_vocabulary_has_every_token_its_kind_and_the_merges(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "wide", vocabulary=512)
    reader = written(folder, tmp_path / "x.gguf")
    codec = Codec(folder, "26 Jul 2024")
    tokens, types = value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.token_type")
    assert len(tokens) == len(types) == 512 == value(reader, "llama.vocab_size")
    assert tokens[511] == "[PAD511]"
    assert types[511] == gguf.TokenType.UNUSED
    assert types[codec.terminator] == gguf.TokenType.CONTROL
    assert tokens[codec.terminator] == "<|eot_id|>"
    assert types[300] == gguf.TokenType.NORMAL
    assert value(reader, "tokenizer.ggml.eos_token_id") == codec.terminator
    assert value(reader, "tokenizer.ggml.add_bos_token") is True
    assert value(reader, "tokenizer.ggml.pre") == "smaug-bpe"  # Llama 3's words, and its merges are not passed by
    assert value(reader, "tokenizer.chat_template") == codec.tokenizer.chat_template
    merges = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    assert value(reader, "tokenizer.ggml.merges") == [" ".join(merge) for merge in merges]


def test_a_pre_tokenizer_without_a_known_name_is_refused_not_guessed() -> None:
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    alone = level | {"use_regex": True}

    def cut(pattern: str, **changes: object) -> dict[str, Any]:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} | changes
        return {"type": "Sequence", "pretokenizers": [split, level]}

    def whole(given: dict[str, Any] | None, ignore: bool | None = True, **more: object) -> dict[str, Any]:
        return {"pre_tokenizer": given, "model": {"ignore_merges": ignore}, **more}

    assert pre_tokenizer(whole(cut(LLAMA_SPLIT))) == "llama-bpe"
    assert pre_tokenizer(whole(cut(LLAMA_SPLIT), None)) == "smaug-bpe"
    assert pre_tokenizer(whole(alone)) == "gpt-2"
    digits = {"type": "Digits", "individual_digits": True}
    for odd in (
        whole(cut(LLAMA_SPLIT + "|x")),
        whole(cut(LLAMA_SPLIT, behavior="Removed")),
        whole({"type": "Sequence", "pretokenizers": [digits, alone]}),
        whole({"type": "Sequence", "pretokenizers": [digits, *cut(LLAMA_SPLIT)["pretokenizers"]]}),
        whole(alone | {"add_prefix_space": True}),
        whole(level),
        whole({"type": "Metaspace"}),
        whole(None),
        whole(cut(LLAMA_SPLIT), normalizer={"type": "NFC"}),
    ):
        with pytest.raises(ModelError, match=r"knows no llama\.cpp name"):
            pre_tokenizer(odd)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "mistral"}, "alone, and this model is of the type mistral"),
        (
            {"model_type": "qwen2", "rope_scaling": None},
            "not the tensors that Qwen2 models have: model.layers.0.self_attn.k_proj.bias",
        ),
        ({"rms_norm_eps": None}, "config has no rms_norm_eps"),
        ({"attention_bias": True}, "with biases"),
        ({"hidden_act": "gelu"}, "with gelu"),
        ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
        ({"num_hidden_layers": 3}, "model.layers.2.* is missing"),
    ],
)
def test_what_is_not_a_plain_llama_is_refused_with_another_way(
    tiny: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    shutil.copytree(tiny, tmp_path / "odd")
    (tmp_path / "odd" / "config.json").write_text(json.dumps(read(tiny, "config.json") | change))
    with pytest.raises(ModelError, match=says) as refused:
        write_gguf(tmp_path / "odd", tmp_path / "x.gguf", "f16")
    assert "convert_hf_to_gguf.py" in refused.value.hint


def test_a_number_that_float16_cannot_hold_is_refused_not_written_as_infinity(tiny: Path, tmp_path: Path) -> None:
    from rir_convert.weights.tensors import save_weights

    shutil.copytree(tiny, tmp_path / "large")
    tensors = load_file(tiny / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_weights(tensors, tmp_path / "large" / "model.safetensors")
    with pytest.raises(ModelError, match="outside of float16") as refused:
        write_gguf(tmp_path / "large", tmp_path / "x.gguf", "f16")
    assert "bf16" in refused.value.hint
    write_gguf(tmp_path / "large", tmp_path / "y.gguf", "bf16")


def test_an_adapter_over_16_bits_is_rounded_once(tiny: Path, tmp_path: Path) -> None:
    """To the file's format, and not to the base's before: bfloat16 has eight times the error of float16."""
    base, spec = in_dtype(tiny, tmp_path / "base", ml_dtypes.bfloat16), spec_of("lora")
    weights = Fused(Weights(base), spec, adapter_for(base, spec), dtype="float32")
    write_gguf(base, tmp_path / "x.gguf", "f16", weights=weights)
    found = dict(gguf_tensors(tmp_path / "x.gguf", read_config(base)))
    assert set(found) == set(weights)
    for name, tensor in found.items():
        expected = weights[name] if weights[name].ndim == 1 else weights[name].astype(np.float16)
        np.testing.assert_array_equal(tensor, expected.astype(np.float32), err_msg=name)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "odd")
    (tmp_path / "odd" / "config.json").write_text(json.dumps(read(tiny, "config.json") | {"vocab_size": 100}))
    with pytest.raises(ModelError, match="and the model 100 words"):
        write_gguf(tmp_path / "odd", tmp_path / "x.gguf", "f16")


def test_a_missing_package_is_named(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="gguf package"):
        write_gguf(tiny, tmp_path / "x.gguf", "f16")


@pytest.mark.parametrize("model", ["tiny", "plain"])
@pytest.mark.parametrize("asked", ["label", "reasoning, label"])
def test_the_modelfile_gives_the_ids_of_training(model: str, asked: Any, request: pytest.FixtureRequest) -> None:
    """Ollama tokenises the whole prompt as one string. Before the text began a line of its own, `Text: i` became
    another token than in training."""
    codec = Codec(request.getfixturevalue(model), "26 Jul 2024")
    prompt = classifier_prompt("", LABELS, "Which one fits?", asked)
    before, after = around(codec, prompt)
    for text in TEXTS:
        encoded = codec.encode(classifier_prompt(text, LABELS, "Which one fits?", asked), 600)
        assert joint_ids(codec, text, before, after) == encoded.prefix + encoded.row, text
    written = modelfile(codec, prompt, "x.gguf", max_tokens=9, context=320)
    template = written.split('TEMPLATE """', 1)[1].rpartition('"""\nPARAMETER stop')[0]
    quoted = before.replace("{{", '{{ "{{" }}').replace('"""', '{{ "\\"\\"\\"" }}')
    assert template == f"{quoted}{{{{ .Prompt }}}}{after}"
    assert '"""' not in template
    assert "PARAMETER repeat_penalty 1\n" in written
    assert written.startswith("FROM ./x.gguf\n")
    for stop in codec.stops:
        assert f'PARAMETER stop "{codec.decode([stop])}"' in written
    assert "<|begin_of_text|>" not in written
