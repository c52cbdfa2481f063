"""A server of the OpenAI protocol that answers as a test says."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], Any]
"""Status, headers, and a payload: bytes as they are, an iterator of them one by one, everything else as JSON."""


class LoopbackServer(ThreadingHTTPServer):
    request_queue_size = 128  # a connection for which there is no room is tried again a second later


def chat(text: str | None, reason: str = "stop", tokens: int | None = 3) -> Reply:
    usage = {} if tokens is None else {"usage": {"completion_tokens": tokens}}
    return 200, {}, {"choices": [{"message": {"content": text}, "finish_reason": reason}], **usage}


def echo(body: dict[str, Any]) -> Reply:
    return chat(text_of(body))


def text_of(body: dict[str, Any]) -> str:
    message: str = body["messages"][0]["content"]
    return message.partition("Text: ")[2].partition("\nAnswer: ")[0]


class StandInServer:
    """A server that answers each request with what `reply` says; None drops the connection."""

    def __init__(self, reply: Callable[[dict[str, Any]], Reply | None]) -> None:
        self.reply = reply
        self.models: Reply = (200, {}, {"data": [{"id": "tiny"}]})
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.busy = self.most = 0
        self.lock = threading.Lock()
        self.over = threading.Event()

    def answer(self, body: dict[str, Any] | None, headers: dict[str, str]) -> Reply | None:
        with self.lock:
            self.headers.append(headers)
            if body is None:
                return self.models
            self.bodies.append(body)
            self.busy += 1
            self.most = max(self.most, self.busy)
        try:
            return self.reply(body)
        finally:
            with self.lock:
                self.busy -= 1

    @contextmanager
    def running(self, port: int = 0) -> Iterator[str]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send(None)

            def do_POST(self) -> None:
                self.send(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def send(self, body: dict[str, Any] | None) -> None:
                reply = fake.answer(body, {name.lower(): value for name, value in self.headers.items()})
                if reply is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, headers, payload = reply
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if not isinstance(payload, Iterator):
                    payload = iter([payload if isinstance(payload, bytes) else json.dumps(payload).encode()])
                for part in payload:
                    self.wfile.write(part)

            def log_message(self, format: str, *args: object) -> None:
                return

        server = LoopbackServer(("127.0.0.1", port), Handler)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that has left
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            self.over.set()
            server.shutdown()
            server.server_close()
