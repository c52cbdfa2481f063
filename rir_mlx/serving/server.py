"""The process that serves: its socket, its signals, and the order in which it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING

from rir_mlx.errors import UserError, install_extra
from rir_mlx.progress import Progress, Silent

if TYPE_CHECKING:
    from rir_mlx.serving.workbench.arms import ServedRun

KEY_VARIABLE = "RIR_MLX_API_KEY"
_KEY_LENGTH = 16
_GRACE = 30
_CONNECTIONS, _BACKLOG = 512, 128
_HEADER_BYTES = 16 * 1024
_HEAD_SECONDS = 30.0
"""Seconds that a request may take to arrive, without its body."""
_IDLE = 75
"""Seconds for which a connection is kept after an answer. Clients keep theirs for 30 and then open another."""


@dataclass(frozen=True)
class ServeOptions:
    """Where to serve, and to whom.

    host, port   the address; port 0 takes a free one
    key          what clients must send; needed where others than this machine can reach the address
    names        host names of this server beside addresses and `localhost`
    rows         texts of all requests together that may wait or be worked on
    seconds      how long a text may wait for its turn
    together     texts that go through the model at once
    log          whether each request gets a line, which holds nothing of its text
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = field(default=None, repr=False)
    names: frozenset[str] = frozenset()
    rows: int = 1024
    seconds: float = 30.0
    together: int = 32
    log: bool = False


def check_options(options: ServeOptions) -> None:
    """Raises UserError if the extra is not installed, others could use the server without a key, or no text would ever
    be answered."""
    if options.seconds <= 0:
        raise UserError("Every text waits a little, so none would be answered.", hint="--max-wait 30 is usual.")
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise UserError(
            f"Serving needs {' and '.join(missing)}, which this Python does not have.",
            hint=f"{install_extra('serve')} installs it.",
        )
    from rir_mlx.serving.guard import is_loopback

    if options.key is None and not is_loopback(options.host):
        raise UserError(
            f"Others could use a server at {options.host}, so it needs a key.",
            hint=f'export {KEY_VARIABLE}="$(openssl rand -hex 16)", and give the same key to the clients.',
        )
    if options.key is not None and (len(options.key) < _KEY_LENGTH or not options.key.isascii()):
        raise UserError(f"A key has {_KEY_LENGTH} ASCII characters or more.", hint="openssl rand -hex 16 makes one.")


def serve(
    source: ServedRun,
    options: ServeOptions,
    progress: Progress | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Load a run's classifier and serve it until SIGINT or SIGTERM, then answer what is in flight. `on_ready` gets the
    address once requests are answered.

    Raises UserError if the options cannot be used together, or the address cannot be used; and what loading raises."""
    check_options(options)
    progress = progress or Silent()
    from rir_mlx.serving.app import make_app
    from rir_mlx.serving.guard import Policy
    from rir_mlx.serving.workbench.arms import Loaded
    from rir_mlx.serving.workbench.routes import Workbench
    from rir_mlx.serving.worker import Limits, Worker

    with contextlib.closing(_listen(options)) as listening:
        limits = Limits(options.rows, options.seconds, min(options.together, options.rows))
        worker = Worker(lambda: source.load(source.arm), limits)
        served = source.describe(worker.start())
        workbench = Workbench(source, Loaded(worker, served), limits)
        policy = Policy(frozenset({options.host.lower(), *(name.lower() for name in options.names)}), options.key)
        app = make_app(worker, served, policy, _logging(progress) if options.log else None, workbench)
        address = _address(listening)

        def ready() -> None:
            progress.say(f"Serving {served.description} at {address}; its API is described at {address}/docs.")
            if on_ready is not None:
                on_ready(address)

        try:
            _run(app, listening, ready, progress)
        finally:
            worker.stop(_GRACE)
            workbench.arms.stop(_GRACE)


def _run(app: object, listening: socket.socket, ready: Callable[[], None], progress: Progress) -> None:
    """Serve until a signal. The first one lets the requests in flight be answered, a second one ends at once."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:  # uvicorn would raise the signal again at the end
            yield

    server = Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]
            loop="asyncio",
            http=prompt_connections(_HEAD_SECONDS),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # its messages show what a client sent
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_IDLE,
            timeout_graceful_shutdown=_GRACE,
            h11_max_incomplete_event_size=_HEADER_BYTES,
        )
    )

    def stop(_: int, __: FrameType | None) -> None:
        if server.should_exit:
            server.force_exit = True
            return
        server.should_exit = True
        progress.say("Stopping: what is in flight is answered first. Ctrl-C again stops at once.")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(server.serve(sockets=[listening]))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def prompt_connections(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's connections, closed where a request's head does not arrive within `seconds`: those that send nothing
    would take the places of others."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PromptConnection(H11Protocol):
        waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._forget()

        def _watch(self) -> None:
            """Start the clock where a head is awaited, and stop it with the head's last byte."""
            if self.conn.their_state is not h11.IDLE:
                self._forget()
            elif self.waiting is None:
                self.waiting = self.loop.call_later(seconds, self.transport.close)

        def _forget(self) -> None:
            if self.waiting is not None:
                self.waiting.cancel()
                self.waiting = None

    return PromptConnection


def _listen(options: ServeOptions) -> socket.socket:
    """A socket at the address. Raises UserError if it cannot be had."""
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{options.host}:{options.port} cannot be served at: {getattr(error, 'strerror', None) or error}.",
            hint="--port 0 takes a free port.",
        ) from error
    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _logging(progress: Progress) -> Callable[[str, str, int, float], None]:
    from rir_mlx.serving.guard import REPORT

    def log(method: str, path: str, status: int, seconds: float) -> None:
        known = path if len(path) < 80 and path.isprintable() else "…"
        if path.startswith(REPORT):  # what follows is as good as a key
            known = f"{REPORT}…"
        progress.say(f"{method} {known} {status} {seconds * 1000:.0f} ms")

    return log
