"""The cost of a stage, estimated before it starts: rows, tokens, time and memory on this machine.

The time is measured: one batch runs through the loaded model without an update, and its time is scaled up. The progress
line corrects this estimate during the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rir_mlx.backends.base import (
    Device,
    Model,
    Request,
    Sampling,
    Tokens,
)
from rir_mlx.errors import OutOfMemory
from rir_mlx.prompting.batches import whole_batches
from rir_mlx.training.job import TrainingJob
from rir_mlx.training.memory import Loaded, Trained, generation_memory, training_memory

_USABLE = 0.9
"""Share of the machine's memory that a training may take."""
_BACKWARD = {"lora": 1.3, "dora": 2.0, "full": 2.0}
"""Time of a backward pass in forward passes: without weight gradients a little more than one."""


@dataclass(frozen=True)
class Cost:
    """`seconds` and `memory` (bytes) are estimates. `smaller` names the keys that lower the time, `fits` the edit that
    makes it fit into memory, if it does not."""

    rows: int
    tokens: int
    seconds: float
    memory: int
    smaller: str
    fits: str = ""

    def text(self, what: str, device: Device) -> str:
        return (
            f"{what}: {self.rows:,} rows, {self.tokens:,} tokens; about {duration(self.seconds)} and "
            f"{memory_size(self.memory)} on {device.name}. Smaller with {self.smaller}."
        )

    def warning(self, device: Device) -> str | None:
        if fits_into(self.memory, device.memory):
            return None
        hint = (
            f"It would fit with {self.fits}" if self.fits else "A smaller model, or a shorter max_seq_length, would fit"
        )
        return (
            f"This may need {memory_size(self.memory)}, and the machine has {memory_size(device.memory)}. {hint}. "
            "If memory runs out, the batches are halved."
        )


def fits_into(needed: int, memory: int) -> bool:
    """Whether a training that needs so many bytes fits into a machine's memory."""
    return needed <= _USABLE * memory


def memory_size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def training_cost(what: Trained, job: TrainingJob, device: Device, section: str, smaller: str) -> Cost:
    """The cost of a training job, from one forward pass over rows of median length. `section` is the recipe's, whose
    keys an edit would name."""
    groups = whole_batches(job.train, job.size)
    group = groups[len(groups) // 2]
    count = job.steps * min(job.options.grad_accumulation_steps, len(groups))
    processed = sum(batch.processed for batch in job.batches(job.train, [group], step=0))
    checkpointed = job.options.grad_checkpoint
    longest = job.size.longest(job.train.lengths())
    return Cost(
        rows=count * len(group),
        tokens=count * processed,
        seconds=count
        * _forward(what.model, job, group)
        * (1 + _BACKWARD[what.spec.fine_tune_type] + checkpointed)
        / what.processes,
        memory=_step_memory(what, job, longest, checkpointed),
        smaller=smaller,
        fits=_edit_that_fits(what, job, longest, device, section),
    )


def _forward(model: Model, job: TrainingJob, group: Sequence[int]) -> float:
    """Seconds of a forward pass over rows; if they do not fit, extrapolated from half of them."""
    try:
        batches = job.batches(job.train, [group], step=0)
        model.loss(batches[0])
        return timed(lambda: [model.loss(batch) for batch in batches])
    except OutOfMemory:
        if len(group) == 1:
            raise
        return 2 * _forward(model, job, group[: len(group) // 2])


def _edit_that_fits(what: Trained, job: TrainingJob, longest: Sequence[int], device: Device, section: str) -> str:
    """The mildest edit that fits: smaller batches for the same step, then checkpointing too."""
    options = job.options
    for checkpointed in sorted({options.grad_checkpoint, True}):
        for parts in (parts for parts in range(1, options.batch_size + 1) if options.batch_size % parts == 0):
            rows = longest[-max(1, len(longest) // parts) :]
            if not fits_into(_step_memory(what, job, rows, checkpointed), device.memory):
                continue
            edits: dict[str, Any] = {"batch_size": options.batch_size // parts}
            if options.batch_tokens is not None:
                edits = {"batch_tokens": options.batch_tokens // parts}
            edits["grad_accumulation_steps"] = options.grad_accumulation_steps * parts
            edits |= {"grad_checkpoint": "true"} if checkpointed and not options.grad_checkpoint else {}
            return " ".join(f"--set {section}.{key}={value}" for key, value in edits.items())
    return ""


def generation_cost(loaded: Loaded, requests: Sequence[Request], prefix: Tokens, sampling: Sampling) -> Cost:
    """The cost of generating to the limit for every request: an upper bound, from a few tokens of one batch."""
    model, few, more = loaded.model, 2, 8
    batch = requests[: sampling.batch_size]

    def run(tokens: int) -> float:
        short = Sampling(max_tokens=tokens, batch_size=sampling.batch_size)
        return timed(lambda: list(model.generate(batch, short, prefix=prefix)))

    run(1)
    start = run(few)
    each = max(0.0, (run(more) - start) / (more - few))
    batches = len(requests) / max(1, len(batch))
    prompt = sum(len(request.tokens) for request in requests) + len(prefix)
    return Cost(
        rows=len(requests),
        tokens=prompt + len(requests) * sampling.max_tokens,
        seconds=batches * (start + each * sampling.max_tokens),
        memory=generation_memory(loaded, batch, len(prefix), sampling),
        smaller="data.max_samples, augment.max_tokens",
    )


def _step_memory(what: Trained, job: TrainingJob, rows: Sequence[int], checkpointed: bool) -> int:
    return max(training_memory(what, batch, checkpointed) for batch in job.batches(job.train, [rows], step=0))


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
