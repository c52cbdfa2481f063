"""The limits of a machine, measured, and rows that fit into a time."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from rir_mlx.backends import limits
from rir_mlx.backends.fake import FakeBackend
from rir_mlx.backends.limits import largest_copy, measured_limits
from rir_mlx.speed.chips import CHIPS, usual
from rir_mlx.speed.fitting import fitting_rows


def test_limits_are_those_of_a_product_and_a_copy_of_this_machine() -> None:
    found = measured_limits(FakeBackend(), "float32", 0.02)
    assert found.width >= 512
    assert found.copied >= 2**26
    assert 1e8 < found.flops < 1e15
    assert 1e8 < found.bandwidth < 1e13


@pytest.mark.parametrize(
    ("alone", "each", "rows"),
    [
        (0.0, 0.0, 32),  # a step is all that costs
        (0.1, 1.0, 2),
        (0.0, 0.05, 16),
        (2.0, 0.0, 1),
    ],
)
def test_rows_fit_several_times_into_the_time(
    alone: float, each: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def work(count: int) -> None:
        now[0] += alone + (count - 1) * each

    assert fitting_rows(work, 32, seconds=3.6) == rows


def test_what_is_usual_is_named_for_known_chips_alone() -> None:
    assert usual("Apple M5 Pro, MLX 0.32.4") == "Usual for an M5 Pro: 307 GB/s and 28 to 33 TFLOP/s."
    assert usual("Apple M5, MLX 0.32.4") == "Usual for an M5: 153 GB/s."
    assert usual("AMD EPYC, MLX 0.32.4") == usual("Apple M9 Max, MLX 1.0") == ""
    assert {name.split()[0] for name in CHIPS} == {"M1", "M2", "M3", "M4", "M5"}


@pytest.mark.parametrize("name", ["of_mlx", "of_torch", "of_numpy"])
def test_the_product_that_is_measured_is_of_random_numbers(name: str) -> None:
    """It was of ones, which take less power, so that a GPU may run faster."""
    module = pytest.importorskip(f"rir_mlx.backends.limits.{name}", exc_type=ImportError)
    found = np.asarray(module.product(64, "float32")())
    assert len(np.unique(found)) > 4000
    assert 7 < found.std() < 9  # the root of 64


@pytest.mark.parametrize(("gigabytes", "copied"), [(8, 2**29), (16, 2**30), (141, 2**31)])
def test_a_copy_leaves_a_small_machine_its_memory(gigabytes: int, copied: int) -> None:
    assert largest_copy(gigabytes * 2**30) == copied


def test_no_size_is_held_beside_the_one_before() -> None:
    """MLX kept the buffers of all smaller copies: 8 GB in all."""
    alive: list[int] = []
    cleared: list[list[int]] = []

    class Held:
        def __init__(self, size: int) -> None:
            self.size = size
            alive.append(size)

        def __call__(self) -> None:
            assert alive == [self.size]

        def __del__(self) -> None:
            alive.remove(self.size)

    limits._best(Held, lambda: cleared.append(alive.copy()), (1, 8), 1e-3)
    assert cleared == [[], [], []]


def test_what_so_many_rows_compile_is_not_what_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Metal the first step of four rows compiles, and was taken for the cost of a row: fewer rows were measured."""
    now, seen = [0.0], set()
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def work(count: int) -> None:
        now[0] += 0.01 if count in seen else 3.0
        seen.add(count)

    assert fitting_rows(work, 32, seconds=3.6) == 32


def test_the_tests_say_how_mlx_multiplies_float32() -> None:
    """On some GPUs it takes 10 bits by itself, and claims about float32 fail."""
    assert os.environ["MLX_ENABLE_TF32"] == "0"
