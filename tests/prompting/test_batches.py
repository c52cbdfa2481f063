"""Batches: every row once, rows of similar length together, and weights that make up one loss."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rir_mlx.prompting.batches import (
    BatchSize,
    LossWeights,
    batch_order,
    halved,
    share_of,
    step_batches,
    whole_batches,
)
from rir_mlx.prompting.examples import (
    TrainingExample,
    TrainingExamples,
    joined,
)

HEAD = tuple(range(16))
"""The shortest prefix that is worth running apart."""


def lengths_of(rows: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(5, 200, rows).tolist()


@pytest.mark.parametrize(("rows", "batch_size"), [(1, 8), (7, 8), (8, 8), (9, 8), (1000, 16), (403, 1)])
def test_each_row_is_in_one_batch_of_an_epoch(rows: int, batch_size: int) -> None:
    """mlx-lm never trains the last rows where the batch size does not divide their number."""
    order = batch_order(lengths_of(rows), BatchSize(batch_size), seed=3, epoch=1)
    assert sorted(index for batch in order for index in batch) == list(range(rows))
    assert max(len(batch) for batch in order) <= batch_size
    assert len(order) == -(-rows // batch_size)


def padding_share(lengths: list[int], order: list[list[int]]) -> float:
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in order)
    return 1 - sum(lengths) / padded


def test_rows_of_like_length_are_batched_together() -> None:
    """mlx-lm's sort by length compared the number of keys of a dict, and so sorted nothing."""
    lengths = lengths_of(2000)
    random = np.random.default_rng(0).permutation(2000).reshape(-1, 16).tolist()
    assert padding_share(lengths, random) > 0.4
    assert padding_share(lengths, batch_order(lengths, BatchSize(16), seed=0, epoch=0)) < 0.05


def test_the_order_is_drawn_from_seed_and_epoch() -> None:
    lengths = lengths_of(300)
    first = batch_order(lengths, BatchSize(8), seed=0, epoch=0)
    assert batch_order(lengths, BatchSize(8), seed=0, epoch=0) == first
    assert batch_order(lengths, BatchSize(8), seed=0, epoch=1) != first
    assert batch_order(lengths, BatchSize(8), seed=1, epoch=0) != first


def test_batches_are_not_in_order_of_length() -> None:
    lengths = lengths_of(400)
    means = [
        np.mean([lengths[index] for index in batch]) for batch in batch_order(lengths, BatchSize(8), seed=0, epoch=0)
    ]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4


def test_whole_batches_hold_each_row_once_by_length() -> None:
    examples = TrainingExamples((1,), tuple(TrainingExample((2,) * length, (), (3,)) for length in lengths_of(21)))
    groups = list(whole_batches(examples, BatchSize(4)))
    flat = [index for group in groups for index in group]
    assert sorted(flat) == list(range(21))
    assert [len(examples.rows[index]) for index in flat] == sorted(len(row) for row in examples.rows)


@pytest.mark.parametrize("share", [True, False])
def test_weights_stand_on_the_completion_and_sum_to_its_parts(share: bool) -> None:
    examples = TrainingExamples(HEAD, (TrainingExample((3, 4), (5, 6, 7), (8, 9)), TrainingExample((3,), (5,), (8,))))
    batch = step_batches(examples, [[0, 1]], weights=LossWeights(reasoning=0.5), shared_prefix=share)[0]
    shift = 0 if share else len(HEAD)
    expected = np.zeros((2, 7 + shift))
    expected[0, shift + 2 : shift + 5] = 0.5 / 4
    expected[0, shift + 5 : shift + 7] = 1 / 3
    expected[1, shift + 1] = 0.5 / 4
    expected[1, shift + 2] = 1 / 3
    np.testing.assert_allclose(batch.weights, expected, rtol=1e-6)
    assert batch.lengths.tolist() == [7 + shift, 3 + shift]
    assert batch.prefix == (HEAD if share else ())
    assert batch.tokens[1, : 3 + shift].tolist() == ([] if share else list(HEAD)) + [3, 5, 8]
    assert batch.processed == (len(HEAD) if share else 0) + batch.tokens.size


@pytest.mark.parametrize(("rows", "head"), [(1, 40), (8, 15), (8, 0)])
def test_a_prefix_that_saves_nothing_is_not_run_apart(rows: int, head: int) -> None:
    """One row, or a prefix of a few tokens: a second pass through the model costs more than it spares."""
    examples = TrainingExamples(tuple(range(head)), tuple(TrainingExample((3, 4), (), (8, 9)) for _ in range(rows)))
    batch = step_batches(examples, [range(rows)])[0]
    assert batch.prefix == ()
    assert batch.tokens.shape == (rows, head + 4)


@pytest.mark.parametrize("budget", [30, 100, 1000])
def test_a_token_budget_bounds_the_padded_batch(budget: int) -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 500).tolist()
    order = batch_order(lengths, BatchSize(8, budget), seed=3, epoch=1)
    assert sorted(index for batch in order for index in batch) == list(range(500))
    padded = [len(batch) * max(lengths[index] for index in batch) for batch in order]
    assert all(size <= budget or len(batch) == 1 for size, batch in zip(padded, order, strict=True))
    full = [size for size in padded if size > budget - 2 * 60]
    assert len(full) > 0.7 * len(padded)
    assert padding_share(lengths, order) < 0.1


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("groups", [[[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2, 3]], [[1]], [[1, 2], [3, 4], [5]]])
def test_the_ranks_together_have_each_row_once(groups: list[list[int]], ranks: int) -> None:
    shares = [share_of(groups, rank, ranks) for rank in range(ranks)]
    assert sorted(index for share in shares for group in share for index in group) == sorted(
        index for group in groups for index in group
    )
    sizes = [sum(len(group) for group in share) for share in shares]
    assert max(sizes) - min(sizes) <= len(groups) * (max(len(group) for group in groups) - min(map(len, groups)) + 1)


@pytest.mark.parametrize("times", [0, 1, 2, 5])
def test_halving_keeps_rows_and_weights(times: int) -> None:
    examples = TrainingExamples(
        HEAD, tuple(TrainingExample((3,) * (1 + i % 3), (5,) * (i % 4), (8, 9)) for i in range(12))
    )
    groups = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11]]
    parts = halved(groups, times)
    assert [index for group in parts for index in group] == list(range(12))
    assert max(len(group) for group in parts) == max(1, math.ceil(7 / 2**times))
    batches = step_batches(examples, groups, mine=parts, weights=LossWeights(reasoning=0.5))
    assert sum(float(batch.weights.sum()) for batch in batches) == pytest.approx(1.5)


def spread(examples: TrainingExamples, weights: LossWeights) -> list[float]:
    """What each learned token of one step of all rows weighs, row by row."""
    batches = step_batches(examples, [range(len(examples.rows))], weights=weights)
    return [float(weight) for batch in batches for row in batch.weights for weight in row if weight]


@pytest.mark.parametrize("answer_first", [False, True])
def test_weights_follow_the_order_of_answer_and_reasoning(answer_first: bool) -> None:
    row = TrainingExample((3, 4), (5, 6, 7), (), (8, 9)) if answer_first else TrainingExample((3, 4), (5, 6, 7), (8, 9))
    (batch,) = step_batches(TrainingExamples((1,), (row,)), [[0]], weights=LossWeights(reasoning=0.6))
    answer, reasoning = [0.5, 0.5], [0.2, 0.2, 0.2]
    expected = answer + reasoning if answer_first else reasoning + answer
    np.testing.assert_allclose(batch.weights, [[0, 0, 0, *expected]], rtol=1e-6)
    assert batch.tokens.tolist() == [[1, 3, 4, *((8, 9, 5, 6, 7) if answer_first else (5, 6, 7, 8, 9))]]


def test_rows_weigh_their_answers_and_not_their_reasonings() -> None:
    """A weighted mean: the weights of the answers sum to the answer's weight, whatever the rows' own are."""
    weights = (3.0, 1.0, 0.5)
    rows = tuple(TrainingExample((i,), (20,) * (i + 1), (30, 31), weight=weight) for i, weight in enumerate(weights))
    (batch,) = step_batches(TrainingExamples((), rows), [[2, 0, 1]], weights=LossWeights(reasoning=0.6))
    place = [[1 + len(rows[i].reasoning), 3 + len(rows[i].reasoning)] for i in (2, 0, 1)]
    found = [batch.weights[row, start:end].tolist() for row, (start, end) in enumerate(place)]
    np.testing.assert_allclose(found, [[w / 9] * 2 for w in (0.5, 3.0, 1.0)], rtol=1e-6)
    reasonings = [batch.weights[row, 1:start] for row, (start, _) in enumerate(place)]
    np.testing.assert_allclose(np.concatenate(reasonings), 0.6 / 6, rtol=1e-6)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("times", [0, 1, 3])
def test_ranks_and_halves_together_weigh_what_the_whole_step_does(times: int, ranks: int) -> None:
    """Weighted rows, two tasks, and rows without a reasoning in the second."""
    rows = tuple(TrainingExample((i,), (), (8,) * (1 + i % 3), weight=1 + i % 4) for i in range(11))
    second = TrainingExamples(HEAD, tuple(TrainingExample((i,), (7,) * (i % 5), ()) for i in range(11)))
    examples, groups = TrainingExamples((), rows, second=second), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    weights = LossWeights(0.25, 0.75)
    found: list[float] = []
    for rank in range(ranks):
        mine = halved(share_of(groups, rank, ranks), times)
        batches = step_batches(examples, groups, mine=mine, weights=weights)
        found += [float(weight) for batch in batches for row in batch.weights for weight in row if weight]
    np.testing.assert_allclose(sorted(found), sorted(spread(examples, weights)), rtol=1e-6)
    assert sum(found) == pytest.approx(1.0, rel=1e-5)


def test_two_tasks_keep_their_tokens_when_joined() -> None:
    first = TrainingExamples(
        (1, 2, 3, 4), (TrainingExample((5,), (), (6,)), TrainingExample((7,), (), (8,))), 1, 2, (0, 3)
    )
    second = TrainingExamples((1, 2, 9), (TrainingExample((10,), (), (11, 12)),), 0, 1)
    both = joined(first, second)
    assert both.prefix == (1, 2)
    assert [both.prefix + row.prompt + row.learned for row in both.rows] == [
        *((1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 7, 8), (1, 2, 9, 10, 11, 12))
    ]
    assert (both.trimmed, both.dropped) == (1, 3)
    assert joined(first, TrainingExamples((), ())) == first
    assert joined(TrainingExamples((), ()), second) == second
    assert joined(first, replace(second, prefix=(1, 2, 3, 4, 5))).prefix == first.prefix
