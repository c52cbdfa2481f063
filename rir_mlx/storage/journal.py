"""The journal: an append-only file of results, one JSON line each. A result that is in it is never computed again.

Memory holds only the position of each result, some 20 bytes a result, so that millions fit.
"""

from __future__ import annotations

import json
import os
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from rir_mlx.errors import Failure
from rir_mlx.json_text import parse_json
from rir_mlx.storage.atomic import failure_to_write, make_folder, not_written, unwritable
from rir_mlx.storage.locks import Held, Lock, being_written

_LINES = 64
_SECONDS = 1.0
"""Lines are buffered up to this many, and no longer than this, before they are handed to the system."""
_FLAG_BITS = 2
_OF_BEFORE = 1
"""The lowest bit of a place: whether it is in the file that was written before."""
_RECENT, _SORTED_AFTER = 50_000, 16
"""Results since the last sort: so many, or a sixteenth of all. A dictionary takes ten times as much memory."""


class _Index:
    """Numbers by 64-bit keys: sorted arrays, and a dictionary of what was added since they were sorted."""

    def __init__(self) -> None:
        self.keys, self.values = array("Q"), array("Q")
        self.recent: dict[int, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, key: int) -> int | None:
        if (found := self.recent.get(key)) is not None:
            return found
        place = bisect_left(self.keys, key)
        return self.values[place] if place < len(self.keys) and self.keys[place] == key else None

    def put(self, key: int, value: int) -> None:
        self._count += self.get(key) is None
        self.recent[key] = value
        if len(self.recent) > max(_RECENT, len(self.keys) // _SORTED_AFTER):
            self.sort()

    def sort(self) -> None:
        """Put what was added since the last time into the arrays."""
        count = len(self.recent)
        keys = np.concatenate([np.fromiter(self.recent, np.uint64, count), np.frombuffer(self.keys, np.uint64)])
        values = np.concatenate(
            [np.fromiter(self.recent.values(), np.uint64, count), np.frombuffer(self.values, np.uint64)]
        )
        self.recent = {}
        keys, first = np.unique(keys, return_index=True)  # keeps the first of equal keys, which is the newest
        self.keys = array("Q", keys.tobytes())
        del keys
        self.values = array("Q", values[first].tobytes())


class Journal:
    """Results by their `key` of 16 hexadecimal digits, the first item of a line. `flag` maps a result to a number from
    0 to 3, which `flag_of` gives without reading the file.

    Opening it cuts off a last line that a kill tore, and skips lines that cannot be read; their results are computed
    again. The results of `before`, another process's journal, count as well, as far as they are written by now. Raises
    UserError if it cannot be written, or another process has it open.
    """

    def __init__(
        self, path: Path, flag: Callable[[dict[str, Any]], int] = lambda _: 0, *, before: Path | None = None
    ) -> None:
        self.path, self._flag = path, flag
        self._index = _Index()
        self._before: BinaryIO | None = None
        self._waiting: list[bytes] = []
        self._unreadable = 0
        make_folder(path.parent)
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise unwritable(path, error, "Make it writable.") from error
        self._lock = Lock(path)
        try:
            self._lock.acquire()
            if before is not None and before.is_file():
                self._before = before.open("rb")
                self._read_all(self._before, _OF_BEFORE)
            self._reader = path.open("rb")
            self._end = self._read_all(self._reader)
            os.truncate(path, self._end)
            self._index.sort()
        except BaseException as error:
            self._file.close()
            self._lock.release()
            if isinstance(error, Held):
                raise being_written(path, error, "Wait for it, or stop it with Ctrl-C.") from error
            if isinstance(error, OSError):
                raise unwritable(path, error, "Make it writable.") from error
            raise
        self._writing = threading.Lock()
        self._failed: Failure | None = None
        self._closed = threading.Event()
        self._timer = threading.Thread(target=self._flush_regularly, name="rir-mlx-journal", daemon=True)
        self._timer.start()

    def _read_all(self, file: BinaryIO, source: int = 0) -> int:
        """Index a file's results. Returns where its last whole line ends."""
        place = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                result = parse_json(line)
                self._put(result, place << 1 | source)
            except (ValueError, KeyError, TypeError):
                self._unreadable += 1
            place += len(line)
        return place

    def _put(self, result: dict[str, Any], place: int) -> None:
        self._index.put(int(result["key"], 16), place << _FLAG_BITS | self._flag(result))

    @property
    def unreadable(self) -> int:
        """Lines that were skipped when it was opened."""
        return self._unreadable

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: str) -> bool:
        return self._index.get(int(key, 16)) is not None

    def flag_of(self, key: str) -> int | None:
        """The result's flag, or None if there is no result."""
        entry = self._index.get(int(key, 16))
        return None if entry is None else entry & (1 << _FLAG_BITS) - 1

    def get(self, key: str) -> dict[str, Any] | None:
        entry = self._index.get(int(key, 16))
        if entry is None:
            return None
        self.flush()  # the result may still be buffered
        place = entry >> _FLAG_BITS
        reader = self._before if place & _OF_BEFORE and self._before else self._reader
        reader.seek(place >> 1)
        result: dict[str, Any] = parse_json(reader.readline())
        return result

    def results(self) -> Iterator[dict[str, Any]]:
        """Every result of its own file, in the order of the lines; one that was replaced as well. Lines that cannot be
        read are skipped."""
        self.flush()
        with self.path.open("rb") as file:
            for line in file:
                with suppress(ValueError):
                    result = parse_json(line)
                    if isinstance(result, dict):
                        yield result

    def append(self, result: dict[str, Any]) -> None:
        """Add a result, whose first item is its key. Raises Failure if the disk is full; earlier results are kept."""
        line = json.dumps(result, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self._writing:
            self._put(result, self._end << 1)
            self._end += len(line)
            self._waiting.append(line)
        if len(self._waiting) >= _LINES or self._failed:
            self.flush()

    def flush(self) -> None:
        with self._writing:
            if self._failed:
                raise self._failed
            waiting, self._waiting = b"".join(self._waiting), []
            try:
                while waiting:
                    waiting = waiting[self._file.write(waiting) :]
            except OSError as error:
                self._failed = not_written(self.path, error, "What was written before is kept.")
                raise self._failed from error

    def sync(self) -> None:
        """Have all results on the disk."""
        self.flush()
        with failure_to_write(self.path):
            os.fsync(self._file.fileno())

    def _flush_regularly(self) -> None:
        """Flush even if no result comes for long: the process may be killed while it waits for one."""
        while not self._closed.wait(_SECONDS):
            try:
                self.flush()
            except Failure:
                return  # raised again by the next append

    def close(self) -> None:
        self._closed.set()
        self._timer.join()
        try:
            self.sync()
        finally:
            self._reader.close()
            if self._before is not None:
                self._before.close()
            self._file.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except (Failure, OSError):
            if kind is None:  # otherwise the error that ended the block says more
                raise


def open_share(path: Path, rank: int, flag: Callable[[dict[str, Any]], int] = lambda _: 0) -> Journal:
    """The journal that a process of several writes: the main one the journal itself, every other one a file beside it,
    until `add_ranks_results`. What was in the journal before counts for all."""
    return Journal(path, flag) if rank == 0 else Journal(_of_rank(path, rank), flag, before=path)


def shares_elsewhere(path: Path, ranks: int) -> str:
    """A warning if some of so many ranks have written their shares where this process does not see them; else empty."""
    missing = [str(rank) for rank in range(1, ranks) if not _of_rank(path, rank).is_file()]
    if not missing:
        return ""
    return (
        f"What the ranks {', '.join(missing)} wrote is not in {path.parent}, and is computed again: all machines must "
        "see the same runs folder."
    )


def add_ranks_results(journal: Journal) -> None:
    """Add what other ranks wrote, also before a kill, and remove their journals. A kill or a power cut in the middle
    loses nothing."""
    for path in _of_ranks(journal.path):
        with path.open("rb") as file:
            for line in file:
                with suppress(ValueError, KeyError, TypeError):  # torn, or unreadable: it is computed again
                    journal.append(parse_json(line))
        journal.sync()
        path.unlink()


def remove_ranks_results(path: Path) -> None:
    """Remove what other ranks wrote beside a journal that is begun anew."""
    for share in _of_ranks(path):
        share.unlink()


def _of_rank(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.stem}.rank-{rank}{path.suffix}")


def _of_ranks(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.rank-*{path.suffix}"))
