"""Whether an output can be written where it should be: asked before anything is computed. The caller's own words name
the option that chooses the place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rir_mlx.errors import UserError


def check_new(folder: Path) -> None:
    """Raises UserError if something is there already, an empty folder aside, or nothing can be written there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already, and is not empty.", hint="Name a new folder.")
    check_writable(folder)


def check_writable(folder: Path) -> None:
    """Raises UserError if a folder cannot be made there."""
    there = _nearest(folder.absolute().parent)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "Permission denied" if there.is_dir() else "Not a directory"
        raise UserError(f"{folder} cannot be written: {there}: {why}.", hint="Name a folder elsewhere.")


def check_space(folder: Path, needed: int) -> None:
    """Raises UserError if the disk has no room for that many bytes and a small reserve."""
    there = _nearest(folder.absolute())
    free = shutil.disk_usage(there).free
    if free < needed * 1.02 + 10**7:
        raise UserError(
            f"The disk of {there} has {free / 1e9:.2f} GB left; {needed / 1e9:.2f} GB are needed.",
            hint="Free some, or name a folder on another disk.",
        )


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())
