"""A file written in parts: after a kill, the next process resumes from the last complete part.

Parts go to `TARGET.partial`. Each is synced before `TARGET.partial.json` counts it; bytes that the record does not
count are cut off. At the end the file is renamed to its target. Knows bytes, not what they mean.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Self

from rir_mlx.errors import Failure, UserError
from rir_mlx.progress import Progress
from rir_mlx.storage.atomic import not_written, read_json, unwritable, write_json
from rir_mlx.storage.digests import changes
from rir_mlx.storage.locks import Held, Lock, being_written

_KEPT = "What was written before is kept."


class ResumableFile:
    """A target file made from `inputs`: everything that decides its bytes, as plain JSON.

    On entering, `state` is that of the last `append` with the same inputs, or empty. `finished` is true if the target
    is already complete and made from these inputs. Raises UserError if the target exists and was made otherwise
    (`force` replaces it), cannot be written, or is being written by another process.
    """

    def __init__(self, target: Path, inputs: Mapping[str, Any], *, force: bool, progress: Progress) -> None:
        self.target, self.inputs, self.force, self.progress = target, dict(inputs), force, progress
        self.partial = target.with_name(target.name + ".partial")
        self.record = target.with_name(target.name + ".partial.json")
        self.state: dict[str, Any] = {}
        self.bytes = 0
        self.finished = False
        self._replaces = force
        self._lock = Lock(self.partial)

    def __enter__(self) -> Self:
        if self.target.is_dir():
            raise UserError(f"{self.target} is a folder.", hint="Name a file to write.")
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
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self.finished:
            self._close()

    def _close(self) -> None:
        self._file.close()
        self._lock.release()

    def _finished_before(self) -> bool:
        """Whether a process was killed between renaming the file to the target and removing the record."""
        record = self._read_record()
        if self.force or not record.get("complete") or record["inputs"] != self.inputs or self.partial.exists():
            return False
        if not self.target.is_file() or self.target.stat().st_size != record["bytes"]:
            return False
        self.state = record["state"]
        return True

    def _open(self) -> FileIO:
        try:
            file = FileIO(os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        except OSError as error:
            raise unwritable(self.partial, error) from error
        try:
            self._lock.acquire()
            # Its holder may have renamed it by now: the open file would then be the finished target.
            if not os.path.samestat(os.fstat(file.fileno()), self.partial.stat()):
                raise FileNotFoundError
        except BaseException as error:
            file.close()
            self._lock.release()
            if isinstance(error, Held):
                raise being_written(self.partial, error, "Wait for it, or stop it with Ctrl-C.") from error
            if isinstance(error, FileNotFoundError):
                raise UserError(
                    f"Another process has just written {self.target}.",
                    hint="Check it before you run the command again.",
                ) from error
            if isinstance(error, OSError):
                raise unwritable(self.partial, error) from error
            raise
        return file

    def _begin(self) -> None:
        record = self._read_record()
        held = os.fstat(self._file.fileno()).st_size
        same = record.get("inputs") == self.inputs and record.get("bytes", 0) <= held
        resumes = bool(record) and same and not self.force
        if self.target.exists() and not self.force and not (resumes and record["replaces"]):
            if not held:
                self.partial.unlink()
            raise UserError(
                f"{self.target} already exists.",
                hint="Replace it with --force, or name another file with --output.",
            )
        if resumes:
            self.state, self.bytes, self._replaces = record["state"], record["bytes"], record["replaces"]
            os.ftruncate(self._file.fileno(), self.bytes)
            self._file.seek(self.bytes)
            return
        if record.get("state") and not record["complete"] and not self.force:
            changed = changes(record.get("inputs"), self.inputs)
            why = changed[0] if changed else "it is shorter than it was"
            self.progress.warn(f"Not resuming {self.partial}: {why}. Starting over.")
        self.record.unlink(missing_ok=True)  # first: a record must never count the bytes of another file
        os.ftruncate(self._file.fileno(), 0)
        self._count(complete=False)

    def append(self, data: bytes, state: Mapping[str, Any]) -> None:
        """Add a part. On return, the part and `state` are on disk.

        Raises Failure if the disk is full; earlier parts are kept."""
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise not_written(self.partial, error, _KEPT) from error
        self.bytes += len(data)
        self.state = dict(state)
        self._count(complete=False)

    def finish(self) -> None:
        """Rename the file to its target."""
        self._count(complete=True)
        try:
            os.replace(self.partial, self.target)
            descriptor = os.open(self.target.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # only then does the rename survive a power cut
            finally:
                os.close(descriptor)
        except OSError as error:
            raise not_written(self.target, error, _KEPT) from error
        self.record.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete what was written."""
        self.record.unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)

    def _count(self, *, complete: bool) -> None:
        values = {"inputs": self.inputs, "bytes": self.bytes, "state": self.state}
        try:
            write_json(self.record, values | {"complete": complete, "replaces": self._replaces})
        except Failure as failure:
            raise Failure(f"{failure.what} {_KEPT}", hint=failure.hint) from failure

    def _read_record(self) -> dict[str, Any]:
        try:
            record = read_json(self.record) if self.record.is_file() else {}
        except UserError:  # written atomically, so only another program can have damaged it
            return {}
        whole = isinstance(record, dict) and {"inputs", "bytes", "state", "replaces"} <= record.keys()
        return record if whole else {}
