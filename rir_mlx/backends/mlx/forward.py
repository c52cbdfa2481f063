"""Runs an mlx-lm model: the common part of generation, scoring and training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import KVCache

from rir_mlx.backends.base import Float32Array, SingleProcess, Tokens
from rir_mlx.backends.kept_prefixes import KeptPrefixes
from rir_mlx.backends.limits.logits import head_rows
from rir_mlx.backends.mlx.process_group import MlxProcessGroup
from rir_mlx.errors import ModelError
from rir_mlx.models.rotary import LengthLimit, LengthLimited, angles_of_layers

_POSITIONS = (1, 17, 300)
"""At which angles are compared."""
_TOLERANCE = 2e-3
"""Of a cosine, in float32 on any device. Other settings move some of them by 0.1 and more."""


def has_accelerator() -> bool:
    """Whether MLX computes on a GPU: Metal's, or CUDA's."""
    return mx.default_device().type == mx.DeviceType.gpu


def shares_memory() -> bool:
    """Whether MLX's memory is the processor's: not on CUDA."""
    return not has_accelerator() or mx.metal.is_available()


class MlxForward(LengthLimited):
    """An mlx-lm model and its projection to the vocabulary. Within `limit` mlx-lm computes what the model was trained
    with."""

    def __init__(
        self, model: Any, processes: SingleProcess | MlxProcessGroup, limit: LengthLimit | None = None
    ) -> None:
        self.model, self.processes, self.limit = model, processes, limit
        self._head = _HeadAlone(model)
        self.kept = KeptPrefixes[list[KVCache]]()

    def kept_prefix_cache(self, prefix: Tokens) -> list[KVCache]:
        """The prefix's keys and values at batch 1, run now or before. They must not be changed."""
        return self.kept.get(prefix, lambda: prefix_cache(self, prefix))

    def keep_prefixes(self, count: int) -> None:
        self.kept.keep(count)

    @property
    def lm_head(self) -> nn.Module:
        """The module that projects to the vocabulary: the embedding where the two are tied."""
        return self.model.lm_head if hasattr(self.model, "lm_head") else self.model.model.embed_tokens

    @property
    def vocabulary(self) -> int:
        """Size of the vocabulary."""
        return int(self.model.args.vocab_size)

    @property
    def head_rows(self) -> int:
        """Positions that training projects to the vocabulary together: more with a memory of the GPU's own."""
        return head_rows(self.vocabulary, gpu=not shares_memory())

    def logits_of(self, hidden: mx.array, words: mx.array | None = None) -> mx.array:
        """Next-token logits [..., vocabulary] of hidden states, or of some words alone [..., words], by the model's own
        code after its layers, with its scaling, caps and tied weights."""
        head = self._head if words is None else _HeadAlone(self.model, _Words(self.lm_head, words))
        return type(self.model).__call__(head, hidden)

    @contextmanager
    def window_of(self, tokens: int) -> Iterator[None]:
        """Narrow the windows to that many tokens, in the model's own forward pass and in ours, and lift the limit on
        lengths: if mlx-lm ignores a window, both ignore it."""
        inner, limit = self.model.model, self.limit
        self.limit = None
        found = {name: getattr(inner, name, None) for name in ("window_size", "sliding_window")}
        kept = {name: value for name, value in found.items() if isinstance(value, int)}
        try:
            for name in kept:
                setattr(inner, name, tokens)
            yield
        finally:
            self.limit = limit
            for name, value in kept.items():
                setattr(inner, name, value)

    def own_logits(self, tokens: Tokens) -> Float32Array:
        """[tokens, vocabulary] in float32 from mlx-lm's own forward pass, without a cache."""
        return np.array(self.model(mx.array([tokens]))[0].astype(mx.float32))


class _HeadAlone:
    """The model with layers that pass hidden states on: calling it computes what follows the layers, and no more."""

    def __init__(self, model: Any, words: _Words | None = None) -> None:
        self._model, self.model = model, _PassedOn(model.model, words)
        if words is not None and hasattr(model, "lm_head"):
            self.lm_head = words

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _PassedOn:
    def __init__(self, inner: Any, words: _Words | None) -> None:
        self._inner = inner
        if words is not None:
            self.embed_tokens = words

    def __call__(self, hidden: mx.array, *_: Any, **__: Any) -> mx.array:
        return hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Words:
    """The projection to some words alone, in the place of a linear layer or of an embedding, quantised or not."""

    def __init__(self, head: Any, words: mx.array) -> None:
        chosen = {name: part[words] for name, part in head.parameters().items()}
        if isinstance(head, nn.QuantizedLinear | nn.QuantizedEmbedding):
            form = {"group_size": head.group_size, "bits": head.bits, "mode": head.mode}
            chosen["weight"] = mx.dequantize(chosen["weight"], chosen["scales"], chosen.get("biases"), **form)
        self.weight, self.bias = chosen["weight"], chosen.get("bias")

    def __call__(self, hidden: mx.array) -> mx.array:
        logits = hidden @ self.weight.T
        return logits if self.bias is None else logits + self.bias

    as_linear = __call__


def prefix_cache(model: MlxForward, prefix: Tokens) -> list[KVCache]:
    caches = [KVCache() for _ in model.model.layers]
    if prefix:
        model.model.model(mx.array([prefix]), cache=caches)
        mx.eval([cache.state for cache in caches])
    return caches


def watched_layers(inner: Any, run: Callable[[], mx.array]) -> list[Float32Array]:
    """[tokens, width] of what enters the first of `inner.layers` and of what each gives, while `run` computes. mlx-lm
    shows no layer, so each stands behind a watcher for as long as that takes."""
    kept, seen = list(inner.layers), list[mx.array]()
    try:
        inner.layers = [_Watched(layer, seen) for layer in kept]
        mx.eval(run())
    finally:
        inner.layers = kept
    return [np.array(output[0].astype(mx.float32)) for output in seen]


class _Watched:
    """A layer whose output is kept, and of the first one what it is given."""

    def __init__(self, layer: Any, seen: list[mx.array]) -> None:
        self.layer, self.seen = layer, seen

    def __call__(self, hidden: mx.array, *given: Any, **named: Any) -> mx.array:
        if not self.seen:
            self.seen.append(hidden)
        self.seen.append(self.layer(hidden, *given, **named))
        return self.seen[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)


def check_angles(model: Any, config: Mapping[str, Any]) -> None:
    """Raises ModelError if a layer turns by other angles. One that does not turn at all is left alone: some have none,
    and mlx-lm's code says which."""
    for layer, angles in zip(model.layers, angles_of_layers(config), strict=False):
        turns = [part for name, part in layer.named_modules() if name.rpartition(".")[2] in ("rope", "rotary_emb")]
        each = mx.eye(angles.width)[None, :, None]  # [1, heads, 1 token, width]: each head has one number alone
        for turn in turns:
            for position in _POSITIONS:
                found = np.sort(np.diag(np.array(turn(each, offset=position))[0, :, 0].astype(np.float32)))
                off = np.abs(found - angles.cosines(position)).max()
                if off > _TOLERANCE and not np.array_equal(found, np.ones(angles.width)):
                    raise ModelError(
                        f"mlx-lm cannot run this {config['model_type']} model: it does not apply the rotary settings "
                        "of its config.json.",
                        hint="Use --backend torch.",
                    )
