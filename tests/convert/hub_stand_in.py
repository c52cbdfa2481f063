"""A hub on this machine: as much of the Hugging Face hub's interface as an upload of a model needs, with its files in
memory. It speaks LFS, not Xet, so a client has to be told HF_HUB_DISABLE_XET=1.

Source of the interface: huggingface_hub's `hf_api.py`, `_commit_api.py` and `lfs.py`, and
https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from server_stand_in import LoopbackServer

_LARGE = (".safetensors", ".gguf", ".bin")


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[list[str]] = field(default_factory=list)
    """The names that each commit wrote; those that it took away begin with a minus."""

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


@dataclass
class Hub:
    """What the stand-in holds and was asked.

    deny       status to answer with, by a part of the path
    stall_at   from this PUT on (the first is 1), half of a body is read and no answer given
    """

    url: str = ""
    token: str = "hf_good"
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    puts: list[str] = field(default_factory=list)
    deny: dict[str, int] = field(default_factory=dict)
    stall_at: int | None = None
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that answers on loopback until the block ends."""
    state = Hub()

    class Bound(_Handler):
        hub = state

    server = LoopbackServer(("127.0.0.1", 0), Bound)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            self.hub.agents.add(self.headers.get("user-agent", ""))
        if self.command == "PUT":
            return self._put(path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        for part, status in self.hub.deny.items():
            if part in path:
                return self._answer(status, {"error": "no"})
        if path != "/api/validate-yaml" and self.headers.get("authorization") != f"Bearer {self.hub.token}":
            return self._answer(401, {"error": "Invalid username or password."})
        return self._route(path, body)

    def _route(self, path: str, body: bytes) -> None:
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if batch := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self._batch(batch[1], json.loads(body))
        found = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(\w+)/(\w+))?", path)
        if not found or found[1] not in self.hub.repositories:
            return self._answer(404, {"error": "Repository not found"}, code="RepoNotFound")
        name, repository = found[1], self.hub.repositories[found[1]]
        match found[2]:
            case None | "revision":
                siblings = [{"rfilename": file} for file in repository.files]
                about = {"id": name, "private": repository.private, "sha": repository.sha, "siblings": siblings}
                return self._answer(200, about)
            case "tree":
                files = repository.files.items()
                return self._answer(
                    200,
                    [
                        {"type": "file", "path": file, "size": len(data), "oid": _oid(file, data)}
                        for file, data in files
                    ],
                )
            case "preupload":
                return self._preupload(repository, json.loads(body))
            case "commit":
                return self._commit(name, repository, body)
        return self._answer(404, {"error": "what is that?"})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.hub.repositories.setdefault(name, Repository(private))
        self._answer(200, {"url": f"{self.hub.url}/{name}"})

    def _preupload(self, repository: Repository, wanted: dict[str, Any]) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                "shouldIgnore": False,
                "oid": _oid(file["path"], repository.files[file["path"]]) if file["path"] in repository.files else None,
            }
            for file in wanted["files"]
        ]
        self._answer(200, {"files": files})

    def _batch(self, name: str, wanted: dict[str, Any]) -> None:
        objects = []
        for large in wanted["objects"]:
            given = {"oid": large["oid"], "size": large["size"]}
            if large["oid"] not in self.hub.objects:
                given["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{large['oid']}"}}
            objects.append(given)
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _put(self, path: str) -> None:
        oid, size = path.rpartition("/")[2], int(self.headers["content-length"])
        with self.hub.lock:
            self.hub.puts.append(oid)
            stall = self.hub.stall_at is not None and len(self.hub.puts) >= self.hub.stall_at
        if stall:
            self.rfile.read(size // 2)
            self.hub.stalled.set()
            self.hub.released.wait(60)
            self.close_connection = True
            return None
        data = self.rfile.read(size)
        if len(data) == size and hashlib.sha256(data).hexdigest() == oid:
            with self.hub.lock:
                self.hub.objects[oid] = data
            return self._answer(200, {})
        return self._answer(400, {"error": "not those bytes"})

    def _commit(self, name: str, repository: Repository, body: bytes) -> None:
        changed = []
        for line in body.splitlines():
            operation = json.loads(line)
            kind, value = operation["key"], operation["value"]
            if kind == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                repository.files[value["path"]] = self.hub.objects[value["oid"]]
            elif kind == "deletedFile":
                del repository.files[value["path"]]
            if kind != "header":
                changed.append(("-" if kind == "deletedFile" else "") + value["path"])
        repository.commits.append(changed)
        url = f"{self.hub.url}/{name}/commit/{repository.sha}"
        self._answer(200, {"commitUrl": url, "commitOid": repository.sha, "success": True})

    def _answer(self, status: int, values: Any, code: str = "") -> None:
        data = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(data)


def _oid(name: str, data: bytes) -> str:
    """The hash that the hub names a file by: SHA-256 of a large one, git's of another."""
    if name.endswith(_LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
