"""The limits of a machine, measured, and rows that fit into a time."""

from __future__ import annotations

import time

import pytest

from rir_mlx.backends.fake import FakeBackend
from rir_mlx.backends.limits import measured_limits
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
