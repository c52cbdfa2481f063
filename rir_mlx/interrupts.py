"""Ctrl-C and the request to end, held back until the work in hand can be kept."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self


class Interrupts:
    """While it is open, the first SIGINT or SIGTERM sets `asked` and says what is finished first. The second raises
    KeyboardInterrupt at once."""

    def __init__(self, *, loud: bool, first: str = "Stopping after this step") -> None:
        self.loud, self.first = loud, first
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.asked and kind is None:  # nothing has acted on it yet
            raise KeyboardInterrupt

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if self.loud:
            _write_unbuffered(f"\n{self.first}; press Ctrl-C again to stop at once.\n")


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Within it SIGTERM raises KeyboardInterrupt, as Ctrl-C does: what is temporary is then deleted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write_unbuffered(text: str) -> None:
    """Write past Python's buffers: the signal may have interrupted a write to them, and buffers cannot be re-entered.

    Says nothing where stderr is no open file: a notebook, a windowed program, a closed pipe. A signal handler that
    raised would end the work that it is to protect."""
    try:
        os.write(sys.stderr.fileno(), text.encode())
    except (AttributeError, OSError, ValueError):  # None or no fileno; io.UnsupportedOperation is both others
        return
