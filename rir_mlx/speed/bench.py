"""`rir-mlx bench`: every stage for a bounded time, its share of the machine's limit, and another program beside it."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import rir_mlx
from rir_mlx.backends import on_apple_silicon
from rir_mlx.backends.limits import Limits
from rir_mlx.errors import Failure, UserError
from rir_mlx.guide.machine import machine_name
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.recipe.schema import Recipe
from rir_mlx.speed.chips import usual
from rir_mlx.speed.job import Job
from rir_mlx.speed.shapes import model_folder
from rir_mlx.speed.work import Work
from rir_mlx.types import BenchTask, Rival

TASKS: dict[BenchTask, str] = {
    "qa": "train qa",
    "qra": "train qra",
    "augment": "augment",
    "label": "classify, label only",
    "reasoning": "classify, with reasoning",
}
_RIVALS: dict[Rival, dict[BenchTask, str]] = {
    "mlx-lm": {
        "qa": "mlx-lm",
        "qra": "mlx-lm",
        "augment": "batch_generate",
        "label": "generate-batch",
        "reasoning": "generate-batch",
    },
    "peft": {
        "qa": "plain",
        "qra": "plain",
        "augment": "transformers-sorted",
        "label": "generate-batch",
        "reasoning": "generate-batch",
    },
    "trl": {"qa": "trl-best", "qra": "trl-best"},
}
_MODULES: dict[Rival, tuple[str, str, str]] = {
    "mlx-lm": ("mlx", "mlx_lm", "pip install mlx-lm"),
    "peft": ("torch", "peft", "pip install peft"),
    "trl": ("torch", "trl", "pip install trl"),
}
"""Of each rival its backend, the module it is found by, and what installs it."""
_LONGEST = 30
"""A process gets this many times the seconds of its part: loading and the first round included."""
_TO_LOAD = 120
"""Seconds that a process may take besides."""
_WHOLE, _TIMES = 280.0, 18
"""Seconds that all tasks of a program may take together, or so many times the seconds of a part if that is more."""


@dataclass(frozen=True)
class BenchOptions:
    """What is measured: `tasks`, each for `seconds`, on a backend; `against` another program; `batch` and `tokens`, if
    given, instead of the recipe's batches and 64 tokens of a reasoning."""

    tasks: tuple[BenchTask, ...] = tuple(TASKS)
    seconds: float = 15.0
    backend: str | None = None
    against: Rival | None = None
    batch: int | None = None
    tokens: int = 64
    offline: bool = False


@dataclass(frozen=True)
class Part:
    """What one program did in one task. Rates are medians of the `rounds`, with the slowest and fastest; `memory` is
    the peak above the weights in GB. `share` is the least time that the work needs by the machine's limits, as a share
    of the time it took, and `limit` the limit that it waits for; both None for others' programs. `failed` says why
    there are no figures."""

    task: BenchTask
    program: str
    rows: int = 0
    rounds: int = 0
    rows_per_s: float = 0.0
    rows_range: tuple[float, float] = (0.0, 0.0)
    tokens_per_s: float = 0.0
    memory: float = 0.0
    share: float | None = None
    limit: str | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Bench:
    """What was measured, on which device, with which model. `faster` is by how much ours is faster than the other
    program, by task."""

    version: str
    machine: str
    device: str
    model: str
    random_weights: bool
    limits: Limits
    seconds: float
    parts: list[Part] = field(default_factory=list)

    @property
    def faster(self) -> dict[BenchTask, float]:
        ours = {part.task: part.rows_per_s for part in self.parts if part.program == "rir-mlx"}
        return {
            part.task: ours[part.task] / part.rows_per_s
            for part in self.parts
            if part.program != "rir-mlx" and part.rows_per_s and ours.get(part.task)
        }

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"faster": self.faster, "usual": usual(self.device), "line": self.line()}

    def line(self) -> str:
        """All of it in one line, to send in."""
        ours = [part for part in self.parts if part.program == "rir-mlx" and not part.failed]
        figures = [f"{part.task} {part.rows_per_s:.3g} rows/s ({_percent(part.share)})" for part in ours]
        others = [f"{ratio:.2f}x {task}" for task, ratio in self.faster.items()]
        model = f"{self.model}{' (random weights)' if self.random_weights else ''}, {self.limits.dtype}"
        limits = f"{self.limits.flops / 1e12:.3g} TFLOP/s, {self.limits.bandwidth / 1e9:.3g} GB/s"
        names = sorted({part.program for part in self.parts} - {"rir-mlx"})
        beside = f"; against {', '.join(names)}: {', '.join(others)}" if others else ""
        return f"rir-mlx {self.version}; {self.device}; {model}; {limits}; {', '.join(figures)}{beside}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%} of the limit"


def check_rival(rival: Rival | None, backend: str, recipe: Recipe) -> None:
    """Raises UserError where the other program is not installed, runs on another backend, or trains nothing like it."""
    if rival is None:
        return
    wanted, module, install = _MODULES[rival]
    if backend != wanted:
        raise UserError(f"{rival} runs on {wanted}, and {backend} is measured.", hint=f"Add --backend {wanted}")
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{rival} is not installed.", hint=install)
    if recipe.fine_tune_type != "lora":
        raise UserError(
            f"{rival} is measured with LoRA, and the recipe's fine_tune_type is {recipe.fine_tune_type}.",
            hint="Add --set fine_tune_type=lora",
        )


def bench_steps(recipe: Recipe, options: BenchOptions) -> Iterator[Bench]:
    """Measures one part after another, each in a process of its own; yields what is known after each. The first has the
    limits and no part.

    Raises UserError for what cannot be measured, ModelError where the model's shape is not known."""
    alone = _TO_LOAD + _LONGEST * options.seconds if len(options.tasks) == 1 else 0.0
    whole = max(_WHOLE, _TIMES * options.seconds, alone) * (2 if options.against else 1)
    end = time.monotonic() + whole
    backend = _backend(options.backend or recipe.backend)
    check_rival(options.against, backend, recipe)
    with tempfile.TemporaryDirectory(prefix="rir-mlx-bench-") as temporary:
        folder, is_random = model_folder(recipe.model, Path(temporary) / "model", offline=options.offline)
        dtype = AdapterSpec(recipe.fine_tune_type).base_dtype(recipe.dtype)
        limits_of = {"backend_name": backend, "dtype": dtype, "seconds": min(2.0, options.seconds / 4)}
        machine = run_apart(limits_of, _TO_LOAD + options.seconds)
        found = Bench(
            rir_mlx.__version__,
            machine_name(),
            machine["device"],
            recipe.model,
            is_random,
            Limits(**machine["limits"]),
            options.seconds,
        )
        yield found
        for job in _jobs(recipe, options, (backend, str(folder), found.limits.dtype)):
            mine, peer = _pair(job, options, found.limits, end)
            found.parts.append(mine)
            yield found
            if peer is not None:
                found.parts.append(peer)
                yield found


def _backend(name: str) -> str:
    return ("mlx" if on_apple_silicon() else "torch") if name == "auto" else name


def _jobs(recipe: Recipe, options: BenchOptions, where: tuple[str, str, str]) -> Iterator[Job]:
    sizes: Mapping[BenchTask, int] = {
        "qa": recipe.classifier.batch_size,
        "qra": recipe.classifier.batch_size,
        "augment": recipe.augment.batch_size,
        "label": recipe.evaluate.batch_size,
        "reasoning": recipe.evaluate.batch_size,
    }
    lora = recipe.lora_parameters
    for task in options.tasks:
        yield Job(
            "ours",
            task,
            *where,
            options.batch or sizes[task],
            seconds=options.seconds,
            tokens=options.tokens,
            kind=recipe.fine_tune_type,
            layers=recipe.num_layers,
            keys=lora.keys,
            rank=lora.rank,
            scale=lora.scale,
            grad_checkpoint=recipe.classifier.grad_checkpoint,
        )


def _pair(job: Job, options: BenchOptions, limits: Limits, end: float) -> tuple[Part, Part | None]:
    """What ours did, and what the other program did with as many rows at a time, until the time `end`."""
    task: BenchTask = job.task  # type: ignore[assignment]
    mine = _part(job, "rir-mlx", limits, end)
    if options.against is None or mine.failed:
        return mine, None
    peer = _RIVALS[options.against].get(task)
    if peer is None:
        return mine, Part(task, options.against, failed=f"{options.against} only trains")
    return mine, _part(replace(job, peer=peer, batch=mine.rows), options.against, limits, end)


def _part(job: Job, program: str, limits: Limits, end: float) -> Part:
    task: BenchTask = job.task  # type: ignore[assignment]
    over = f"The time for all tasks was over. Add --only {task} to the same command."
    left = end - time.monotonic()
    if left < job.seconds:
        return Part(task, program, failed=over)
    try:
        measured = run_apart(asdict(job), min(left, _TO_LOAD + _LONGEST * job.seconds))
    except Failure as failure:
        return Part(task, program, failed=over if time.monotonic() >= end else str(failure))
    share, limit = share_of_limit(measured, limits)
    rates = measured["rows/s"]
    return Part(
        task,
        program,
        rows=measured["rows"],
        rounds=len(rates),
        rows_per_s=statistics.median(rates),
        rows_range=(min(rates), max(rates)),
        tokens_per_s=statistics.median(measured["tokens/s"]),
        memory=measured["peak GB"],
        share=share,
        limit=limit,
    )


def share_of_limit(measured: Mapping[str, Any], limits: Limits) -> tuple[float | None, str | None]:
    """The median over the rounds of the least time as a share of the time taken; and the limit of most of it."""
    if not measured["works"]:
        return None, None
    shares: list[float] = []
    waited = {"arithmetic": 0.0, "bandwidth": 0.0}
    for works, seconds in zip(measured["works"], measured["seconds"], strict=True):
        least = [Work(**work) for work in works]
        for work in least:
            waited[work.limit(limits)] += work.seconds(limits)
        shares.append(sum(work.seconds(limits) for work in least) / seconds)
    return statistics.median(shares), max(waited, key=lambda limit: waited[limit])


def run_apart(given: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What a process of its own measured. Raises Failure with its last line where it fails or takes too long."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "rir_mlx.speed.measuring", json.dumps(given)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"It took more than {seconds:.0f} s.", hint="Measure fewer rows: --batch 1") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise Failure(lines[-1] if lines else f"The process ended with the exit code {done.returncode}.")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured
