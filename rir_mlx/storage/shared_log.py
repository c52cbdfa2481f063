"""A log that several processes add to: one JSON line a record, each on disk before the next; none is ever changed.

A journal belongs to one process for as long as that runs. This file is locked only while a record is added, so two
servers, or a server and a command, can use it at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rir_mlx.errors import UserError
from rir_mlx.json_text import parse_json
from rir_mlx.storage.atomic import FULL, make_folder, not_written, unwritable
from rir_mlx.storage.locks import Held, Lock, being_written

_PATIENCE, _PAUSE = 10.0, 0.005
"""Seconds to wait for others who add a record, and between two looks."""
_KEPT, _ROOM = "What was written before is kept.", "Make room and try again."


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
        is not read.

        Raises UserError if the file cannot be read."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return [], self._begin_again((0, 0))
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be read: {error.strerror}.", hint="Make it readable, or move it away."
            ) from error
        with file:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino)
            other = (identity != self._file or status.st_size < self._read) and self._begin_again(identity)
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        records = list(self._records(whole))
        self._read += len(whole)
        return records, other

    def _begin_again(self, identity: tuple[int, int]) -> bool:
        before, self._file = self._read, identity
        self._read = self.unreadable = 0
        return before > 0

    def _records(self, lines: bytes) -> Iterator[dict[str, Any]]:
        for line in lines.splitlines():
            record = None
            with contextlib.suppress(ValueError):
                record = parse_json(line)
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
            with _locked(self.path), self.path.open("r+b", buffering=0) as file:
                check()
                _add(file.fileno(), line, self.path)
        except OSError as error:
            if error.errno in FULL:
                raise not_written(self.path, error, _KEPT, _ROOM) from error
            raise unwritable(self.path, error, "Make it writable.") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock; waits while others add a record. Raises UserError if that takes too long."""
    lock, until = Lock(path), time.monotonic() + _PATIENCE
    while not lock.is_held:
        try:
            lock.acquire(create=True)
        except Held as held:
            if time.monotonic() > until:
                raise being_written(path, held, "Try again.") from held
            time.sleep(_PAUSE)
    try:
        yield
    finally:
        lock.release()


def _add(descriptor: int, line: bytes, path: Path) -> None:
    """Add a line behind the last whole one, on disk. Raises Failure, and leaves the lines as they were, if it cannot be
    written."""
    end = _end_of_lines(descriptor)
    try:
        os.ftruncate(descriptor, end)
        os.lseek(descriptor, end, os.SEEK_SET)
        _write(descriptor, line)
        os.fsync(descriptor)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, end)
        raise not_written(path, error, _KEPT, _ROOM) from error


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
