"""Runs a transformers model: the common part of generation, scoring and training.

A shared prefix runs once, at batch 1; its keys and values then precede those of the rows.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from rir_mlx.backends.base import Float32Array, SingleProcess, Tokens
from rir_mlx.backends.kept_prefixes import KeptPrefixes
from rir_mlx.backends.torch.decoding.recording import recording_of
from rir_mlx.backends.torch.layers.attention import NAME as ATTENTION
from rir_mlx.backends.torch.layers.attention import PREFIX, joined
from rir_mlx.backends.torch.layers.lm_head import transformed
from rir_mlx.backends.torch.process_group import TorchProcessGroup
from rir_mlx.backends.torch.transfers import sent
from rir_mlx.models.families import FULL, SLIDING, VERIFIED, Attention, LogitTransform
from rir_mlx.models.rotary import LengthLimited, learned_limit, rotary_limit

_SHARING = 16
"""Rows that share one copy of their prefix on a processor."""


class TorchForward(LengthLimited):
    """A transformers model and what it needs to run on token ids."""

    def __init__(self, model: Any, processes: SingleProcess | TorchProcessGroup) -> None:
        self.model, self.processes = model, processes
        self.device = next(model.parameters()).device
        self.weight_bytes = sum(p.nbytes for p in model.parameters())
        self.shares = True
        self.trained: dict[str, torch.nn.Parameter] = {}
        self.kept = KeptPrefixes[Cache]()
        config = model.config.to_dict()
        self.attention, self.transform = Attention.of(config), LogitTransform.of(config)
        self.limit = rotary_limit(config) or learned_limit(config)
        self.record = recording_of(self.device) if config["model_type"] in VERIFIED else None
        named = inspect.signature(model.get_decoder().forward).parameters
        self._cache_name = "cache" if "cache" in named else "past_key_values"  # transformers has renamed it

    @property
    def lm_head(self) -> torch.nn.Linear:
        """The projection to the vocabulary, without what follows it."""
        lm_head: torch.nn.Linear = self.model.get_output_embeddings()
        return lm_head

    @property
    def layers(self) -> Any:
        """The decoder's layers."""
        decoder = self.model.get_decoder()
        return decoder.h if hasattr(decoder, "h") else decoder.layers

    def sharing_rows(self, prefix: Cache) -> float:
        """From so many rows on, their attention gets one copy of the prefix's keys and values, apart from their own;
        fewer have copies, which it reads faster. Only where our attention runs, and was compared with a plain forward
        pass. It takes more launches, which cost a GPU nothing in a step that is replayed; there copies must also be
        much to read, more than half of the weights."""
        config = self.model.config
        if not self.shares or config.model_type not in VERIFIED or config._attn_implementation != ATTENTION:
            return math.inf
        if self.device.type == "cpu":
            return _SHARING
        if self.record is None:
            return math.inf
        copy = sum(layer.keys.nbytes + layer.values.nbytes for layer in prefix.layers)
        return self.weight_bytes / 2 / copy

    def logits_of(self, hidden: torch.Tensor, words: torch.Tensor | None = None) -> torch.Tensor:
        """Next-token logits [..., vocabulary] of hidden states, or of some words alone [..., words]."""
        head = self.lm_head
        if words is None:
            return transformed(head(hidden), self.transform)
        bias = None if head.bias is None else head.bias[words]
        return transformed(torch.nn.functional.linear(hidden, head.weight[words], bias), self.transform)

    def empty_cache(self) -> Cache:
        return Cache(layers=[DynamicLayer() for _ in self.layers])

    def prefix_cache(self, prefix: Tokens, rows: int) -> Cache:
        """The prefix's keys and values, run once and expanded over the rows. Every layer keeps all of them: the mask
        applies the windows."""
        cache = self.empty_cache()
        if prefix:
            self.run(self.tensor(np.array([prefix])), cache, self.causal(0, len(prefix)))
            for layer in cache.layers:
                layer.keys = layer.keys.expand(rows, -1, -1, -1)
                layer.values = layer.values.expand(rows, -1, -1, -1)
        return cache

    def kept_prefix_cache(self, prefix: Tokens) -> Cache:
        """The prefix's keys and values at batch 1, run now or before. They must not be changed."""
        return self.kept.get(prefix, lambda: self.prefix_cache(prefix, 1))

    def keep_prefixes(self, count: int) -> None:
        self.kept.keep(count)

    def run(
        self,
        tokens: torch.Tensor,
        cache: Cache,
        mask: torch.Tensor,
        positions: torch.Tensor | None = None,
        seen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states [rows, T, width] after the cache. `mask` [1 or rows, 1, T, seen] is True where to attend;
        windows are added here. `seen` [1 or rows, seen] are the positions of the columns, by default their indices."""
        if positions is None:
            start = cache.get_seq_length()
            positions = torch.arange(start, start + tokens.shape[1], device=self.device)[None]
        given = {self._cache_name: cache, "attention_mask": self._by_layer(mask, positions, seen)}
        if isinstance(cache, BesidePrefix):
            given[PREFIX] = cache.layers
        with self.precision():
            output = self.model.get_decoder()(input_ids=tokens, position_ids=positions, use_cache=True, **given)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden.to(self.lm_head.weight.dtype)

    def _by_layer(self, mask: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor | None) -> Any:
        """The mask, or masks by layer type if the model takes a dict of them."""
        window, types = self.attention.window, self.attention.layer_types
        near = mask
        if window is not None:
            seen = torch.arange(mask.shape[-1], device=self.device)[None] if seen is None else seen
            near = mask & (seen[:, None, None] > positions[:, None, :, None] - window)
            # Padding may see nothing through the window, and an all-False row of the mask would give NaN.
            near = torch.where(near.any(-1, keepdim=True), near, mask)
        return near if types is None else {FULL: mask, SLIDING: near}

    @contextmanager
    def window_of(self, tokens: int) -> Iterator[None]:
        """Narrow the windows to that many tokens, in the model's own forward pass and in ours."""
        kept, config = self.attention, self.model.config
        if kept.window is None:
            yield
            return
        try:
            self.attention, config.sliding_window = replace(kept, window=tokens), tokens
            yield
        finally:
            self.attention, config.sliding_window = kept, kept.window

    @torch.inference_mode()
    def own_logits(self, tokens: Tokens) -> Float32Array:
        """[tokens, vocabulary] in float32 from transformers' own forward pass: its masks, its plain attention, its
        head, no cache."""
        config = self.model.config
        kept = config._attn_implementation
        try:
            config._attn_implementation = "eager"
            logits = self.model(input_ids=self.tensor(np.array([tokens])), use_cache=False).logits[0]
        finally:
            config._attn_implementation = kept
        return np.asarray(logits.float().cpu().numpy())

    def precision(self) -> AbstractContextManager[Any]:
        """A float32 adapter over a 16-bit base computes in 16 bits; its weights and gradients stay in float32."""
        dtype = self.lm_head.weight.dtype
        if self.trained and dtype in (torch.bfloat16, torch.float16):
            return torch.autocast(self.device.type, dtype)
        return nullcontext()

    def causal(self, before: int, width: int) -> torch.Tensor:
        """[1, 1, width, before + width]: each token sees itself and everything before it."""
        all_pairs = torch.ones(width, before + width, dtype=torch.bool, device=self.device)
        return all_pairs.tril(diagonal=before)[None, None]

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        return sent(array, self.device)


def kept_prefix(model: TorchForward, prefix: Tokens) -> Any:
    """A cache of the prefix that does not change while rows run after it."""
    return Cache(layers=[AfterPrefix(layer) for layer in model.kept_prefix_cache(prefix).layers])


class BesidePrefix(Cache):
    """Keys and values of rows alone, which the attention sees after the prefix that they share. Each layer has the
    `prefix`, and as its `own` what it last gave out for the rows."""


class AfterPrefix(DynamicLayer):
    """One layer's keys and values of a prefix, placed before those of rows. The rows' own are not kept: they run
    once."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        if layer.is_initialized:
            self.lazy_initialization(layer.keys, layer.values)
            self.keys, self.values = layer.keys, layer.values

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return joined((self.keys, self.values), keys, values) if self.is_initialized else (keys, values)
