"""Which rows form a batch, in which order, and the batches as padded arrays of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rir_mlx.backends.base import Batch, Tokens, pad_right
from rir_mlx.prompting.examples import TrainingExample, TrainingExamples

_BUCKET_BATCHES = 50
_SHORTEST_PREFIX = 16
"""A shorter prefix costs more to run on its own than sharing it saves."""


@dataclass(frozen=True)
class BatchSize:
    """The size of a batch: `rows` rows or, with `tokens`, as many rows as fit when padded to the longest."""

    rows: int
    tokens: int | None = None

    def cut(self, order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """Cut row indices, sorted by length, into consecutive batches. A row longer than `tokens` stands alone."""
        if self.tokens is None:
            return [list(order[start : start + self.rows]) for start in range(0, len(order), self.rows)]
        batches: list[list[int]] = []
        for index in order:
            if not batches or (len(batches[-1]) + 1) * lengths[index] > self.tokens:
                batches.append([])
            batches[-1].append(index)
        return batches

    def longest(self, lengths: Sequence[int]) -> list[int]:
        """Indices of the longest rows, one batch of them."""
        count = self.rows if self.tokens is None else max(1, self.tokens // max(lengths))
        return sorted(range(len(lengths)), key=lambda index: lengths[index])[-count:]

    def mean_rows(self, lengths: Sequence[int]) -> int:
        return self.rows if self.tokens is None else max(1, self.tokens * len(lengths) // max(1, sum(lengths)))


def batch_order(lengths: Sequence[int], size: BatchSize, seed: int, epoch: int) -> list[list[int]]:
    """One epoch's batches of row indices: rows of similar length together, each row once, none dropped.

    Seed and epoch decide the order: rows are shuffled, sorted by length within stretches of about 50 batches, and
    cut into batches, which are shuffled.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(lengths)).tolist()
    stretch = size.mean_rows(lengths) * _BUCKET_BATCHES
    batches = []
    for start in range(0, len(shuffled), stretch):
        batches += size.cut(sorted(shuffled[start : start + stretch], key=lambda index: lengths[index]), lengths)
    return [batches[index] for index in rng.permutation(len(batches))]


def whole_batches(examples: TrainingExamples, size: BatchSize) -> list[list[int]]:
    """Every row once, in batches of similar length, for measuring."""
    lengths = examples.lengths()
    return size.cut(sorted(range(len(lengths)), key=lambda index: lengths[index]), lengths)


def share_of(groups: Sequence[Sequence[int]], rank: int, ranks: int) -> list[Sequence[int]]:
    """A rank's share of a step's batches: whole batches where they divide evenly, else its part of each batch. Each
    row belongs to exactly one rank."""
    if len(groups) % ranks == 0:
        return list(groups[rank::ranks])
    return [part for group in groups if (part := group[rank::ranks])]


def halved(groups: Sequence[Sequence[int]], times: int) -> list[Sequence[int]]:
    """The same rows in batches halved `times` times."""
    for _ in range(times):
        groups = [part for group in groups for part in _halves(group)]
    return list(groups)


def _halves(group: Sequence[int]) -> list[Sequence[int]]:
    middle = (len(group) + 1) // 2
    return [part for part in (group[:middle], group[middle:]) if part]


@dataclass(frozen=True)
class LossWeights:
    """A step's loss is `answer` · mean CE(answer tokens) + `reasoning` · mean CE(reasoning tokens). `dropped` is the
    share of every reasoning, from its start, that the step leaves out."""

    answer: float = 1.0
    reasoning: float = 1.0
    dropped: float = 0.0


def step_batches(
    examples: TrainingExamples,
    groups: Sequence[Sequence[int]],
    *,
    mine: Sequence[Sequence[int]] | None = None,
    weights: LossWeights | None = None,
    shared_prefix: bool = True,
) -> list[Batch]:
    """The batches of one optimizer step, each token weighted so that the batches' summed loss is the loss of all rows
    of `groups` together, as `LossWeights` defines it. The mean over answer tokens is weighted by the rows' own weights,
    and where labels are divided, by their shares.

    `mine` are the batches to make where they are not `groups` themselves: a rank's share of them, or smaller batches.
    Their weights remain those of the whole step. Batches of a second task on the same rows follow.
    """
    weights = weights or LossWeights()
    tasks = [task for task in (examples, examples.second) if task is not None]
    taken = {index for group in groups for index in group}
    kept = [{index: task.rows[index].dropping(weights.dropped) for index in taken} for task in tasks]
    rows = [those[index] for those in kept for group in groups for index in group]
    answers = sum(row.weight * row.answers * row.mean_share[0] for row in rows) or 1.0
    reasonings = sum(len(row.reasoning) * row.mean_share[1] for row in rows) or 1
    each = LossWeights(weights.answer / answers, weights.reasoning / reasonings)
    return [
        _batch(task.prefix, chosen, each, shared_prefix)
        for task, those in zip(tasks, kept, strict=True)
        for group in (groups if mine is None else mine)
        if (chosen := [those[index] for index in group if those[index].learned])
    ]


def _batch(prefix: Tokens, rows: Sequence[TrainingExample], each: LossWeights, shared_prefix: bool) -> Batch:
    shared = shared_prefix and len(rows) > 1 and len(prefix) >= _SHORTEST_PREFIX
    own = () if shared else prefix
    tokens, lengths = pad_right([(*own, *row.prompt, *row.learned) for row in rows])
    weights = np.zeros(tokens.shape, dtype=np.float32)
    for index, row in enumerate(rows):
        place = len(own) + len(row.prompt)
        answer, reasoning = each.answer * row.weight * row.share[0], each.reasoning * row.share[1]
        for part, weight in ((row.first, answer), (row.reasoning, reasoning), (row.answer, answer)):
            weights[index, place : place + len(part)] = weight
            place += len(part)
    return Batch(prefix if shared else (), tokens, lengths, weights)
