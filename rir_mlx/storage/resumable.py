"""A file written in parts: what a killed process had put there stays, and the next one goes on after it.

Parts go to `TARGET.partial`, each on disk before `TARGET.partial.json` says that it counts; whatever lies beyond what
that record counts is cut off. The whole file takes its name at the end, in one step. Knows bytes, not what they mean.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Self

from rir_mlx.errors import Failure, UserError
from rir_mlx.progress import Progress
from rir_mlx.storage.atomic import read_json, write_json
from rir_mlx.storage.digests import changes
from rir_mlx.storage.journal import lock

_AGAIN = "Make room and run the same command again; it continues."


class Resumable:
    """A target file of `inputs`, everything that decides its bytes, which must be plain JSON.

    On entering, `state` holds what the last `append` of the same inputs gave, or nothing; `finished` says that the
    target stands already, whole and of these inputs. Raises UserError where the target is somebody else's (`force`
    replaces it), cannot be written, or is being written by another process.
    """

    def __init__(self, target: Path, inputs: Mapping[str, Any], *, force: bool, progress: Progress) -> None:
        self.target, self.inputs, self.force, self.progress = target, dict(inputs), force, progress
        self.partial = target.with_name(target.name + ".partial")
        self.record = target.with_name(target.name + ".partial.json")
        self.state: dict[str, Any] = {}
        self.bytes = 0
        self.finished = False
        self._replaces = force

    def __enter__(self) -> Self:
        if not self.target.parent.is_dir():
            raise UserError(
                f"{self.target} cannot be written: there is no folder {self.target.parent}.",
                hint=f"Make it: mkdir -p {self.target.parent}",
            )
        if self._finished_before():
            self.finished = True
            self.record.unlink(missing_ok=True)
            return self
        self._file = self._open()
        try:
            self._begin()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self.finished:
            self._file.close()

    def _finished_before(self) -> bool:
        """Whether a process was killed after the target had taken its name and before the record was removed."""
        record = self._read_record()
        if self.force or not record.get("complete") or record["inputs"] != self.inputs or self.partial.exists():
            return False
        self.state = record["state"]
        return self.target.is_file() and self.target.stat().st_size == record["bytes"]

    def _open(self) -> FileIO:
        try:
            file = FileIO(os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        except OSError as error:
            raise UserError(f"{self.partial} cannot be written: {error.strerror}.") from error
        lock(file, self.partial)
        # Whoever held it may have given it its name by now: what is open here would then be a finished file.
        if not self.partial.exists() or not os.path.samestat(os.fstat(file.fileno()), self.partial.stat()):
            file.close()
            raise UserError(f"Another process has just written {self.target}.", hint="Look at it first.")
        return file

    def _begin(self) -> None:
        record = self._read_record()
        held = os.fstat(self._file.fileno()).st_size
        same = record.get("inputs") == self.inputs and record.get("bytes", 0) <= held
        goes_on = bool(record) and same and not self.force
        if self.target.exists() and not self.force and not (goes_on and record["replaces"]):
            if not held:
                self.partial.unlink()
            raise UserError(
                f"{self.target} exists already.",
                hint="--force writes it anew; or name another file with --output.",
            )
        if goes_on:
            self.state, self.bytes, self._replaces = record["state"], record["bytes"], record["replaces"]
            os.ftruncate(self._file.fileno(), self.bytes)
            self._file.seek(self.bytes)
            return
        if record.get("state") and not self.force:
            changed = changes(record.get("inputs"), self.inputs)
            why = f"{changed[0]}" if changed else "it is shorter than it was"
            self.progress.warn(f"{self.partial} is not gone on with, because {why}: starts anew.")
        self.record.unlink(missing_ok=True)  # first: a record must never count bytes of another file
        os.ftruncate(self._file.fileno(), 0)
        self._count(complete=False)

    def append(self, data: bytes, state: Mapping[str, Any]) -> None:
        """Add a part; when it returns, the part is on disk and counts, with `state` beside it.

        Raises Failure where the disk is full; what was added before is kept."""
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._not_written(self.partial, error.strerror) from error
        self.bytes += len(data)
        self.state = dict(state)
        self._count(complete=False)

    def finish(self) -> None:
        """Give the file its name."""
        self._count(complete=True)
        try:
            os.replace(self.partial, self.target)
            descriptor = os.open(self.target.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # a rename outlives a power cut once its folder is on disk
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._not_written(self.target, error.strerror) from error
        self.record.unlink(missing_ok=True)

    def discard(self) -> None:
        """Take away what was written."""
        self.record.unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)

    def _count(self, *, complete: bool) -> None:
        values = {"inputs": self.inputs, "bytes": self.bytes, "state": self.state}
        try:
            write_json(self.record, values | {"complete": complete, "replaces": self._replaces})
        except Failure as failure:
            raise Failure(f"{failure.what} What was written before is kept.", hint=_AGAIN) from failure

    def _not_written(self, path: Path, why: str | None) -> Failure:
        return Failure(f"{path} could not be written: {why}. What was written before is kept.", hint=_AGAIN)

    def _read_record(self) -> dict[str, Any]:
        try:
            record = read_json(self.record) if self.record.is_file() else {}
        except UserError:  # written in one step, so only another program can have torn it
            return {}
        whole = isinstance(record, dict) and {"inputs", "bytes", "state", "replaces"} <= record.keys()
        return record if whole else {}
