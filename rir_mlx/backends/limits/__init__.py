"""The limits of a device, measured: what its arithmetic and its memory give at most, and what a work takes of memory.

One large product shows the arithmetic, one large copy the bandwidth. No stage can be faster than both allow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rir_mlx.backends.base import Backend

_LONG = 0.2
"""A product or copy that takes this many seconds is large enough."""


@dataclass(frozen=True)
class Limits:
    """`flops` a second of one product of matrices in `dtype`, `width` wide and high, and `bandwidth` in bytes a second,
    read and written, of one copy of `copied` bytes."""

    flops: float
    bandwidth: float
    dtype: str
    width: int
    copied: int


Timed = Callable[[int], Callable[[], object]]
"""Prepares work of a size; calling the result does it, and returns when it is done."""


def measured_limits(backend: Backend, dtype: str, seconds: float = 2.0) -> Limits:
    """What the backend's device does in `dtype` (a name as in `types.Dtype`, but not `auto`). Takes a few times
    `seconds`."""
    match backend.name:
        case "mlx":
            from rir_mlx.backends.limits.of_mlx import clear, copy, product
        case "torch":
            from rir_mlx.backends.limits.of_torch import clear, copy, product
        case _:
            from rir_mlx.backends.limits.of_numpy import clear, copy, product
    largest = largest_copy(backend.device().memory)
    width, multiplied = _best(lambda size: product(size, dtype), clear, (512, 16_384), seconds)
    clear()
    copied, moved = _best(copy, clear, (2**26, largest), seconds)
    return Limits(2 * width**3 / multiplied, 2 * copied / moved, dtype, width, copied)


def largest_copy(memory: int) -> int:
    """Bytes that are copied at most on a device with that much memory, which it may share with all other programs:
    source and target together take an eighth of it."""
    return min(2**31, memory // 16)


def _best(prepare: Timed, clear: Callable[[], None], sizes: tuple[int, int], seconds: float) -> tuple[int, float]:
    """The first size, doubled from the smallest, that takes long enough; and the least time that it takes. No size is
    held beside the one before."""
    size, largest = sizes
    while True:
        work = prepare(size)
        work()  # the first call allocates and compiles
        taken = _timed(work)
        if taken >= _LONG or 2 * size > largest or 8 * taken > seconds:
            break
        del work
        clear()
        size *= 2
    end, least = time.perf_counter() + seconds, taken
    while time.perf_counter() < end:
        least = min(least, _timed(work))
    return size, least


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
