"""The one training loop. Both frameworks run it; neither is imported here."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rir_mlx.backends.base import Batch, Model, OptimizerSpec
from rir_mlx.errors import Failure, UserError
from rir_mlx.progress import Progress
from rir_mlx.recipe import TrainingSection
from rir_mlx.tokens import Examples, batch_order, step_batches, whole_batches

DEFAULT_EPOCHS = 2.0
_MEND_FINITE = "Lower learning_rate, or set dtype to float32."


@dataclass(frozen=True)
class Job:
    """What to train on. `steps` overrides what the options say, so that arms can be matched by steps."""

    train: Examples
    validation: Examples
    options: TrainingSection
    seed: int
    steps: int
    reasoning_weight: float = 1.0

    def batches(self, examples: Examples, groups: Sequence[Sequence[int]]) -> list[Batch]:
        return step_batches(
            examples,
            groups,
            reasoning_weight=self.reasoning_weight,
            shared_prefix=self.options.shared_prefix,
        )


@dataclass(frozen=True)
class Outcome:
    """What training did. `tokens` are those processed; losses are means over the last report and the best
    validation, the latter None without validation rows."""

    steps: int
    best_step: int
    train_loss: float
    validation_loss: float | None
    tokens: int
    seconds: float


def steps_for(rows: int, options: TrainingSection) -> int:
    """Optimizer steps that the options mean for so many rows."""
    if options.iters is not None:
        return options.iters
    epochs = DEFAULT_EPOCHS if options.epochs is None else options.epochs
    per_epoch = math.ceil(math.ceil(rows / options.batch_size) / options.grad_accumulation_steps)
    return max(1, round(epochs * per_epoch))


def learning_rate_at(step: int, steps: int, options: TrainingSection) -> float:
    """Rate of step 0 … steps-1: a linear warm-up to the peak, then the schedule, which ends near 0."""
    warmup = int(steps * options.warmup)
    if step < warmup:
        return options.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    match options.lr_schedule:
        case "cosine":
            return options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return options.learning_rate * (1 - done)
        case "constant":
            return options.learning_rate


def train(model: Model, job: Job, *, metrics: Path, save: Callable[[], None], progress: Progress, what: str) -> Outcome:
    """Run the job's steps; `save` is called whenever the weights are the best so far, and at the end if there are no
    validation rows. Writes one line of JSON a report to `metrics`.

    Raises Failure where a loss is not finite, naming the step and its rows; what was saved before stays.
    """
    if not job.train.rows:
        raise UserError("There are no rows to train on.")
    options = job.options
    model.configure_optimizer(OptimizerSpec(weight_decay=options.weight_decay, max_grad_norm=options.max_grad_norm))
    best, best_step, tokens = math.inf, 0, 0
    recent: list[float] = []
    begun = reported = time.perf_counter()
    reported_tokens = 0
    groups = _step_groups(job)
    with metrics.open("w", encoding="utf-8") as log, progress.task(what, job.steps) as task:
        for step in range(job.steps):
            chosen = next(groups)
            batches = job.batches(job.train, chosen)
            rate = learning_rate_at(step, job.steps, options)
            result = model.train_step(batches, rate)
            if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
                rows = ", ".join(str(index) for group in chosen for index in group)
                raise Failure(
                    f"The loss is not finite at step {step + 1} (training rows {rows}).",
                    mend=_MEND_FINITE,
                )
            recent.append(result.loss)
            tokens += sum(batch.processed for batch in batches)
            last = step + 1 == job.steps
            line: dict[str, float] = {}
            if (step + 1) % options.steps_per_report == 0 or last:
                now = time.perf_counter()
                speed = (tokens - reported_tokens) / max(now - reported, 1e-9)
                line = {"loss": sum(recent) / len(recent), "grad_norm": result.grad_norm, "learning_rate": rate}
                line |= {"tokens": tokens, "tokens_per_second": speed}
                reported, reported_tokens, recent = now, tokens, [] if not last else recent
            if job.validation.rows and ((step + 1) % options.steps_per_eval == 0 or last):
                line["validation_loss"] = mean_loss(model, job)
                if not math.isfinite(line["validation_loss"]):
                    raise Failure(f"The validation loss is not finite at step {step + 1}.", mend=_MEND_FINITE)
                if line["validation_loss"] < best:
                    best, best_step = line["validation_loss"], step + 1
                    save()
            if line:
                log.write(json.dumps({"step": step + 1} | line) + "\n")
                log.flush()
            task.advance(1, **{key: line[key] for key in ("loss", "tokens_per_second") if key in line})
    if not job.validation.rows:
        best_step = job.steps
        save()
    return Outcome(
        steps=job.steps,
        best_step=best_step,
        train_loss=sum(recent) / len(recent),
        validation_loss=best if job.validation.rows else None,
        tokens=tokens,
        seconds=time.perf_counter() - begun,
    )


def mean_loss(model: Model, job: Job) -> float:
    """The loss over all validation rows, weighted as in training: each kind of token by its mean."""
    groups = list(whole_batches(job.validation, job.options.batch_size))
    return sum(model.loss(batch) for batch in job.batches(job.validation, groups))


def _step_groups(job: Job) -> Iterator[list[list[int]]]:
    """Batches of row indices, one list an optimizer step, epoch after epoch without end."""
    lengths = [len(row) for row in job.train.rows]
    size, epoch = job.options.grad_accumulation_steps, 0
    while True:
        order = batch_order(lengths, job.options.batch_size, job.seed, epoch)
        for start in range(0, len(order), size):
            yield order[start : start + size]
        epoch += 1
