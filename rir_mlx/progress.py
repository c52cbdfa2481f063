"""How stages tell what they are doing. The command line shows it; a library user may ignore it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Task(Protocol):
    """A piece of work with a known length."""

    def advance(self, amount: float = 1, **fields: float) -> None:
        """`amount` more is done. Fields are shown by name: `loss`, `tokens_per_second`, …"""
        ...


class Progress(Protocol):
    def say(self, text: str) -> None:
        """One line about what is going on."""
        ...

    def warn(self, text: str) -> None: ...

    @contextmanager
    def task(self, what: str, total: float, done: float = 0) -> Iterator[Task]:
        """A piece of work of which `done` was done before."""
        ...


@contextmanager
def counting_bytes(progress: Progress, what: str, total: float) -> Iterator[Callable[[int], None]]:
    """A task of so many bytes, shown in MB (10⁶), and what is to be told how many more are done."""
    with progress.task(f"{what} (MB)", total / 1e6) as task:
        yield lambda count: task.advance(count / 1e6)


class Silent:
    """Progress that nobody watches."""

    def say(self, text: str) -> None:
        return

    def warn(self, text: str) -> None:
        return

    @contextmanager
    def task(self, what: str, total: float, done: float = 0) -> Iterator[Task]:
        yield self

    def advance(self, amount: float = 1, **fields: float) -> None:
        return
