"""Ctrl-C and the request to end, held back until what is being done can be kept."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, Self


class Interrupts:
    """While it is open, the first SIGINT or SIGTERM sets `asked`, and says what is finished first; the second ends at
    once."""

    def __init__(self, *, loud: bool, first: str = "Stops after this step") -> None:
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
        if self.asked and kind is None:  # nobody has heard it
            raise KeyboardInterrupt

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if self.loud:  # written past Python's buffers, which this signal may have found in use
            os.write(sys.stderr.fileno(), f"\n{self.first}; once more stops at once.\n".encode())
