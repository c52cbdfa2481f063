"""A GGUF file loaded by llama.cpp, through the server that the package xllamacpp runs in this process.

The server tells log-probabilities of the next token alone, sorted, and slowly where it tells many. So a position is a
request of its own (the tokens before it stay in the server's cache), and only the likeliest tokens are asked for. It
tells nothing of a position whose drawn token ends the text or is a part of a character: so a letter is drawn, whatever
the probabilities that are told.
"""

from __future__ import annotations

import json
import math
import os
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rir_mlx.backends.base import Float32Array, Tokens
from rir_mlx.errors import ModelError

_TOLD = 4096
"""Tokens of a position whose log-probabilities are asked for."""
_NOTHING = -1e30
"""What is below has the probability 0 in the server's float32."""
_FORCED = 1e6
"""Added to a logit so that this token is drawn. The log-probabilities told are those without it."""
_SMALL = 64 * 2**20
"""Bytes of a file for which a second thread costs more than it gives."""
_SECONDS = 60
_KEPT = 16
"""Positions whose answers are kept, for the labels of a row share them."""


class XLlamaCpp:
    """A loaded file, with room for `context` tokens. Raises ModelError if llama.cpp cannot load it."""

    partial = True
    """Log-probabilities that are not told are NaN."""

    def __init__(self, path: Path, context: int = 2048) -> None:
        import xllamacpp

        self.forward = f"llama.cpp's own forward pass, through the server of xllamacpp {xllamacpp.__version__}"
        asked = xllamacpp.CommonParams()
        asked.model.path = str(path)
        asked.n_ctx, asked.n_parallel, asked.n_gpu_layers = context, 1, 0
        asked.warmup = asked.fit_params = asked.ui = False
        asked.verbosity = -1
        asked.swa_full = True  # or a window's cache could not be gone back in
        exact = xllamacpp.ggml_type.GGML_TYPE_F32  # of keys and values, so that only the weights differ
        asked.cache_type_k = asked.cache_type_v = exact
        asked.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        threads = "1" if path.stat().st_size < _SMALL else os.environ.get("OMP_NUM_THREADS", "")
        if threads.isdigit():
            asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = int(threads)
        try:
            self.server: Any = xllamacpp.Server(asked)
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"{path} cannot be loaded by llama.cpp: {error}") from error
        self.vocabulary = _vocabulary(path)
        self.kept: dict[tuple[Tokens, int], Float32Array] = {}
        self.letter = self.tokenize("a")[-1]

    def last_logits(self, rows: Iterable[Tokens], last: int, *, prefix: Tokens = ()) -> Iterator[Float32Array]:
        """Like `Model.last_logits`, but log-probabilities, and NaN for tokens that are not among the likeliest."""
        for row in rows:
            whole, kept = prefix + row, min(last, len(row))
            yield np.stack([self._next(whole[: len(whole) - kept + place + 1]) for place in range(kept)])

    def option_score(self, row: Tokens, option: Tokens) -> float:
        """Σ log p(option | row)."""
        return sum(self._told(row + option[:step], token) for step, token in enumerate(option))

    def tokenize(self, text: str) -> Tokens:
        """The ids of a whole prompt, control tokens included, with the first token where the file asks for one."""
        body = {"content": text, "add_special": True, "parse_special": True}
        request = urllib.request.Request(
            f"{self.server.listening_address}/tokenize", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=_SECONDS) as answer:
            return tuple(json.load(answer)["tokens"])

    def close(self) -> None:
        del self.server

    def _next(self, tokens: Tokens, count: int = _TOLD) -> Float32Array:
        """[vocabulary] log-probabilities after these tokens, NaN beyond the `count` likeliest. Labels of a row share
        positions, so the latest are kept."""
        if (tokens, count) not in self.kept:
            found = np.full(self.vocabulary, np.nan, dtype=np.float32)
            for token, value in self._ask(tokens, count):
                if value > _NOTHING:
                    found[token] = value
            if len(self.kept) == _KEPT:
                del self.kept[next(iter(self.kept))]
            self.kept[tokens, count] = found
        return self.kept[tokens, count]

    def _told(self, tokens: Tokens, wanted: int) -> float:
        """The log-probability of one token after these, -inf where llama.cpp gives it none."""
        for count in (_TOLD, self.vocabulary):
            if not np.isnan(value := self._next(tokens, count)[wanted]):
                return float(value)
        return -math.inf

    def _ask(self, tokens: Tokens, count: int) -> list[tuple[int, float]]:
        """The likeliest tokens to follow, and their log-probabilities."""
        body = {
            "prompt": list(tokens),
            "n_predict": 1,
            "n_probs": min(count, self.vocabulary),
            "temperature": 0,
            "cache_prompt": True,
            "logit_bias": [[self.letter, _FORCED]],
        }
        answer = self.server.handle_completions(body)
        if error := answer.get("error"):
            raise ModelError(f"llama.cpp could not run {len(tokens)} tokens: {error.get('message', error)}")
        [drawn] = answer["choices"][0]["logprobs"]["content"]
        return [(entry["id"], entry["logprob"]) for entry in drawn["top_logprobs"]]


def _vocabulary(path: Path) -> int:
    """The number of a file's tokens."""
    from gguf import GGUFReader

    field = GGUFReader(path).get_field("tokenizer.ggml.token_type")
    if field is None:
        raise ModelError(f"{path} holds no vocabulary.")
    return len(field.data)
