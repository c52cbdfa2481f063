"""A GGUF file as llama.cpp reads it, through llama-cpp-python, to compare its answers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from rir_mlx.backends.base import Floats, Tokens
from rir_mlx.errors import ModelError

_F32 = 0
"""ggml's number of the format: keys and values are kept in it, not in float16, so that what differs is the weights."""


def available() -> bool:
    return importlib.util.find_spec("llama_cpp") is not None


class LlamaCpp:
    """One file. Raises ModelError where llama.cpp cannot load it."""

    def __init__(self, path: Path, context: int = 2048) -> None:
        from llama_cpp import Llama

        self.context = context
        try:
            self.model: Any = Llama(
                str(path), n_ctx=context, n_batch=context, n_ubatch=context, logits_all=True, verbose=False,
                type_k=_F32, type_v=_F32, flash_attn=False, n_gpu_layers=0,
            )  # fmt: skip
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelError(f"{path} cannot be loaded by llama.cpp: {error}") from error

    def logits(self, tokens: Tokens, last: int | None = None) -> Floats:
        """[tokens or last, vocabulary] next-token logits."""
        if len(tokens) > self.context:
            raise ModelError(f"{len(tokens)} tokens do not fit into a context of {self.context}.")
        self.model.reset()
        self.model.eval(list(tokens))
        found = self.model.scores[: len(tokens)]
        return np.array(found[-last:] if last else found, dtype=np.float32)

    def encode(self, text: str) -> Tokens:
        """llama.cpp's own tokens, with the first one that it adds, and control tokens where they are spelt."""
        return tuple(self.model.tokenize(text.encode(), add_bos=True, special=True))

    def greedy(self, tokens: Tokens, count: int) -> Tokens:
        """The `count` likeliest tokens after these."""
        written: list[int] = []
        for _ in range(count):
            written.append(int(self.logits((*tokens, *written), 1)[0].argmax()))
        return tuple(written)

    def close(self) -> None:
        self.model.close()
