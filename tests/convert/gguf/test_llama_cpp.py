"""llama.cpp computes with a GGUF file what transformers computes with its folder, and reads texts alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from exports import SEQUENCES
from families import Plain, make_family
from rir_convert.gguf.llama_cpp import available, open_llama_cpp
from rir_convert.gguf.writer import write_gguf
from scipy.special import log_softmax
from vocabularies import gemma, qwen

from rir_mlx.backends.base import Tokens
from rir_mlx.types import GgufType

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not available(), reason="no package that runs llama.cpp is installed, so it was not asked"),
]
NASTY = (
    "i feel happy today",
    "",
    "  two  spaces   and three",
    " starts with one",
    "a\ttab and\r\n\n\nlines\n",
    "Ünïcode \U0001f642 and 12345 numbers",
    "it's I'M you'LL don't",
    "\u4f60\u597d, \u0645\u0631\u062d\u0628\u0627\u200b!",
    "▁a ▁▁ spelt",
    " " * 70 + "x",
    "a<|eot_id|>b</s><|end|> <|user|>",
)
FULL, SLIDING = "full_attention", "sliding_attention"
OTHER_ANGLES = {
    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    SLIDING: {"rope_type": "default", "rope_theta": 500.0},
}
LAYERS = [SLIDING] * 5 + [FULL, SLIDING]


def worst(engine: Any, plain: Plain, tokens: Tokens) -> float:
    """The largest difference of a log-probability at the last four positions."""
    [found] = engine.last_logits([tokens], 4)
    return float(np.abs(log_softmax(found, -1) - log_softmax(plain.numpy(tokens)[-4:], -1)).max())


@pytest.mark.parametrize(
    ("family", "tokenizer", "changes", "bound"),
    [
        ("qwen2", qwen, {}, 1e-4),
        ("qwen3", qwen, {"tie_word_embeddings": False}, 1e-4),
        # llama.cpp looks GELU up in a table of float16 on a processor
        ("gemma3", gemma, {}, 5e-3),
        ("gemma3", gemma, {"num_hidden_layers": 7, "layer_types": LAYERS, "rope_parameters": OTHER_ANGLES}, 5e-3),
    ],
)
def test_a_family_is_computed_and_tokenised_as_by_transformers(
    family: str, tokenizer: Callable[[Path], int], changes: dict[str, Any], bound: float, tmp_path: Path
) -> None:
    """Rows are longer than a window of 16 tokens."""
    from transformers import AutoTokenizer

    size = tokenizer(tmp_path)
    make_family(tmp_path, family, vocab_size=size, **changes)
    write_gguf(tmp_path, tmp_path / "x.gguf", "f32")
    plain, own = Plain(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    rows = [tuple(np.random.default_rng(length).integers(8, size, length).tolist()) for length in (5, 60)]
    with closing(open_llama_cpp(tmp_path / "x.gguf", 256)) as engine:
        for row in rows:
            assert worst(engine, plain, row) < bound
        for text in NASTY:
            assert engine.tokenize(text) == tuple(own(text)["input_ids"]), text


@pytest.mark.parametrize(("kind", "bound"), list(zip(get_args(GgufType), (1e-3, 0.05, 0.2, 0.3), strict=True)))
def test_a_llama_is_computed_as_by_transformers(kind: GgufType, bound: float, tmp_path: Path, tiny: Path) -> None:
    """At 100 positions, where the tiny model's rotary scaling (from 64) shows."""
    from transformers import AutoTokenizer

    write_gguf(tiny, tmp_path / "x.gguf", kind)
    plain = Plain(tiny)
    with closing(open_llama_cpp(tmp_path / "x.gguf", 256)) as engine:
        for tokens in SEQUENCES:
            assert worst(engine, plain, tokens) < bound
        if kind != "f32":
            return
        own = AutoTokenizer.from_pretrained(tiny)
        for text in NASTY:
            assert engine.tokenize(text) == tuple(own(text)["input_ids"]), text
        prefix, option = SEQUENCES[2], SEQUENCES[1]
        [apart] = engine.last_logits([SEQUENCES[0][:9]], 4, prefix=prefix)
        [whole] = engine.last_logits([prefix + SEQUENCES[0][:9]], 4)
        np.testing.assert_allclose(apart, whole, atol=1e-4)
        if hasattr(engine, "option_score"):
            assert engine.option_score(prefix, option) == pytest.approx(plain.score(prefix, option), abs=1e-3)
