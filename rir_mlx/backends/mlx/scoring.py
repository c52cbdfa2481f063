"""Scoring with an MLX model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import BatchKVCache, KVCache
from numpy.typing import NDArray

from rir_mlx.backends.base import Tokens, pad_right, scoring_rows

if TYPE_CHECKING:
    from rir_mlx.backends.mlx.model import MlxModel


def prefix_cache(model: MlxModel, prefix: Tokens) -> list[KVCache]:
    caches = [KVCache() for _ in model.model.layers]
    if prefix:
        model.model.model(mx.array([prefix]), cache=caches)
        mx.eval([cache.state for cache in caches])
    return caches


def score(
    model: MlxModel, prompts: Sequence[Tokens], options: Sequence[Tokens], prefix: Tokens, batch_size: int
) -> NDArray[np.float64]:
    """`Model.score`: each prompt runs once; every option then continues the prompt's cache."""
    scores = np.zeros((len(prompts), len(options)))
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    batch_size = scoring_rows(batch_size, len(options))
    shared = prefix_cache(model, prefix)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        scores[chosen] = _score_group(model, [prompts[index] for index in chosen], options, shared)
    return scores


def _score_group(
    model: MlxModel, prompts: Sequence[Tokens], options: Sequence[Tokens], shared: list[KVCache]
) -> NDArray[np.float64]:
    rows, count = len(prompts), len(options)
    tokens, lengths = pad_right(prompts)
    caches = [BatchKVCache.merge([cache] * rows) for cache in shared]
    padding = (tokens.shape[1] - lengths).tolist()
    for cache in caches:
        cache.prepare(lengths=lengths.tolist(), right_padding=padding)
    hidden = model.model.model(mx.array(tokens), cache=caches)
    for cache in caches:
        cache.finalize()
    last = hidden[mx.arange(rows), mx.array(lengths - 1)]
    choice, sizes = pad_right(options)
    first = _log_softmax(model.logits_of(last))[:, mx.array(choice[:, 0])]
    total = np.array(first.astype(mx.float32)).astype(np.float64)
    if choice.shape[1] > 1:
        repeated = [_repeat(cache, count) for cache in caches]
        following = np.tile(choice, (rows, 1))
        hidden = model.model.model(mx.array(following[:, :-1]), cache=repeated)
        chances = _log_softmax(model.logits_of(hidden))
        gathered = mx.take_along_axis(chances, mx.array(following[:, 1:, None]), axis=-1)[..., 0]
        real = np.arange(1, choice.shape[1])[None] < np.tile(sizes, rows)[:, None]
        total += (np.array(gathered).astype(np.float64) * real).sum(-1).reshape(rows, count)
    return total


def _log_softmax(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _repeat(cache: BatchKVCache, times: int) -> BatchKVCache:
    """The cache with every row `times` times in a row."""
    keys, values, offset, left_padding, index = cache.state
    repeated = BatchKVCache([0])
    repeated.state = (
        mx.repeat(keys[..., :index, :], times, axis=0),
        mx.repeat(values[..., :index, :], times, axis=0),
        mx.repeat(offset, times),
        mx.repeat(left_padding, times),
        index,
    )
    return repeated
