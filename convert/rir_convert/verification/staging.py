"""Folders that take their place only once they are verified."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rir_convert.weights.disk import check_writable
from rir_mlx.errors import Failure
from rir_mlx.interrupts import sigterm_as_ctrl_c
from rir_mlx.storage.atomic import is_about, not_written, replace_folder, unwritable
from rir_mlx.storage.locks import Held, being_written, lock_file


@contextmanager
def verified_folder(folder: Path) -> Iterator[Path]:
    """A path to write a folder to. It replaces `folder` when the block ends well; if verification failed, it is kept as
    `.rejected`; after any other error nothing of it is left.

    Raises UserError if another process writes the same folder, or nothing can be written there."""
    check_writable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    written = folder.with_name(folder.name + ".unverified")
    with _locked(folder), sigterm_as_ctrl_c():
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
    """Hold a lock file beside `folder`, which is deleted in the end."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_file(folder.with_name(f".{folder.name}.lock")))
        except Held as held:
            raise being_written(folder, held, "Wait for it, or name another folder.") from held
        except OSError as error:
            raise unwritable(folder, error, "Name a folder elsewhere.") from error
        yield
