"""Processes that start warm: forked from one that has imported the frameworks already. Importing them takes several
seconds, and most of what a test asks of a process takes less than one.

What a test says about starting itself (what `--help` imports, what a launcher sets) needs `subprocess`."""

from __future__ import annotations

import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

_CONTEXT = multiprocessing.get_context("forkserver")
_IMPORTED = [
    *("rir_cli.app", "rir_mlx.stages", "datasets", "sklearn.linear_model", "scipy.stats", "huggingface_hub"),
    *("torch", "peft", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama"),
    *("rir_mlx.backends.torch", "rir_mlx.backends.mlx"),
]
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Read when a library is loaded. A process that has threads cannot be forked safely, and tiny models want none."""


class Running:
    """As `subprocess.Popen`, as far as tests need it. What it prints goes into files."""

    def __init__(
        self, run: Callable[..., object], arguments: Sequence[object], folder: Path, environment: dict[str, str]
    ) -> None:
        self._printed = tempfile.TemporaryDirectory()
        given = (run, arguments, folder, environment, self._printed.name)
        _open_server()
        self._process = _CONTEXT.Process(target=_become, args=given, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout, self.out(), self.err())
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[str, str]:
        self.wait(timeout)
        return self.out(), self.err()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def out(self) -> str:
        """What it has printed to stdout so far."""
        return _text(Path(self._printed.name) / "out")

    def err(self) -> str:
        return _text(Path(self._printed.name) / "err")


def start_command(folder: Path, *arguments: str, **environment: str) -> Running:
    """`rir-mlx`, in that folder."""
    return Running(_command, arguments, folder, environment)


def start_program(folder: Path, path: Path, *arguments: str) -> Running:
    """`python PATH ARGUMENTS`, in that folder."""
    return Running(_program, (str(path), *arguments), folder, {})


def start_code(folder: Path, code: str, *arguments: str) -> Running:
    """`python -c CODE ARGUMENTS`, in that folder."""
    return Running(_code, (code, *arguments), folder, {})


def run(command: Sequence[str], *, cwd: Path, env: dict[str, str], timeout: float, **_: object) -> Any:
    """As `subprocess.run` with captured output, for `python … -c CODE`."""
    process = Running(_code, command[command.index("-c") + 1 :], cwd, env)
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command, code, process.out(), process.err())


def _open_server() -> None:
    from multiprocessing import forkserver

    _CONTEXT.set_forkserver_preload([*(name for name in _IMPORTED if _is_installed(name)), "warmed"])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _ONE_THREAD.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # where `warmed` is
        forkserver.ensure_running()


def _is_installed(module: str) -> bool:
    needed = {"rir_mlx.backends.torch": ("torch", "peft"), "rir_mlx.backends.mlx": ("mlx_lm",)}
    return all(find_spec(name) is not None for name in needed.get(module, (module.partition(".")[0],)))


def _become(
    run: Callable[..., object], arguments: Sequence[object], folder: Path, environment: dict[str, str], printed: str
) -> None:
    """In the forked process: take the place of a program that was started in that folder."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background job
    for name, number in (("out", 1), ("err", 2)):
        file = os.open(Path(printed) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    sys.stdin = io.StringIO()
    os.environ.update(environment)
    os.chdir(folder)
    run(*arguments)


def _command(*arguments: str) -> None:
    from rir_cli.app import main

    sys.argv = ["rir-mlx", *arguments]
    main()


def _program(path: str, *arguments: str) -> None:
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")


def _code(code: str, *arguments: str) -> None:
    sys.argv = ["-c", *arguments]
    exec(compile(code, "-c", "exec"), {"__name__": "__main__"})


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
