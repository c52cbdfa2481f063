"""Scoring with an MLX model: a row's prompt runs once, then the options continue it side by side.

mlx-lm's attention takes a row's positions from its cache, one after the other, so a tree of options cannot be one
sequence here. Its paths are rows of a batch instead. The keys and values before them are joined one layer at a time,
never held for all layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rir_mlx.backends.base import Tokens, pad_right
from rir_mlx.backends.label_tree import (
    OptionTree,
    Scoring,
    parts,
    scoring_groups,
    trees,
)
from rir_mlx.backends.mlx.forward import MlxForward, has_accelerator

_TOKENS = 8192
"""Tokens of prompts that run together, padding included."""
_SEEN = 65_536
"""Tokens seen by the options that run together: 128 MB of keys and values per layer of Llama-3.2-1B."""

Pair = tuple[mx.array, mx.array]


def score(model: MlxForward, prompts: Sequence[Tokens], options: Sequence[Tokens], how: Scoring) -> NDArray[np.float64]:
    """`Model.score`: each prompt runs once, then the options side by side. An option that a longer one starts with runs
    together with it."""
    scores = np.zeros((len(prompts), len(options)))
    longest = max((len(prompt) for prompt in prompts), default=0) + max((len(option) for option in options), default=0)
    model.check_length(len(how.prefix) + longest)
    grown = list(trees(options))
    shared = [cache.keys_and_values() if how.prefix else None for cache in model.kept_prefix_cache(how.prefix)]
    for chosen in scoring_groups([len(prompt) for prompt in prompts], 0, how.batch_size, _TOKENS):
        rows = _Rows(model, [prompts[index] for index in chosen], shared)
        for columns, tree in grown:
            scores[np.ix_(chosen, columns)] = tree.totals(_score_edges(rows, tree, mass=how.mass))
    return scores


def _score_edges(rows: _Rows, tree: OptionTree, *, mass: bool) -> NDArray[np.float64]:
    """[rows, edges] log p of the tree's edges after each prompt; without `mass` up to a constant of each row, for which
    of the root only the words of its edges are projected."""
    probabilities = np.zeros((rows.count, len(tree.sources)))
    for nodes, hidden in _run(rows, tree):
        edges = np.nonzero(np.isin(tree.sources, nodes))[0]
        if not mass and nodes[0] == 0:
            words = mx.array(tree.targets[edges])
            probabilities[:, edges] = np.array(rows.model.logits_of(rows.last, words).astype(mx.float32))
            continue
        sources = np.searchsorted(nodes, tree.sources[edges])
        probabilities[:, edges] = _log_probabilities(rows.model, hidden, sources, tree.targets[edges])
    return probabilities


def _run(rows: _Rows, tree: OptionTree) -> Iterator[tuple[NDArray[np.int64], mx.array]]:
    """Every node of the tree once, in groups: the nodes, ascending, and their hidden states [rows, nodes, width]."""
    yield np.zeros(1, dtype=np.int64), rows.last[:, None]
    paths, start = tree.paths(), 0
    done: set[int] = set()
    while start < len(paths):
        # Paths are sorted by length, so the last path of a group is its longest.
        count = 1
        while start + count < len(paths) and rows.seen(count + 1, len(paths[start + count])) <= _SEEN:
            count += 1
        group = paths[start : start + count]
        start += count
        tokens, _ = pad_right([tuple(tree.tokens[node - 1] for node in path) for path in group])
        hidden = rows.branch(tokens)
        fresh = {node: at for at, path in enumerate(group) for node in path if node not in done}
        nodes = np.array(sorted(fresh), dtype=np.int64)
        done.update(fresh)
        at, places = np.array([fresh[node] for node in nodes.tolist()]), tree.depths[nodes - 1]
        yield nodes, hidden[:, mx.array(at), mx.array(places)]


class _Rows:
    """Prompts that ran together, right-padded, after their shared prefix."""

    def __init__(self, model: MlxForward, prompts: Sequence[Tokens], shared: Sequence[Pair | None]) -> None:
        tokens, lengths = pad_right(prompts)
        self.model, self.count = model, len(prompts)
        self.before = [() if pair is None else (_side_by_side(pair),) for pair in shared]
        start = 0 if shared[0] is None else shared[0][0].shape[2]
        self.width = start + tokens.shape[1]
        offset, real = mx.full((self.count,), start, dtype=mx.int32), mx.ones((self.count, start), dtype=mx.bool_)
        caches = [_Continued(before, (self.count, 1), offset, real) for before in self.before]
        hidden = model.model.model(mx.array(tokens), cache=caches)
        self.last = hidden[mx.arange(self.count), mx.array(lengths - 1)]  # [rows, width]
        self.before = [(*before, _side_by_side(cache.own)) for before, cache in zip(self.before, caches, strict=True)]
        self.lengths = start + mx.array(lengths)
        self.real = mx.arange(self.width) < self.lengths[:, None]
        mx.eval(self.last, [cache.own for cache in caches])

    def seen(self, paths: int, longest: int) -> int:
        """Tokens that the attention of `paths` paths reads."""
        return self.count * paths * (self.width + longest)

    def branch(self, tokens: NDArray[np.int32]) -> mx.array:
        """Run paths [paths, T] after each row; returns their hidden states [rows, paths, T, width]."""
        paths = len(tokens)
        offset, real = (mx.repeat(array, paths, axis=0) for array in (self.lengths, self.real))
        caches = [_Continued(before, (self.count, paths), offset, real) for before in self.before]
        hidden = self.model.model.model(mx.array(np.tile(tokens, (self.count, 1))), cache=caches)
        return hidden.reshape(self.count, paths, *hidden.shape[1:])


class _Continued:
    """One layer's cache, as mlx-lm's layers use it, for rows [rows * paths] that continue what has run.

    `before` are keys and values [1 or rows, 1, heads, tokens, width] that stand before those of the call; `offset`
    [rows * paths] is the position of each one's first token; `real` [rows * paths, tokens] is False at padding.
    """

    def __init__(self, before: Sequence[Pair], shape: tuple[int, int], offset: mx.array, real: mx.array) -> None:
        self.before, self.shape, self.offset, self.real = before, shape, offset, real
        self.own: Pair = (mx.zeros(0), mx.zeros(0))

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Pair:
        self.own = (keys, values)
        return self._join(0, keys), self._join(1, values)

    def _join(self, index: int, own: mx.array) -> mx.array:
        given = [mx.broadcast_to(pair[index], (*self.shape, *pair[index].shape[2:])) for pair in self.before]
        joined = mx.concatenate([*given, own.reshape(*self.shape, *own.shape[1:])], axis=3)
        return joined.flatten(0, 1)

    def make_mask(self, tokens: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """[rows * paths, 1, tokens, before + tokens] True where to attend. Padding stands between what has run and the
        call's own tokens, so their columns are not their positions."""
        own = self.offset[:, None] + mx.arange(tokens)
        before = mx.broadcast_to(mx.arange(self.real.shape[1]), self.real.shape)
        columns = mx.concatenate([before, own], axis=1)
        real = mx.concatenate([self.real, mx.ones(own.shape, dtype=mx.bool_)], axis=1)
        mask = (columns[:, None] <= own[:, :, None]) & real[:, None]
        if window_size is not None:
            mask = mask & (own[:, :, None] < columns[:, None] + window_size)
        return mask[:, None]


def _side_by_side(pair: Pair) -> Pair:
    """Keys and values [rows, heads, tokens, width] with an axis for paths."""
    return pair[0][:, None], pair[1][:, None]


def _log_probabilities(
    model: MlxForward, hidden: mx.array, sources: NDArray[np.int64], targets: NDArray[np.int32]
) -> NDArray[np.float64]:
    """[rows, edges] log p of `targets` at the nodes `sources` of hidden states [rows, nodes, width]."""
    rows, nodes = hidden.shape[:2]
    hidden = hidden.flatten(0, 1)
    mx.eval(hidden)
    places = (np.arange(rows)[:, None] * nodes + sources).ravel()
    words = np.tile(targets, rows)
    found = []
    for positions, edges in parts(places, rows * nodes, model.model.args.vocab_size):
        logits = model.logits_of(hidden[positions]).astype(mx.float32)
        at = places[edges] - positions.start
        wanted = logits[mx.array(at), mx.array(words[edges])]
        found.append(np.array(wanted).astype(np.float64) - _log_sums(logits)[at])
    return np.concatenate(found).reshape(rows, -1)


def _log_sums(logits: mx.array) -> NDArray[np.float32]:
    """[positions] log Σ exp of float32 logits [positions, vocabulary]: by NumPy on a processor, for which MLX takes
    nearly three times as long."""
    if has_accelerator():
        return np.array(mx.logsumexp(logits, axis=-1))
    values = np.array(logits, copy=False)
    top = values.max(axis=-1, keepdims=True)
    shifted = values - top
    sums: NDArray[np.float32] = top[:, 0] + np.log(np.exp(shifted, out=shifted).sum(axis=-1))
    return sums
