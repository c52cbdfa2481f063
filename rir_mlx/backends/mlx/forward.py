"""Running an mlx-lm model: what generation, scoring and training have in common."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import KVCache

from rir_mlx.backends.base import SingleProcess, Tokens
from rir_mlx.backends.mlx.process_group import MlxProcessGroup


class MlxForward:
    """An mlx-lm model and its projection to the vocabulary."""

    def __init__(self, model: Any, processes: SingleProcess | MlxProcessGroup) -> None:
        self.model, self.processes = model, processes

    @property
    def lm_head(self) -> nn.Module:
        """What projects to the vocabulary: the embedding where the two are tied."""
        return self.model.model.embed_tokens if self.model.args.tie_word_embeddings else self.model.lm_head

    @property
    def vocabulary(self) -> int:
        """Tokens that the model gives logits for."""
        return int(self.model.args.vocab_size)

    def logits_of(self, hidden: mx.array) -> mx.array:
        """Next-token logits [..., vocabulary] of hidden states."""
        return self.lm_head.as_linear(hidden) if self.model.args.tie_word_embeddings else self.lm_head(hidden)


def prefix_cache(model: MlxForward, prefix: Tokens) -> list[KVCache]:
    caches = [KVCache() for _ in model.model.layers]
    if prefix:
        model.model.model(mx.array([prefix]), cache=caches)
        mx.eval([cache.state for cache in caches])
    return caches
