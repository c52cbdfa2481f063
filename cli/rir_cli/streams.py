"""The program's own output on a full disk: messages get lost and stop no work; data that cannot be printed is an
error."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeGuard


class _Messages:
    """A stream that loses what cannot be written: a log on a full disk, or a pipe that nobody reads any more."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def without_stdout_print_nowhere() -> None:
    """Give the program an stdout where it was started with a closed one (`>&-`)."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (it lives as long as the program)


@contextmanager
def messages_stop_no_work() -> Iterator[None]:
    """Inside the block, what is written to stderr never raises OSError."""
    stream = sys.stderr
    if stream is not None:  # None: closed before the program began
        sys.stderr = _Messages(stream)
    try:
        yield
    finally:
        sys.stderr = stream


def is_about_output(error: Exception) -> TypeGuard[OSError]:
    """Whether an error says that what was printed found no room. Errors about files name the file."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    return isinstance(error, OSError) and error.filename is None and error.errno in full


def impossible_place(error: Exception) -> str:
    """What is wrong with a path that no file can have, such as a name that is too long; nothing for other errors."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENAMETOOLONG, errno.ELOOP) or not error.filename:
        return ""
    name = str(error.filename)
    return f"{name if len(name) < 100 else name[:99] + '…'}: {error.strerror}."
