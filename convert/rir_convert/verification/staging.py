"""Folders that take their place only once they are verified."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rir_convert.weights.disk import check_writable
from rir_mlx.errors import Failure, UserError
from rir_mlx.storage.atomic import is_about, not_written, replace_folder


@contextmanager
def verified_folder(folder: Path) -> Iterator[Path]:
    """A path to write a folder to. It replaces `folder` when the block ends well; if verification failed, it is kept as
    `.rejected`; after any other error nothing of it is left.

    Raises UserError if another process writes the same folder, or nothing can be written there."""
    check_writable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    written = folder.with_name(folder.name + ".unverified")
    with _locked(folder):
        shutil.rmtree(written, ignore_errors=True)  # left by a process that was killed
        try:
            try:
                yield written
            except Failure:
                if (written / "verification.json").is_file():
                    replace_folder(written, folder.with_name(folder.name + ".rejected"))
                raise
            except OSError as error:
                if is_about(error, written):
                    raise not_written(folder, error) from error
                raise
            replace_folder(written, folder)
        finally:
            shutil.rmtree(written, ignore_errors=True)


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A path beside another one, for a folder that is deleted when the block ends."""
    folder = beside.with_name(beside.name + ".full")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock file beside `folder`, which is deleted in the end. The system releases the lock when its process
    ends, however it ends. A file system without locks is used without one."""
    path = folder.with_name(f".{folder.name}.lock")
    try:
        descriptor = _lock(path)
    except BlockingIOError as error:
        raise UserError(f"Another process is writing {folder}.", hint="Wait for it, or name another folder.") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}.", hint="Name a folder elsewhere.") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still held: see `_lock`
        os.close(descriptor)


def _lock(path: Path) -> int:
    """A descriptor that holds the lock until it is closed. Raises BlockingIOError if another process holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:
            return descriptor  # there are no locks
        # Its holder may have deleted the file after it was opened here: then this lock keeps nobody out.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)
