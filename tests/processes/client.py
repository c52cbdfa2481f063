"""Asks the server of warm processes for one, for what others start: `python client.py command WORDS` is
`rir-mlx WORDS`, and `python client.py code -c CODE` is `python -c CODE`.

Uses the standard library alone, so that it starts at once."""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from collections.abc import Mapping, Sequence

ADDRESS = "RIR_TEST_SERVER"
"""The environment variable that holds the folder of the server's socket."""


class WarmProcess:
    """A program that the server runs in a process forked from it, with these files as its input, output and errors. It
    is killed when this object, or the process that holds it, is gone.

    kind   `command` runs `rir-mlx` with the arguments, `code` runs `python -c` with them"""

    def __init__(
        self, kind: str, arguments: Sequence[str], environment: Mapping[str, str], files: tuple[int, int, int]
    ) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(os.path.join(os.environ[ADDRESS], "socket"))
        wanted = {"kind": kind, "arguments": arguments, "environment": dict(environment), "folder": os.getcwd()}
        socket.send_fds(self._connection, [b"."], files)
        self._connection.sendall(json.dumps(wanted).encode() + b"\n")
        self._lines = self._connection.makefile("rb", buffering=0)  # `select` sees what is left
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, as in `subprocess`: the negative number of a signal that ended it. None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code; None if it still runs after so many seconds."""
        return self._ended(timeout)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            self.returncode = int(self._lines.readline())
            self._lines.close()
            self._connection.close()
        return self.returncode


if __name__ == "__main__":
    kind, *words = sys.argv[1:]
    if kind == "code":
        words = words[words.index("-c") + 1 :]
    sys.exit(WarmProcess(kind, words, os.environ, (0, 1, 2)).wait())
