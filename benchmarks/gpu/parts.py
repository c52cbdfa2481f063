"""What is measured on a GPU: each part a list of steps, each step a key and what runs in a process of its own."""

from __future__ import annotations

import functools
import importlib.util
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.gpu.goals import importance
from benchmarks.gpu.processes import contract_tests, resumed
from rir_mlx.backends.limits import Limits
from rir_mlx.errors import Failure
from rir_mlx.speed.bench import run_apart, share_of_limit
from rir_mlx.speed.job import LENGTHS, Job
from rir_mlx.speed.programs.writers import COPIED, LAUNCHED

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
    """The model's folder, what is run at a time, and how long a measurement lasts. `train`, `write`, `classify` and
    `resume` are rows at a time. In a round `written` times as many rows as at a time are written, and `classified` are
    classified, `alone` of them row by row; reasonings have from `lengths[0]` to below `lengths[1]` tokens. `tests` are
    pytest's arguments."""

    folder: str
    train: tuple[int, ...] = (16, 128, 512)
    write: tuple[int, ...] = (32, 128, 512)
    written: int = 4
    classify: int = 512
    classified: int = 2000
    alone: int = 4
    resume: tuple[int, ...] = (16, 128)
    lengths: tuple[int, int] = (LENGTHS.start, LENGTHS.stop)
    seconds: float = 6.0
    longest: float = 90.0
    tests: tuple[str, ...] = ("tests/contract", "-m", "not heavy")
    dtype: str = "bfloat16"


TINY = {"train": (2,), "write": (2,), "classify": 2, "classified": 5, "alone": 2, "resume": (2,), "lengths": (2, 7)}
TINY |= {"tests": ("tests/contract/test_scoring.py", "-k", "one_token_options"), "dtype": "float32"}
TINY |= {"seconds": 0.1, "longest": 400.0}
"""For a processor, to prove that every step runs."""


@dataclass(frozen=True)
class Step:
    """`key` names its result in the file. `run` gives it within so many seconds, or raises Failure: at most `longest`,
    and hardly fewer than `least`. `needs` is a module without which it is left out."""

    key: str
    run: Callable[[float], Result]
    least: float
    longest: float
    needs: str | None = None

    def result(self, seconds: float) -> Result:
        """What it measured; `left out` or `error` where there is nothing."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return {"left out": f"{self.needs} is not installed"}
        try:
            return self.run(min(seconds, self.longest))
        except Failure as failure:
            return {"error": str(failure)}


def ordered(parts: Iterable[str], plan: Plan, limits: Limits, *, tiny: bool) -> list[Step]:
    """The steps of all those parts, what the goals need first."""
    found = [step for part in parts for step in steps(part, plan, limits, tiny=tiny)]
    return sorted(found, key=lambda step: importance(step.key))


def steps(part: str, plan: Plan, limits: Limits, *, tiny: bool) -> Iterator[Step]:
    match part:
        case "a":
            yield _tests("a/torch", "torch", plan)
        case "b" | "c" | "d":
            yield from _measured(part, "torch", plan, limits)
        case "e":
            asked = Step("e/is on a GPU", lambda _: {"on a GPU": _on_gpu(plan.longest)}, 0, plan.longest, "mlx_lm")
            yield asked
            found = asked.result(plan.longest)
            if found.get("on a GPU") or (tiny and "left out" not in found):
                yield _tests("e/contract tests", "mlx", plan)
                for inner in "bcd":
                    for step in _measured(inner, "mlx", plan, limits):
                        yield replace(step, key=f"e/{step.key}")
        case "f":
            for rows in plan.resume:
                for how in ("as it is", "deterministic"):
                    given = {"folder": plan.folder, "dtype": plan.dtype, "rows": rows}
                    run = functools.partial(resumed, given | {"deterministic": how == "deterministic"})
                    yield Step(f"f/{rows}/{how}", run, 10 * plan.seconds, 3 * plan.longest)


def _tests(key: str, backend: str, plan: Plan) -> Step:
    run = functools.partial(contract_tests, backend, plan.tests)
    return Step(key, run, 10 * plan.seconds, 3 * plan.longest)


@functools.cache
def _on_gpu(seconds: float) -> bool:
    """Whether MLX is. A process of its own asks: this one would hold memory of the GPU as long as it lives. Raises
    Failure where MLX cannot be asked, which the step that asks says."""
    return run_apart({"backend_name": "mlx"}, seconds)["accelerator"] is not None


def _measured(part: str, backend: str, plan: Plan, limits: Limits) -> Iterator[Step]:
    """Ours and the peers, in turn, on the same rows and batches. Row by row fewer rows are enough: rows a second are
    compared."""
    peers: dict[str, dict[str, tuple[str, ...]]] = {
        "torch": {
            "b": ("ours", "plain", "trl-best"),
            "c": ("ours", COPIED, LAUNCHED, "transformers-sorted", "generate_batch"),
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
                rows = {"b": 0, "c": plan.written * size, "d": plan.classified}[part]
                job = Job(peer, task, backend, plan.folder, plan.dtype, size, rows=rows, lengths=plan.lengths)
                if peer == "generate-rows":  # a few rows would draw lengths of another mean
                    mean = round(statistics.mean(job.reasonings())) if task == "reasoning" else job.tokens
                    job = replace(job, batch=1, rows=plan.alone, lengths=None, tokens=mean)
                job = replace(job, seconds=plan.seconds, as_told=True)  # all of them with as many rows at a time
                run = functools.partial(measured, job, limits)
                needs = "trl" if peer.startswith("trl") else None
                yield Step(f"{part}/{task}/{size}/{peer}", run, 5 * plan.seconds, plan.longest, needs)


def measured(job: Job, limits: Limits, seconds: float) -> Result:
    """Figures of one job, and the share of the machine's limit that ours gets."""
    found = run_apart(asdict(job), seconds)
    share, limit = share_of_limit(found, limits)
    rows, tokens = (sorted(found[name]) for name in ("rows/s", "tokens/s"))
    middle = len(rows) // 2
    about = {"rows": found["rows"], "rounds": len(rows), "rows/s": rows[middle], "tokens/s": tokens[middle]}
    about |= {"settings": found["settings"]} if found.get("settings") else {}
    return about | {"peak GB": found["peak GB"], "share": share, "limit": limit}
