"""The steps that are programs of their own: contract tests, and a training that is killed and resumed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.outcomes import PLACE, counted
from rir_mlx.errors import Failure

_WORKERS = 8
"""Each has a model of its own on the GPU, and the tests' models are tiny."""


def contract_tests(backend: str, tests: Sequence[str], seconds: float) -> dict[str, Any]:
    """How many of the claims that every backend must meet hold on this device; of a run that does not end in time, how
    many are known. MLX multiplies float32 with all its bits: the claims about it are of that."""
    command = [sys.executable, "-m", "pytest", *_workers(), "-q", "-p", "no:cacheprovider"]
    command += ["-p", "benchmarks.gpu.outcomes", *tests, *(["-k", backend] if "-k" not in tests else [])]
    stopped = ""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "outcomes"
        environment = os.environ | {PLACE: str(place), "MLX_ENABLE_TF32": "0"}
        try:
            done = bounded(command, seconds, environment)
            stopped = "" if done.returncode in (0, 1) else _ending(done)
        except Failure as failure:
            stopped = str(failure)
        counts, failed = counted(place)
    if not counts:
        raise Failure(stopped or "No test was run.")
    return {"counts": counts, "failed": failed} | ({"stopped": stopped} if stopped else {})


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    """How a run of pytest ended that did not come to the end; a run that was killed has no last line."""
    return last_line("" if done.returncode < 0 else done.stdout + done.stderr, done.returncode)


def _workers() -> list[str]:
    """Half of the cores, for each worker's framework has threads; none without pytest-xdist or on two cores."""
    count = min(_WORKERS, (os.cpu_count() or 1) // 2)
    return ["-n", str(count if count > 1 else 0)] if importlib.util.find_spec("xdist") else []


def resumed(given: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Whether a training that is killed ends with the bytes of one that is not, and how long a step takes."""
    environment = os.environ | ({"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if given["deterministic"] else {})
    command = [sys.executable, "-m", "benchmarks.gpu.resume", json.dumps(given)]
    done = bounded(command, seconds, environment)
    if done.returncode:
        raise Failure(last_line(done.stderr, done.returncode))
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def bounded(
    command: list[str], seconds: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command's output. Raises Failure if it takes longer, and ends what it started too: a training that goes on
    would hold the GPU's memory and slow down every later step."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failure(f"It took more than {seconds:.0f} s.") from error
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def last_line(text: str, code: int) -> str:
    """What a process said last; how it ended, if it said nothing."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), f"It ended with the exit code {code}.")
