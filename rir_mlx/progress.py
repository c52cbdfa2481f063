"""How stages report their progress. The command line shows it; users of the library may ignore it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol


class Task(Protocol):
    """A piece of work with a known length."""

    def advance(self, amount: float = 1, **fields: float) -> None:
        """Report that `amount` more is done. Fields are shown by name: `loss`, `tokens_per_second`, …"""
        ...


class Progress(Protocol):
    def say(self, text: str) -> None:
        """Show a line of information."""
        ...

    def warn(self, text: str) -> None:
        """Show a warning."""
        ...

    @contextmanager
    def task(self, what: str, total: float, done: float = 0) -> Iterator[Task]:
        """Begin a piece of work of size `total`, of which `done` is already done."""
        ...


@contextmanager
def counting_bytes(progress: Progress, what: str, total: float) -> Iterator[Callable[[int], None]]:
    """A task measured in bytes and shown in MB (10⁶). Call the result with the number of further bytes done."""
    with progress.task(f"{what} (MB)", total / 1e6) as task:
        yield lambda count: task.advance(count / 1e6)


class Pace:
    """What is left of work in parts whose seconds were estimated, corrected by what the finished parts took."""

    def __init__(self, expected: Mapping[str, float]) -> None:
        self._expected = expected
        self._estimated = self._measured = 0.0

    def took(self, part: str, seconds: float) -> None:
        """A part is finished. One without an estimate says nothing about the others."""
        if part in self._expected:
            self._estimated += self._expected[part]
            self._measured += seconds

    def left(self, parts: Iterable[str]) -> float | None:
        """Seconds of the parts that have an estimate; None before the first of those is finished."""
        if not self._estimated:
            return None
        return sum(self._expected.get(part, 0.0) for part in parts) * self._measured / self._estimated


class Silent:
    """Progress that is not shown."""

    def say(self, text: str) -> None:
        return

    def warn(self, text: str) -> None:
        return

    @contextmanager
    def task(self, what: str, total: float, done: float = 0) -> Iterator[Task]:
        yield self

    def advance(self, amount: float = 1, **fields: float) -> None:
        return


class Printed(Silent):
    """Messages and warnings on stderr, without bars: for notebooks."""

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        print(f"note: {text}", file=sys.stderr)


def shortened(text: str, most: int) -> str:
    """The text in at most so many characters; where it is cut, the last one is an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def counted(number: int, noun: str) -> str:
    """A number and what it counts: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def who_were(names: Sequence[str]) -> str:
    """The subject of a sentence about these: `qa was`, `qa, qra and qar were`."""
    *others, last = names
    return f"{', '.join(others)} and {last} were" if others else f"{last} was"


def process_rank() -> int:
    """The rank of this process among those that `torchrun` or `mlx.launch` started."""
    return int(os.environ.get("RANK") or os.environ.get("MLX_RANK") or 0)
