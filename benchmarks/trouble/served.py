"""A server on a disk that is full from its n-th change on, then has room: is a decision lost, does it go on?

The session of a reviewer: decisions, one taken back, a table with its labels, on a server whose log, temporary files
and run lie on that disk. Each request must be answered, or refused with one error that says why; what was refused is
asked again once there is room, and the decisions must then be those of an undisturbed session.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import httpx2
from processes import Running, start_code

_CODE = """
import os, sys, tempfile
tempfile.tempdir = None
os.dup2(os.open("served.log", os.O_WRONLY | os.O_APPEND), 2)
from rir_cli.app import main
sys.argv = ["rir-mlx", *sys.argv[1:]]
main()
"""
"""`rir-mlx` in a forked process: temporary files and messages go where the disk is full."""
_COMMAND = ["serve", "--port", "0", "--log"]
_TABLE = "text\ni was sad\ni feel happy today\n"
_PATIENCE = 120.0
_ROOM = "room"


class Session:
    """A server in a folder, and what a reviewer asks of it. `wrong` is what was answered in another way than well, or
    with one clear error."""

    def __init__(self, folder: Path, full_at: int, count: Path) -> None:
        self.folder, self.room = folder, count.with_name(f"{folder.name}.{_ROOM}")
        (folder / "tmp").mkdir()
        (folder / "served.log").touch()  # by the shell that starts a server
        disk = {"FULL_DISK_FOLDER": str(folder), "FULL_DISK_AT": str(full_at), "FULL_DISK_COUNT": str(count)}
        more = {"TMPDIR": str(folder / "tmp"), "FULL_DISK_ROOM": str(self.room)}
        self.process: Running = start_code(folder, _CODE, *_COMMAND, **disk, **more)
        self.wrong: list[str] = []
        self.refused = 0
        self.client = httpx2.Client(trust_env=False, timeout=_PATIENCE)

    def run(self) -> None:
        try:
            self.address = self._address()
            again = [request for request in self._requests() if not self._answered(request)]
            self.refused = len(again)
            self.room.touch()
            self.wrong += [
                f"{request[0]}: refused where there is room" for request in again if not self._answered(request)
            ]
            if self.client.get(f"{self.address}/health").status_code != 200:
                self.wrong.append("the server does not go on")
        finally:
            self.client.close()
            self.process.send_signal(15)
            code = self.process.wait(_PATIENCE)
        if code:
            self.wrong.append(f"the server ended with {code}: {self.process.err()}")

    def decisions(self) -> list[tuple[Any, ...]]:
        """The decisions on disk that count, whatever order they were asked in."""
        counts: dict[str, list[Any]] = {}
        for line in (self.folder / "runs/small/review.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            found = counts.setdefault(record["row"], [])
            found.pop() if record["action"] == "undo" else found.append((record["action"], record["label"]))
        return sorted((row, *found) for row, found in counts.items())

    def _address(self) -> str:
        """Where the server listens. Its message may have found no room, so the port is looked up."""
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            for port in _ports(self.process.pid):
                return f"http://127.0.0.1:{port}"
            time.sleep(0.05)
        raise RuntimeError(f"no server: {self.process.err()}")

    def _requests(self) -> list[tuple[str, dict[str, Any]]]:
        rows = [f"train:{number}" for number in (2, 3, 4)]
        decide = [("review/decide", {"row": row, "action": "edit", "label": "joy"}) for row in rows]
        return [*decide, ("tables", {}), ("review/undo", {"row": rows[0]}), ("tables", {})]

    def _answered(self, request: tuple[str, dict[str, Any]]) -> bool:
        """Whether a request is answered well. One that is not must say why in one error."""
        path, body = request
        if path == "tables":
            octets = {"Content-Type": "application/octet-stream"}
            sent = self.client.post(f"{self.address}/tables?name=a.csv", content=_TABLE, headers=octets)
            good, said = "event: done" in sent.text, sent.text
        else:
            row = self.client.get(f"{self.address}/review/row", params={"id": body["row"]}).json()
            if path == "review/undo" and row["decided"] is None:
                return False  # its decision was refused, and comes first
            seen = {"seen": row["version"], "digest": row["digest"]}
            sent = self.client.post(f"{self.address}/{path}", json=body | seen)
            good, said = sent.status_code == 200, sent.text
        if not good and said.count("No space left on device") != 1:
            self.wrong.append(f"{path}: {sent.status_code} {said[-300:]}")
        return good


def _ports(process: int) -> list[int]:
    """The ports at which a process listens."""
    try:
        sockets = {
            Path(f"/proc/{process}/fd/{file.name}").readlink().name for file in Path(f"/proc/{process}/fd").iterdir()
        }
    except OSError:
        return []
    inodes = {match[1] for name in sockets if (match := re.fullmatch(r"socket:\[(\d+)\]", name))}
    lines = [line.split() for line in Path(f"/proc/{process}/net/tcp").read_text(encoding="utf-8").splitlines()[1:]]
    return [int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A" and line[9] in inodes]
