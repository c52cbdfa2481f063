"""A GGUF file loaded by llama.cpp, through llama-cpp-python, to compare its answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rir_mlx.backends.base import Float32Array, Tokens
from rir_mlx.errors import ModelError

_F32 = 0
"""ggml's number for float32, used for keys and values instead of float16, so that only the weights differ."""
_BATCH = 512
"""Tokens that run together."""


class LlamaCppPython:
    """A loaded file. Raises ModelError if llama.cpp cannot load it."""

    forward = "llama.cpp's own llama_decode, through llama-cpp-python"
    partial = False

    def __init__(self, path: Path, context: int = 2048) -> None:
        import llama_cpp

        self.context, self.library = context, llama_cpp
        try:
            self.model: Any = llama_cpp.Llama(
                str(path), n_ctx=context, n_batch=_BATCH, n_ubatch=_BATCH, verbose=False,
                type_k=_F32, type_v=_F32, flash_attn=False, n_gpu_layers=0,
            )  # fmt: skip
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelError(f"{path} cannot be loaded by llama.cpp: {error}") from error
        self.batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)

    def last_logits(self, rows: Iterable[Tokens], last: int, *, prefix: Tokens = ()) -> Iterator[Float32Array]:
        """Like `Model.last_logits`: only those positions are projected to the vocabulary. One call at a time, since
        calls share the keys and values."""
        self._run(prefix, 0, 0)
        for row in rows:
            yield self._run(row, len(prefix), min(last, len(row)))

    def _run(self, tokens: Tokens, start: int, wanted: int) -> Float32Array:
        """Logits of the last `wanted` tokens, which follow the first `start` tokens already run."""
        if start + len(tokens) > self.context:
            raise ModelError(f"{start + len(tokens)} tokens do not fit into a context of {self.context}.")
        library, batch = self.library, self.batch
        library.llama_memory_seq_rm(library.llama_get_memory(self.model.ctx), 0, start, -1)
        found: list[Float32Array] = []
        for at in range(0, len(tokens), _BATCH):
            part = tokens[at : at + _BATCH]
            batch.n_tokens = len(part)
            for place, token in enumerate(part):
                batch.token[place], batch.pos[place] = token, start + at + place
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
                batch.logits[place] = at + place >= len(tokens) - wanted
            if code := library.llama_decode(self.model.ctx, batch):
                raise ModelError(f"llama.cpp could not run {len(part)} tokens: llama_decode gave {code}.")
            for place in range(max(0, len(tokens) - wanted - at), len(part)):
                logits = library.llama_get_logits_ith(self.model.ctx, place)
                found.append(np.array(np.ctypeslib.as_array(logits, shape=(self.model.n_vocab(),))))
        return np.array(found, dtype=np.float32)

    def tokenize(self, text: str) -> Tokens:
        """The ids of a whole prompt, control tokens included, with the first token where the file asks for one."""
        return tuple(self.model.tokenize(text.encode(), add_bos=True, special=True))

    def close(self) -> None:
        self.library.llama_batch_free(self.batch)
        self.model.close()
