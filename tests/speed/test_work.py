"""What a stage has to compute at least, by hand and by `rir_mlx.speed.work`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rir_mlx.backends.base import Batch
from rir_mlx.backends.limits import Limits
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.models.families import ModelShape
from rir_mlx.speed.work import Sizes, Work, decoding, forward, scoring, training, writing

SHAPE = ModelShape(hidden=8, layers=2, middle=16, heads=2, key_value_heads=1, head_width=4, vocabulary=10)
LAYER = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16
SIZES = Sizes(SHAPE, weight_bytes=1000, width=2)
LIMITS = Limits(flops=100.0, bandwidth=10.0, dtype="float32", width=1, copied=1)


def batch(*lengths: int, prefix: int) -> Batch:
    weights = np.zeros((len(lengths), max(lengths)), dtype=np.float32)
    weights[:, -1] = 1
    return Batch(tuple(range(prefix)), np.zeros(weights.shape, np.int32), np.array(lengths, dtype=np.int32), weights)


def test_a_forward_pass_multiplies_each_weight_and_reads_it_once() -> None:
    work = forward(SIZES, [3], before=0, projected=1)
    assert work.flops == 2 * (2 * LAYER * 3 + 4 * 8 * 4.5) + 2 * 8 * 10
    assert work.bytes == 1000 + 2 * 3 * 2 * 1 * 4 * 2


def test_rows_that_share_a_prefix_meet_it_without_running_it() -> None:
    shared = forward(SIZES, [3, 3], before=5, projected=0)
    assert shared.flops == 2 * (2 * LAYER * 6 + 4 * 8 * 2 * (15 + 4.5))


def test_a_decoding_step_reads_the_prefix_once_and_the_weights_for_all_rows() -> None:
    one, two = decoding(SIZES, 1, before=5, own=3), decoding(SIZES, 2, before=5, own=3)
    assert two.flops == 2 * one.flops
    assert two.bytes - one.bytes == SIZES.cached(3)


def test_training_takes_forward_backward_and_the_gradients_of_what_is_trained() -> None:
    given = batch(3, 4, prefix=5)
    lora, full = (training(SIZES, AdapterSpec(kind, rank=2), [given]).flops for kind in ("lora", "full"))
    pairs = 12.5 + 15 + 4.5 + 20 + 8
    factors = 2 * (16 + 12 + 12 + 16 + 3 * 24)
    shared = 12 * 2 * 8 * pairs
    assert lora == (4 * 2 * LAYER + 6 * 2 * factors) * 12 + shared + 4 * 80 * 2
    assert full == 6 * 2 * LAYER * 12 + shared + 6 * 80 * 2


def test_training_the_last_layer_goes_no_further_back() -> None:
    given, pairs = batch(3, 4, prefix=5), 12.5 + 15 + 4.5 + 20 + 8
    last = training(SIZES, AdapterSpec(num_layers=1, rank=2, keys=("self_attn.q_proj",)), [given]).flops
    assert last == (2 * 2 * LAYER + 2 * LAYER + 6 * 2 * 16) * 12 + (4 * 2 + 8 * 1) * 8 * pairs + 4 * 80 * 2


def test_scoring_runs_common_starts_of_options_once() -> None:
    apart, alike = (scoring(SIZES, [4], 0, options) for options in ([(1, 2), (3, 2)], [(1, 2), (1, 3)]))
    assert apart.flops - alike.flops == pytest.approx(2 * (2 * LAYER + 4 * 8 * 5.5) + 2 * 80)


def test_work_waits_for_the_slower_of_arithmetic_and_memory() -> None:
    computed, read = Work(200, 10), Work(100, 40)
    assert (computed.seconds(LIMITS), computed.limit(LIMITS)) == (2, "arithmetic")
    assert (read.seconds(LIMITS), read.limit(LIMITS)) == (4, "bandwidth")
    assert computed.seconds(replace(LIMITS, flops=1e9)) == 1


def test_writing_takes_the_steps_of_its_rows_and_no_row_waits_for_another() -> None:
    *prompts, steps = writing(SIZES, [3, 3], [4, 4], before=5, most=2)
    assert prompts == [forward(SIZES, [5], 0, 0), forward(SIZES, [3, 3], 5, 2)]
    each = [decoding(SIZES, 2, 5, 3 + step) for step in (1, 2, 3)]
    assert steps.flops == pytest.approx(sum(work.flops for work in each))
    assert steps.bytes == pytest.approx(sum(work.bytes for work in each))
    more = writing(SIZES, [3] * 3, [5, 2, 2], before=5, most=2)[-1]
    tokens = SIZES.cached(3 * 4 + (1 + 2 + 3 + 4) + 2 * (3 + 1))
    assert more.bytes == pytest.approx(4 * (1000 + SIZES.cached(5)) + tokens)  # short rows leave their place
    assert writing(SIZES, [3], [1], before=5, most=2) == [forward(SIZES, [5], 0, 0), forward(SIZES, [3], 5, 1)]
