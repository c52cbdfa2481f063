"""One process at a time writes a run. Reading one needs no lock: every artifact appears whole."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Self

from rir_mlx.json_text import parse_json
from rir_mlx.storage.atomic import delete_all_stale, make_folder, unwritable
from rir_mlx.storage.layout import OTHER_RUNS
from rir_mlx.storage.locks import Held, Lock, being_written


class RunLock:
    """The lock of a run's folder; may be entered again by the process that holds it.

    What a killed process leaves behind locks nobody out. A note beside it says who holds it, for the message alone."""

    def __init__(self, folder: Path, command: str = "") -> None:
        self.folder, self.command = folder, command
        self._note = folder / ".lock.json"
        self._lock = Lock(folder / ".lock")
        self._begun = 0

    def begin(self) -> None:
        """Claim the run for this process. A folder that does not exist yet is locked by `lock`, when it is made: work
        that fails before it writes anything leaves nothing behind.

        Raises UserError if another process holds the lock."""
        if self.folder.is_dir():
            self._acquire()
        self._begun += 1

    def lock(self) -> None:
        """Make the folder and hold its lock until the end of what was begun. Raises UserError as `begin` does, and if
        the folder cannot be written."""
        if self._begun:
            make_folder(self.folder, OTHER_RUNS)
            self._acquire()

    def end(self) -> None:
        """Release the lock, unless it was begun more than once."""
        self._begun -= 1
        if self._begun == 0 and self._lock.is_held:
            with contextlib.suppress(OSError):
                self._note.unlink()
            self._lock.release()

    def __enter__(self) -> Self:
        self.begin()
        try:
            self.lock()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _acquire(self) -> None:
        if self._lock.is_held:
            return
        try:
            self._lock.acquire(create=True)
        except Held as held:
            hint = "Wait for it, or stop it with Ctrl-C. `rir-mlx classify` can use the run meanwhile."
            raise being_written(self.folder, held, hint, self._holder()) from held
        except OSError as error:
            raise unwritable(self.folder, error) from error
        delete_all_stale(self.folder)
        self._write_note()

    def _write_note(self) -> None:
        note = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "command": self.command,
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        with contextlib.suppress(OSError):  # a full disk stops the work elsewhere, in its own words
            self._note.write_text(json.dumps(note) + "\n", encoding="utf-8")

    def _holder(self) -> str:
        """Who holds the lock, as far as its note says."""
        try:
            note = parse_json(self._note.read_text(encoding="utf-8"))
            command = f"`{note['command']}`, " if note["command"] else ""
            return f" ({command}process {note['process']} on {note['host']}, since {note['since']})"
        except (OSError, ValueError, KeyError, TypeError):  # not written yet, or just being written
            return ""
