"""Running a transformers model: what generation, scoring and training have in common.

A prefix that rows share runs once, at batch 1; its keys and values are then put before those of the rows.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from rir_mlx.backends.base import SingleProcess, Tokens
from rir_mlx.backends.torch.process_group import TorchProcessGroup


class TorchForward:
    """A transformers model and what it needs to run on token ids."""

    def __init__(self, model: Any, processes: SingleProcess | TorchProcessGroup) -> None:
        self.model, self.processes = model, processes
        self.device = next(model.parameters()).device
        self.trained: dict[str, torch.nn.Parameter] = {}

    @property
    def lm_head(self) -> torch.nn.Linear:
        """The projection to the vocabulary."""
        lm_head: torch.nn.Linear = self.model.get_output_embeddings()
        return lm_head

    def prefix_cache(self, prefix: Tokens, rows: int) -> DynamicCache:
        """The prefix's keys and values, run once and expanded over the rows."""
        cache = DynamicCache(config=self.model.config)
        if prefix:
            self.run(self.tensor(np.array([prefix])), cache, self.causal(0, len(prefix)))
            for layer in cache.layers:
                layer.keys = layer.keys.expand(rows, -1, -1, -1)
                layer.values = layer.values.expand(rows, -1, -1, -1)
        return cache

    def run(
        self, tokens: torch.Tensor, cache: DynamicCache, mask: torch.Tensor, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states [rows, T, width] after the cache. `mask` [1 or rows, 1, T, seen] is True where to attend."""
        if positions is None:
            start = cache.get_seq_length()
            positions = torch.arange(start, start + tokens.shape[1], device=self.device)[None]
        with self.precision():
            output = self.model.get_decoder()(
                input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden.to(self.lm_head.weight.dtype)

    def precision(self) -> AbstractContextManager[Any]:
        """A float32 adapter over a 16-bit base computes in 16 bits; its weights and gradients stay in float32."""
        dtype = self.lm_head.weight.dtype
        if self.trained and dtype in (torch.bfloat16, torch.float16):
            return torch.autocast(self.device.type, dtype)
        return nullcontext()

    def causal(self, before: int, width: int) -> torch.Tensor:
        """[1, 1, width, before + width]: each token sees what is before it and itself."""
        ones = torch.ones(width, before + width, dtype=torch.bool, device=self.device)
        return ones.tril(diagonal=before)[None, None]

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, device=self.device)


def kept_prefix(model: TorchForward, prefix: Tokens) -> Any:
    """A cache of the prefix, which stays the same while rows run after it."""
    return Cache(layers=[_Prefix(layer) for layer in model.prefix_cache(prefix, 1).layers])


class _Prefix(DynamicLayer):
    """One layer's keys and values of a prefix, put before those of rows. The rows' own are not kept: they run once."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        if layer.is_initialized:
            self.lazy_initialization(layer.keys, layer.values)
            self.keys, self.values = layer.keys, layer.values

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            return keys, values
        before = (part.expand(len(keys), -1, -1, -1) for part in (self.keys, self.values))
        joined = [torch.cat(pair, dim=2) for pair in zip(before, (keys, values), strict=True)]
        return joined[0], joined[1]
