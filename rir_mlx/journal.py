"""An append-only file of results, one JSON line each: what is in it is never made again.

In memory there is only where each result stands, some 100 bytes a result, so that millions are no burden.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from rir_mlx.errors import Failure, UserError

_LINES = 64
_SECONDS = 1.0
"""A line waits in memory for so many others, and no longer than this, before it is handed to the system."""
_FLAG_BITS = 2


class Journal:
    """Results by their `key` of 16 hexadecimal digits, the first in a line. `flag` sums a result up in a number below
    4, which `flag_of` gives without reading the file.

    Opening it cuts off a last line that a kill tore, and passes over lines that cannot be read: what they held is made
    again. One process at a time may hold it: raises UserError where another does.
    """

    def __init__(self, path: Path, flag: Callable[[dict[str, Any]], int] = lambda _: 0) -> None:
        self.path, self._flag = path, flag
        self._index: dict[int, int] = {}
        self._waiting: list[bytes] = []
        self._unreadable = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by `close`)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UserError(
                f"Another process is writing {path}.", mend="Wait for it, or stop it with Ctrl-C."
            ) from error
        self._end = self._read_all()
        self._reader = path.open("rb")
        self._flushed = time.monotonic()

    def _read_all(self) -> int:
        place = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    os.truncate(self.path, place)
                    break
                try:
                    result = json.loads(line)
                    self._index[int(result["key"], 16)] = place << _FLAG_BITS | self._flag(result)
                except (ValueError, KeyError, TypeError):
                    self._unreadable += 1
                place += len(line)
        return place

    @property
    def unreadable(self) -> int:
        """Lines that were passed over when it was opened."""
        return self._unreadable

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: str) -> bool:
        return int(key, 16) in self._index

    def flag_of(self, key: str) -> int | None:
        """The result's flag; None where there is no result."""
        entry = self._index.get(int(key, 16))
        return None if entry is None else entry & (1 << _FLAG_BITS) - 1

    def get(self, key: str) -> dict[str, Any] | None:
        entry = self._index.get(int(key, 16))
        if entry is None:
            return None
        if self._waiting:
            self.flush()
        self._reader.seek(entry >> _FLAG_BITS)
        result: dict[str, Any] = json.loads(self._reader.readline())
        return result

    def append(self, result: dict[str, Any]) -> None:
        """Add a result, whose first item is its key. Raises Failure where the disk is full; what was there is kept."""
        line = json.dumps(result, ensure_ascii=False).encode() + b"\n"
        self._index[int(result["key"], 16)] = self._end << _FLAG_BITS | self._flag(result)
        self._end += len(line)
        self._waiting.append(line)
        if len(self._waiting) >= _LINES or time.monotonic() - self._flushed > _SECONDS:
            self.flush()

    def flush(self) -> None:
        waiting, self._waiting = b"".join(self._waiting), []
        self._flushed = time.monotonic()
        try:
            while waiting:
                waiting = waiting[self._file.write(waiting) :]
        except OSError as error:
            raise Failure(
                f"{self.path} could not be written: {error.strerror}. What was written before is kept.",
                mend="Make room and run the same command again; it continues.",
            ) from error

    def close(self) -> None:
        try:
            self.flush()
            os.fsync(self._file.fileno())
        finally:
            self._reader.close()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except (Failure, OSError):
            if kind is None:  # else what ended the block says more
                raise


def read_results(path: Path) -> Iterator[dict[str, Any]]:
    """The results of a journal that nobody writes, in the order in which they were finished."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
