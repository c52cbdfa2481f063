"""A log that several processes add to: one JSON line a record, each on disk before the next; none is ever changed.

A journal belongs to one process for as long as that runs. This file is locked only while a record is added, so two
servers, or a server and a command, can use it at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rir_mlx.storage.atomic import make_folder, not_written, unwritable


class SharedLog:
    """The records of a file that may not exist yet. Reading needs no lock. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable = 0
        """Whole lines that are no JSON object."""
        self._read, self._file = 0, (0, 0)

    def new(self) -> tuple[list[dict[str, Any]], bool]:
        """The records that were added since the last call, by whomever; and whether the file is another one, so that
        what was read before no longer counts. A last line without its end is being written, or was torn by a kill, and
        is not read."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return [], self._begin_again((0, 0))
        with file:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino)
            other = (identity != self._file or status.st_size < self._read) and self._begin_again(identity)
            file.seek(self._read)
            return list(self._lines(file.read())), other

    def _begin_again(self, identity: tuple[int, int]) -> bool:
        before, self._file = self._read, identity
        self._read = self.unreadable = 0
        return before > 0

    def _lines(self, data: bytes) -> Iterator[dict[str, Any]]:
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            record = None
            with contextlib.suppress(ValueError):
                record = json.loads(line)
            if isinstance(record, dict):
                yield record
            else:
                self.unreadable += 1

    def append(self, record: Mapping[str, Any], check: Callable[[], None] = lambda: None) -> None:
        """Add a record; on return it is on disk. `check` is called when nobody else can add one, and may read what is
        new; what it raises is raised, and nothing is added. A last line that a kill tore is cut off first.

        Raises UserError if the file cannot be written, Failure if the disk is full; the file is then as before."""
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        make_folder(self.path.parent)
        try:
            file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise unwritable(self.path, error, "Make it writable.") from error
        with file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            check()
            end = _end_of_lines(file.fileno())
            try:
                os.ftruncate(file.fileno(), end)
                _write(file.fileno(), line)
                os.fsync(file.fileno())
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), end)
                raise not_written(self.path, error, "What was written before is kept.") from error


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _end_of_lines(descriptor: int, block: int = 1 << 16) -> int:
    """Where the last whole line ends."""
    place = os.fstat(descriptor).st_size
    while place > 0:
        start = max(0, place - block)
        found = os.pread(descriptor, place - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        place = start
    return 0
