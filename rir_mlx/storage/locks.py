"""Locks of files and folders, for processes that would write the same. Knows paths, not what lies there."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLock, Timeout

from rir_mlx.errors import UserError

_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_TRIES = 1000
"""So often a file is made that others delete before it is locked."""


class Held(Exception):
    """Another process, or another lock of this one, holds the lock.

    marker   where the file system has no locks: the file that says so"""

    def __init__(self, marker: Path | None = None) -> None:
        super().__init__(marker)
        self.marker = marker


def being_written(path: Path, held: Held, hint: str, holder: str = "") -> UserError:
    """The error for something that another process is writing. `holder` says which, in brackets."""
    if held.marker is not None:
        hint += f" This file system has no locks: if no other machine is writing there, delete {held.marker}."
    return UserError(f"Another process is writing {path}{holder}.", hint=hint)


class Lock:
    """The lock of a file or folder, until `release`. The system releases it when its process ends, however that ends:
    what a killed process leaves behind locks nobody out.

    On a file system without locks, a marker beside the path says which process of which machine holds it. A marker is
    stale, and taken over, if its process has ended; of another machine's process nobody can tell."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._marker: SoftFileLock | None = None

    @property
    def is_held(self) -> bool:
        return self._descriptor is not None

    def acquire(self, *, create: bool = False) -> None:
        """Take the lock; `create` makes the file if there is none.

        Raises Held; FileNotFoundError if the path is gone, or became another file while it was being locked; OSError
        if it cannot be opened, or becomes another file again and again, as on a file system whose inodes change."""
        for tries in range(_TRIES, 0, -1):
            if self.is_held:
                return
            flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
            descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o666)
            try:
                self._hold(descriptor)
                # Its holder may have deleted or renamed it after it was opened here: this lock then keeps nobody out.
                if not os.path.samestat(os.fstat(descriptor), self.path.stat()):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
                self._descriptor = descriptor
            except FileNotFoundError:
                self._give_back(descriptor)
                if not create:
                    raise
                if tries == 1:
                    raise OSError(errno.ENOLCK, "it becomes another file again and again", str(self.path)) from None
            except BaseException:
                self._give_back(descriptor)
                raise

    def _hold(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise Held from error
            self._mark()

    def _mark(self) -> None:
        marker = SoftFileLock(self.path.with_name(f".{self.path.name}.held"), timeout=0, thread_local=False)
        for _ in range(2):  # the first time may only remove a stale marker
            with suppress(Timeout):
                marker.acquire()
                self._marker = marker
                return
        raise Held(Path(marker.lock_file))

    def release(self) -> None:
        if self._descriptor is not None:
            self._give_back(self._descriptor)
            self._descriptor = None

    def _give_back(self, descriptor: int) -> None:
        if self._marker is not None:
            self._marker.release()
            self._marker = None
        os.close(descriptor)


def try_to_lock(path: Path) -> Lock | None:
    """The lock of a file or folder; None if it is held or gone. Raises OSError as `Lock.acquire` does."""
    lock = Lock(path)
    try:
        lock.acquire()
    except (Held, FileNotFoundError):
        return None
    return lock


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold a lock file, which is deleted in the end. Raises Held, and OSError if it cannot be written."""
    lock = Lock(path)
    lock.acquire(create=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still held: see `acquire`
        lock.release()
