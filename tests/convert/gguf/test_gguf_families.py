"""Which models and tokenizers a GGUF file can express; the others are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rir_convert.gguf.architectures import architecture_of
from rir_convert.gguf.pieces import check_pieces, piece_scores
from rir_convert.gguf.vocabulary import add_vocabulary, pre_tokenizer
from rir_convert.verification.comparison import Tolerance, compare_answers
from rir_convert.verification.probe import ProbeAnswers
from vocabularies import gemma, qwen

from rir_mlx.errors import ModelError

gguf = pytest.importorskip("gguf")
SIZES = {
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "vocab_size": 100,
}
QWEN = SIZES | {"model_type": "qwen3", "head_dim": 8}
GEMMA = SIZES | {
    "model_type": "gemma3_text",
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
LOCAL = {
    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            QWEN | {"use_sliding_window": True, "sliding_window": 16},
            "window .of 16 tokens here, which llama.cpp ignores",
        ),
        (QWEN | {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rotary scaling of the kind yarn"),
        (QWEN | {"attention_bias": True}, "with biases"),
        (GEMMA | {"final_logit_softcapping": 30.0}, "soft-capped logits"),
        (GEMMA | {"query_pre_attn_scalar": 8}, "query_pre_attn_scalar is 8, not 16"),
        (GEMMA | {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}, "a fixed pattern"),
        (GEMMA | {"use_bidirectional_attention": True}, "attention in both directions"),
        (GEMMA | {"hidden_activation": "silu"}, "with silu"),
        (GEMMA | {"rope_parameters": LOCAL}, "in their sliding-window layers"),
        (GEMMA | {"sliding_window": None}, "config has no sliding_window"),
        (SIZES | {"model_type": "olmo2"}, "of the type olmo2"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused_by_name(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says) as refused:
        architecture_of(config)
    assert "convert_hf_to_gguf.py" in refused.value.hint
    assert architecture_of(QWEN | {"sliding_window": 16}).name == "qwen3"  # its window is off unless the config asks
    assert architecture_of(GEMMA).name == "gemma3"


def test_a_norm_of_gemma_is_stored_with_the_one_that_transformers_adds() -> None:
    weight = np.array([0.5, -0.25], dtype=np.float32)
    known = architecture_of(GEMMA)
    for name in ("model.norm.weight", "model.layers.0.self_attn.q_norm.weight"):
        stored = known.stored(name, weight, GEMMA)
        np.testing.assert_array_equal(stored, [1.5, 0.75])
        np.testing.assert_array_equal(known.stored(name, stored, GEMMA, back=True), weight)
    np.testing.assert_array_equal(known.stored("model.embed_tokens.weight", weight, GEMMA), weight)


class Written:
    """Keeps what is added to a GGUF file."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return lambda value: self.values.__setitem__(name.removeprefix("add_"), value)


def test_pieces_have_their_kind_and_the_score_of_their_first_merge(tmp_path: Path) -> None:
    """A run of spaces that is given beside the pieces would be written as ▁▁ by llama.cpp, and a token of images has no
    row in the embedding."""
    size = gemma(tmp_path)
    path = tmp_path / "tokenizer.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    spaces = next(token for token in whole["model"]["vocab"] if len(token) > 1 and not token.strip("▁"))
    given = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    whole["added_tokens"] += [
        given | {"id": whole["model"]["vocab"][spaces], "content": spaces},
        given | {"id": size, "content": "<image>", "special": True},
    ]
    path.write_text(json.dumps(whole), encoding="utf-8")
    writer = Written()
    add_vocabulary(writer, tmp_path, {"vocab_size": size, "rir_mlx": {"terminator": 5}})
    tokens, kinds, scores = (writer.values[name] for name in ("token_list", "token_types", "token_scores"))
    assert len(tokens) == len(kinds) == len(scores) == size
    assert writer.values["tokenizer_model"] == "llama"
    assert writer.values["add_space_prefix"] is False
    assert writer.values["add_bos_token"] is True
    ids = [writer.values[f"{name}_token_id"] for name in ("bos", "eos", "eot", "unk")]
    assert ids == [1, 2, 5, 0]
    types, at = gguf.TokenType, whole["model"]["vocab"]
    expected = {"<0x41>": types.BYTE, "<unk>": types.UNKNOWN, "</s>": types.CONTROL, spaces: types.NORMAL}
    assert {token: kinds[at[token]] for token in expected} == expected
    merged = ["".join(pair) for pair in whole["model"]["merges"]]
    order = [scores[at[token]] for token in dict.fromkeys(merged)]
    assert order == sorted(order, reverse=True)
    assert len(set(order)) == len(order)
    assert piece_scores(["a"], {"merges": ["b c"]}) == [0.0]


def test_pieces_that_llama_cpp_would_join_otherwise_are_refused(tmp_path: Path) -> None:
    gemma(tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    check_pieces(whole)
    model = whole["model"]
    merges = model["merges"]
    twice = next(n for n, pair in enumerate(merges[1:], 1) if "".join(pair) == "".join(merges[n - 1]))
    split = {"type": "Split", "pattern": {"String": "x"}, "behavior": "Isolated", "invert": False}
    for changed, says in (
        (whole | {"model": model | {"merges": merges[:twice] + merges[twice + 1 :]}}, "are not joined"),
        (whole | {"model": model | {"merges": [*merges, merges[0]]}}, "is made at two times"),
        (whole | {"model": model | {"byte_fallback": False}}, "does not spell unknown characters"),
        (whole | {"pre_tokenizer": split}, "splits texts before"),
    ):
        with pytest.raises(ModelError, match=says):
            check_pieces(changed)


def test_a_tokenizer_that_composes_characters_is_known_as_qwens_alone(tmp_path: Path) -> None:
    qwen(tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert pre_tokenizer(whole) == "qwen2"
    with pytest.raises(ModelError, match=r"knows no llama\.cpp name"):
        pre_tokenizer(whole | {"normalizer": {"type": "NFD"}})


def test_tokens_that_an_engine_does_not_tell_count_as_agreeing_and_a_silent_position_does_not() -> None:
    ours = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], dtype=np.float32))
    reference = ProbeAnswers([ours], ours, None, ())

    def mean(rows: np.ndarray, partial: bool = True) -> float | None:
        answers = ProbeAnswers([rows], rows, None, (), partial=partial)
        return compare_answers("x", reference, answers, Tolerance("float32", 1.0)).mean_difference

    told = ours.copy()
    told[:, 2] = np.nan
    assert mean(told) == 0
    assert np.isnan(mean(told, partial=False))  # a model's own NaN is no silence
    assert mean(told + np.float32(0.5)) == pytest.approx(0.5)
    told[1] = np.nan
    answers = ProbeAnswers([told], told, None, (), partial=True)
    assert compare_answers("x", reference, answers, Tolerance("float32", 1.0)).faults
