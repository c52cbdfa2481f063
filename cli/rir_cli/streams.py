"""The program's own output on a full disk, or in a pipe that nobody reads any more: messages get lost and stop no work;
data that cannot be printed is an error, and data that nobody reads ends the program in silence."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeGuard

READER_LEFT = 141
"""The exit code where the reader of stdout has left, as in `rir-mlx runs | head -1`. It is what a shell reports of a
program that SIGPIPE ends, as it ends `cat`, so that scripts need to know one number. The signal itself stays ignored:
it would also end a training whose messages nobody reads, and a server whose client goes."""


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


class _Data:
    """A stream that ends the program with `READER_LEFT` once its reader has left, whatever library writes to it. Each
    of them would do something else."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: str | bytes) -> int:
        with self._read_by_somebody():
            self._stream.write(data)
        return len(data)

    def flush(self) -> None:
        with self._read_by_somebody():
            self._stream.flush()

    @property
    def buffer(self) -> _Data:
        """Its bytes, which click writes where the stream's encoding is ASCII."""
        return _Data(self._stream.buffer)

    @contextmanager
    def _read_by_somebody(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            with suppress(OSError):  # what is still buffered goes nowhere: Python would complain of it as it exits
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            raise SystemExit(READER_LEFT) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """Inside the block, and as the last of it is written, a reader of stdout that has left ends the program. What fails
    keeps its own exit code."""
    stream = sys.stdout
    ended: BaseException | None = None
    sys.stdout = data = _Data(stream)
    try:
        yield
    except BaseException as error:
        ended = error
        raise
    finally:
        sys.stdout = stream
        failed = ended is not None and getattr(ended, "code", ended) not in (None, 0)
        with suppress(OSError, *([SystemExit] if failed else [])):  # a full disk: Python says so as it exits
            data.flush()


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
