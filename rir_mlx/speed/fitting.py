"""Rows at a time, such that a work can be repeated within a given time."""

from __future__ import annotations

import time
from collections.abc import Callable

_FEW = 4
_ROUNDS = 3
"""Rounds that should fit."""


def fitting_rows(work: Callable[[int], object], most: int, seconds: float) -> int:
    """At most `most` rows, halved until the work is likely to fit into `seconds` several times. What a row adds is seen
    in one and in four of them: a step has its own cost, however few rows it has."""
    work(1)  # compiles, allocates
    alone = timed(lambda: work(1))
    if most == 1 or alone > seconds / _ROUNDS:
        return 1
    few = min(_FEW, most)
    work(few)  # so many rows may need kernels, or a compiled step, of their own
    each = max(0.0, (timed(lambda: work(few)) - alone) / (few - 1))
    rows = most
    while rows > 1 and alone + (rows - 1) * each > seconds / _ROUNDS:
        rows //= 2
    return rows


def timed(work: Callable[[], object]) -> float:
    """Seconds that a work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
