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
            from rir_mlx.backends.limits.of_mlx import copy, product
        case "torch":
            from rir_mlx.backends.limits.of_torch import copy, product
        case _:
            from rir_mlx.backends.limits.of_numpy import copy, product
    width, multiplied = _best(lambda size: product(size, dtype), (512, 16_384), seconds)
    copied, moved = _best(copy, (2**26, 2**31), seconds)
    return Limits(2 * width**3 / multiplied, 2 * copied / moved, dtype, width, copied)


def _best(prepare: Timed, sizes: tuple[int, int], seconds: float) -> tuple[int, float]:
    """The first size, doubled from the smallest, that takes long enough; and the least time that it takes."""
    size, largest = sizes
    while True:
        work = prepare(size)
        work()  # the first call allocates and compiles
        taken = _timed(work)
        if taken >= _LONG or 2 * size > largest or 8 * taken > seconds:
            break
        size *= 2
    end, least = time.perf_counter() + seconds, taken
    while time.perf_counter() < end:
        least = min(least, _timed(work))
    return size, least


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
