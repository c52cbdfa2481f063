"""What is measured on a GPU: each part a list of steps, each step a key and what runs in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rir_mlx.backends import open_backend
from rir_mlx.backends.limits import Limits
from rir_mlx.errors import Failure
from rir_mlx.speed.bench import run_apart, share_of_limit
from rir_mlx.speed.job import Job
from rir_mlx.speed.programs.writers import COPIED, LAUNCHED
from rir_mlx.types import BackendName

PARTS = {
    "a": "contract tests",
    "b": "training",
    "c": "augmentation",
    "d": "classification",
    "e": "MLX",
    "f": "exact resume",
}
Result = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The model's folder, what is run at a time, and how long a measurement lasts. `tests` are pytest's arguments."""

    folder: str
    train: tuple[int, ...] = (16, 128, 512)
    write: tuple[int, ...] = (32, 128, 512)
    classify: int = 512
    tokens: int = 64
    seconds: float = 6.0
    longest: float = 90.0
    tests: tuple[str, ...] = ("tests/contract", "-m", "not heavy")
    dtype: str = "bfloat16"


TINY = {"train": (2,), "write": (2,), "classify": 2, "tokens": 4, "seconds": 0.1, "longest": 400.0}
TINY |= {"tests": ("tests/contract/test_scoring.py", "-k", "one_token_options"), "dtype": "float32"}
"""For a processor, to prove that every step runs."""


@dataclass(frozen=True)
class Step:
    """`key` names its result in the file. `run` gives it, or raises Failure; `needs` is a module without which it is
    left out."""

    key: str
    run: Callable[[], Result]
    needs: str | None = None

    def result(self) -> Result:
        """What it measured; `left out` or `error` where there is nothing."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return {"left out": f"{self.needs} is not installed"}
        try:
            return self.run()
        except Failure as failure:
            return {"error": str(failure)}


def steps(part: str, plan: Plan, limits: Limits, *, tiny: bool) -> Iterator[Step]:
    match part:
        case "a":
            yield Step("a/torch", lambda: contract_tests("torch", plan))
        case "b" | "c" | "d":
            yield from _measured(part, "torch", plan, limits)
        case "e":
            yield Step("e/is on a GPU", lambda: {"on a GPU": _on_gpu("mlx")}, "mlx_lm")
            if tiny or (importlib.util.find_spec("mlx_lm") and _on_gpu("mlx")):
                yield Step("e/contract tests", lambda: contract_tests("mlx", plan), "mlx_lm")
                for inner in "bcd":
                    for step in _measured(inner, "mlx", plan, limits):
                        yield replace(step, key=f"e/{step.key}")
        case "f":
            for how in ("as it is", "deterministic"):
                yield Step(f"f/{how}", lambda how=how: resumed(plan, deterministic=how == "deterministic"))  # type: ignore[misc]


def _on_gpu(backend: BackendName) -> bool:
    return open_backend(backend).facts().accelerator is not None


def _measured(part: str, backend: str, plan: Plan, limits: Limits) -> Iterator[Step]:
    """Ours and the peers, in turn, on the same rows and batches."""
    peers: dict[str, dict[str, tuple[str, ...]]] = {
        "torch": {
            "b": ("ours", "plain", "trl-best"),
            "c": ("ours", LAUNCHED, COPIED, "transformers-sorted", "generate_batch"),
            "d": ("ours", "generate-rows", "generate-batch"),
        },
        "mlx": {
            "b": ("ours", "mlx-lm"),
            "c": ("ours", "batch_generate"),
            "d": ("ours", "generate-rows", "generate-batch"),
        },
    }
    tasks, sizes = {
        "b": (("qa", "qra"), plan.train),
        "c": (("augment",), plan.write),
        "d": (("label", "reasoning"), (plan.classify,)),
    }[part]
    for task in tasks:
        for size in sizes:
            for peer in peers[backend][part]:
                rows = max(1, size // 16) if peer == "generate-rows" else size
                job = Job(peer, task, backend, plan.folder, plan.dtype, rows, tokens=plan.tokens)
                job = replace(job, seconds=plan.seconds, as_told=True)  # all of them with as many rows at a time
                needs = "trl" if peer.startswith("trl") else None
                yield Step(f"{part}/{task}/{size}/{peer}", lambda job=job: measured(job, plan, limits), needs)  # type: ignore[misc]


def measured(job: Job, plan: Plan, limits: Limits) -> Result:
    """Figures of one job, and the share of the machine's limit that ours gets."""
    found = run_apart(asdict(job), plan.longest)
    share, limit = share_of_limit(found, limits)
    rows, tokens = (sorted(found[name]) for name in ("rows/s", "tokens/s"))
    middle = len(rows) // 2
    about = {"rows at a time": found["rows"], "rounds": len(rows), "rows/s": rows[middle], "tokens/s": tokens[middle]}
    return about | {"peak GB": found["peak GB"], "share": share, "limit": limit}


def contract_tests(backend: str, plan: Plan) -> Result:
    """How many of the claims that every backend must meet hold on this device."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *plan.tests]
    command += ["-k", backend] if "-k" not in plan.tests else []
    done = _bounded(command, 3 * plan.longest)
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)", done.stdout)}
    if not counts:  # with -q, pytest says how many passed only where something else is said too
        counts = {"passed": done.stdout.count(".")} if done.returncode == 0 else {}
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if not counts:
        raise Failure(_last_line(done.stdout + done.stderr, done.returncode))
    return {"counts": counts, "failed": failed}


def resumed(plan: Plan, *, deterministic: bool) -> Result:
    """Whether a training that is killed ends with the bytes of one that is not, and how long a step takes."""
    environment = os.environ | ({"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if deterministic else {})
    given = {"folder": plan.folder, "dtype": plan.dtype, "rows": plan.train[0], "deterministic": deterministic}
    command = [sys.executable, "-m", "benchmarks.gpu.resume", json.dumps(given)]
    done = _bounded(command, 3 * plan.longest, environment)
    if done.returncode:
        raise Failure(_last_line(done.stderr, done.returncode))
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found


def _bounded(
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


def _last_line(text: str, code: int) -> str:
    """What a process said last; how it ended, if it said nothing."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), f"It ended with the exit code {code}.")
