"""Folders that take their place only once they are verified."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rir_mlx.errors import Failure
from rir_mlx.storage.atomic import replace_folder


@contextmanager
def verified_folder(folder: Path) -> Iterator[Path]:
    """A path to write a folder to. It replaces `folder` when the block ends well; if verification failed, it is kept as
    `.rejected`."""
    written = folder.with_name(folder.name + ".unverified")
    shutil.rmtree(written, ignore_errors=True)  # left by a process that was stopped
    try:
        yield written
    except Failure:
        if (written / "verification.json").is_file():
            replace_folder(written, folder.with_name(folder.name + ".rejected"))
        raise
    finally:
        if written.exists() and not (written / "verification.json").is_file():
            shutil.rmtree(written, ignore_errors=True)
    replace_folder(written, folder)


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A path beside another one, for a folder that is deleted when the block ends."""
    folder = beside.with_name(beside.name + ".full")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
