"""Work that one process does while the others wait for it, or of which each does a share. Knows process groups, not
what they compute."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rir_mlx.backends.base import ProcessGroup
from rir_mlx.errors import RirError, UserError

T = TypeVar("T")


def is_main(processes: ProcessGroup) -> bool:
    """Whether this process writes: the only process, or the first of several ranks."""
    return processes.rank == 0


def run_on_main(processes: ProcessGroup, work: Callable[[], T]) -> T | None:
    """The result of `work` in the main process; None in the others, which wait for it and stop if it fails."""
    if not is_main(processes):
        if processes.all_sum([0.0])[0]:
            raise UserError("The main process stopped; its message says why.")
        return None
    try:
        result = work()
    except RirError:
        processes.all_sum([1.0])
        raise
    processes.all_sum([0.0])
    return result


def decide_on_main(processes: ProcessGroup, question: Callable[[], bool]) -> bool:
    """The main process's value, in all processes."""
    answer = bool(run_on_main(processes, question))
    return processes.all_sum([float(answer)])[0] > 0


def all_equal(processes: ProcessGroup, number: int) -> bool:
    """Whether every process has the same small number; all are told the same."""
    total, squares = processes.all_sum([float(number), float(number * number)])
    return processes.size * squares == total * total


def own_places(processes: ProcessGroup, names: Iterable[str]) -> Iterator[int]:
    """The places of this process's items among all, given their names. Every item belongs to one process, and items of
    the same name to the same one."""
    size, rank = processes.size, processes.rank
    for place, name in enumerate(names):
        if zlib.crc32(name.encode("utf-8", "replace")) % size == rank:
            yield place
