"""How many threads a model computes in. Threads are PyTorch's own setting, and the whole process's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

_Item = TypeVar("_Item")
_ONE_THREAD = 20_000_000
"""Below so many weights one thread is as fast as several: theirs spin while they wait for each other, and beside any
other busy process they slow down a hundredfold (measured on two cores)."""


def threads_for(model: Any, device: torch.device) -> int | None:
    """How many threads to compute a model in, None for the process's own number."""
    small = device.type == "cpu" and sum(part.numel() for part in model.parameters()) < _ONE_THREAD
    return 1 if small else None


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute in so many threads, and put the process's own number back; None changes nothing."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_threads(count: int | None, source: Iterator[_Item]) -> Iterator[_Item]:
    """The items of a generator, each computed in so many threads."""
    while True:
        with threads(count):
            try:
                item = next(source)
            except StopIteration:
                return
        yield item
