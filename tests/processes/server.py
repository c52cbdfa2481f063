"""Has imported the frameworks, and forks itself for each program that a test asks for. All workers of a test run share
it; it ends with the run.

    python -m processes.server FOLDER OWNER

listens on the socket FOLDER/socket until the folder or the process OWNER is gone."""

from __future__ import annotations

import atexit
import gc
import json
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_IMPORTED = [
    *("rir_cli.app", "rir_mlx.stages", "datasets", "sklearn.linear_model", "scipy.stats", "huggingface_hub"),
    *("torch", "peft", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama"),
    *("rir_mlx.backends.torch", "rir_mlx.backends.mlx"),
]
_NEEDED = {"rir_mlx.backends.torch": ("torch", "peft"), "rir_mlx.backends.mlx": ("mlx_lm",)}


class Server:
    """The processes that run, by the connection on which their exit code is awaited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._ended, self._wake = socket.socketpair()
        for end in (self._ended, self._wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno())
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "starting"))
        self._listener.listen(100)
        for connection in (self._listener, self._ended):
            self._selector.register(connection, selectors.EVENT_READ)

    def serve(self, owner: int) -> None:
        (self.folder / "starting").rename(self.folder / "socket")
        while self.folder.is_dir() and _is_alive(owner):
            for key, _ in self._selector.select(timeout=1):
                if key.fileobj is self._listener:
                    self._start(self._listener.accept()[0])
                elif key.fileobj is self._ended:
                    self._ended.recv(4096)
                    self._report()
                else:
                    self._forget(key.fileobj)

    def _start(self, connection: socket.socket) -> None:
        files, line = list[int](), b""
        with suppress(OSError), connection.makefile("rb") as lines:
            files = socket.recv_fds(connection, 1, 3)[1]
            line = lines.readline()
        if not line:  # the client was killed before it could ask
            for descriptor in files:
                os.close(descriptor)
            connection.close()
            return
        wanted = json.loads(line)
        pid = os.fork()
        if pid == 0:
            self._selector.close()
            for other in (self._listener, self._ended, connection, *self.running.values()):
                other.close()
            _become(wanted, files)
        for descriptor in files:
            os.close(descriptor)
        with suppress(OSError):
            connection.sendall(f"{pid}\n".encode())
        self.running[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ)

    def _report(self) -> None:
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                connection = self.running.pop(found[0])
                self._selector.unregister(connection)
                with suppress(OSError), connection:
                    connection.sendall(f"{os.waitstatus_to_exitcode(found[1])}\n".encode())

    def _forget(self, connection: Any) -> None:
        """Nobody waits for this process any more."""
        if (pid := next((pid for pid, held in self.running.items() if held is connection), None)) is not None:
            os.kill(pid, signal.SIGKILL)


def _become(wanted: dict[str, Any], files: list[int]) -> None:
    """In the forked process: take the place of a program that was started in that folder."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background job
    for descriptor, number in zip(files, (0, 1, 2), strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    os.environ.update(wanted["environment"])
    code = 1
    try:
        os.chdir(wanted["folder"])
        _PROGRAMS[wanted["kind"]](*wanted["arguments"])
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
        with suppress(BaseException):
            atexit._run_exitfuncs()
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _command(*arguments: str) -> None:
    from rir_cli.app import main

    sys.argv = ["rir-mlx", *arguments]
    main()


def _code(code: str, *arguments: str) -> None:
    sys.argv = ["-c", *arguments]
    exec(compile(code, "-c", "exec"), {"__name__": "__main__"})


_PROGRAMS: dict[str, Callable[..., None]] = {"command": _command, "code": _code}


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _warm_up() -> None:
    for name in _IMPORTED:
        if all(find_spec(needed) for needed in _NEEDED.get(name, (name.partition(".")[0],))):
            import_module(name)
    with suppress(ImportError):
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("llama")  # compiles a thousand patterns, once
    # The imported modules are a million objects. Forked processes share them, as long as no collection goes through
    # them.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _warm_up()
    Server(Path(sys.argv[1])).serve(int(sys.argv[2]))
