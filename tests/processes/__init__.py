"""Processes that start warm: forked from one that has imported the frameworks already. Importing them takes several
seconds, and most of what a test asks of a process takes less than one.

What a test says about starting itself (what `--help` imports, what a launcher sets) needs `subprocess`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from processes.client import ADDRESS, WarmProcess

if TYPE_CHECKING:
    import pytest

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Read when a library is loaded. A process that has threads cannot be forked safely, and tiny models want none."""
_PATIENCE = 300
"""Seconds that the server may take to start on a busy machine."""


class Running:
    """As `subprocess.Popen`, as far as tests need it. What it prints goes into files."""

    def __init__(self, kind: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self._printed = tempfile.TemporaryDirectory()
        _open_server()
        out, err = (Path(self._printed.name) / name for name in ("out", "err"))
        with open(os.devnull, "rb") as nothing, out.open("ab") as to_out, err.open("ab") as to_err, chdir(folder):
            files = (nothing.fileno(), to_out.fileno(), to_err.fileno())
            self._process = WarmProcess(kind, arguments, environment, files)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout: float) -> int:
        code = self._process.wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout, self.out(), self.err())
        return code

    def communicate(self, timeout: float) -> tuple[str, str]:
        self.wait(timeout)
        return self.out(), self.err()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def out(self) -> str:
        """What it has printed to stdout so far."""
        return (Path(self._printed.name) / "out").read_text(encoding="utf-8")

    def err(self) -> str:
        return (Path(self._printed.name) / "err").read_text(encoding="utf-8")

    def wait_for(self, printed: str, timeout: float = 60) -> None:
        """Until it has printed this first to stdout."""
        deadline = time.monotonic() + timeout
        while not self.out().startswith(printed):
            assert self.poll() is None, self.err()
            assert time.monotonic() < deadline
            time.sleep(0.005)


def start_command(folder: Path, *arguments: str, **environment: str) -> Running:
    """`rir-mlx`, in that folder."""
    return Running("command", arguments, folder, environment)


def start_code(folder: Path, code: str, *arguments: str, **environment: str) -> Running:
    """`python -c CODE ARGUMENTS`, in that folder."""
    return Running("code", (code, *arguments), folder, environment)


def run(command: Sequence[str], *, cwd: Path, env: dict[str, str], timeout: float, **_: object) -> Any:
    """As `subprocess.run` with captured output, for `python … -c CODE`."""
    process = Running("code", command[command.index("-c") + 1 :], cwd, env)
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command, code, process.out(), process.err())


def warm_card_programs(patch: pytest.MonkeyPatch) -> None:
    """The program on a model's card runs in a process that has imported PyTorch and transformers already."""
    stand_in = SimpleNamespace(run=run, DEVNULL=None, TimeoutExpired=subprocess.TimeoutExpired)
    patch.setattr("rir_convert.cards.program.subprocess", stand_in)


def client() -> list[str]:
    """`python … ARGUMENTS` that is `rir-mlx ARGUMENTS`, started warm: for launchers and pipes."""
    return [*_client(), "command"]


def interpreter() -> list[str]:
    """`python … -c CODE` that is `python -c CODE`, started warm: for the workers of a test run."""
    return [*_client(), "code"]


def _client() -> list[str]:
    _open_server()
    return [sys.executable, str(Path(__file__).parent / "client.py")]


def prepare() -> None:
    """In the process that owns the test run: a place for the server that all of its workers share, and no more threads
    than workers. Libraries whose threads wait for each other in a loop take twice the time on a busy machine."""
    for name, value in _ONE_THREAD.items():
        os.environ.setdefault(name, value)
    os.environ[ADDRESS] = tempfile.mkdtemp(prefix="rir-", dir="/tmp")  # a socket's path has room for 100 characters
    os.environ[f"{ADDRESS}_OWNER"] = str(os.getpid())


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills in the first worker that asks for it. Other workers wait for it; nobody changes it."""
    place = Path(os.environ[ADDRESS])
    with FileLock(place / f"{name}.lock"):
        if not (place / f"{name}.made").exists():  # not renamed afterwards: a run holds its absolute path
            shutil.rmtree(place / name, ignore_errors=True)
            (place / name).mkdir()
            make(place / name)
            (place / f"{name}.made").touch()
    return place / name


def close_server() -> None:
    shutil.rmtree(os.environ[ADDRESS], ignore_errors=True)


def _open_server() -> None:
    """Start the server, if no worker has done so."""
    folder = Path(os.environ[ADDRESS])
    with FileLock(folder / "lock"):
        if (folder / "socket").exists():
            return
        (folder / "hf" / "hub").mkdir(parents=True)  # libraries read where it is when they are imported
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        with (folder / "log").open("ab") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "processes.server", str(folder), os.environ[f"{ADDRESS}_OWNER"]],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HOME": str(folder / "hf")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _PATIENCE
        while not (folder / "socket").exists():
            assert server.poll() is None, (folder / "log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, f"no server after {_PATIENCE} s"
            time.sleep(0.02)
