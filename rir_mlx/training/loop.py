"""The one training loop. Both frameworks run it; neither is imported here.

All that is drawn at a step, its rows and its dropout, follows from the seed and the step's number. So a checkpoint is
the backend's tensors and how far the loop was, and a training that goes on from one ends with the same weights.
"""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rir_mlx.backends.base import (
    FEWER_ROWS,
    Batch,
    Execution,
    Model,
    OptimizerSpec,
    ProcessGroup,
    SingleProcess,
    StepResult,
    TrainingState,
)
from rir_mlx.errors import Failure, OutOfMemory, UserError
from rir_mlx.interrupts import Interrupts
from rir_mlx.progress import Progress, Task
from rir_mlx.prompting.batches import (
    BatchSize,
    batch_order,
    halved,
    share_of,
    step_batches,
    whole_batches,
)
from rir_mlx.prompting.examples import TrainingExamples
from rir_mlx.recipe.schema import TrainingSection
from rir_mlx.storage.atomic import write_jsonl
from rir_mlx.training.checkpoints import Checkpoints
from rir_mlx.training.trackers import Reporting, open_reporting

DEFAULT_EPOCHS = 2.0
_MEND_FINITE = "Start again with --force and a lower learning_rate, or with dtype float32."


@dataclass(frozen=True)
class Job:
    """What to train on. `steps` overrides what the options say, so that arms can be matched by steps. `texts` are what
    the training examples' `origins` point to, to name a row. `accuracy` measures the model as it will be used, where
    the loss says too little about that: then the best weights are those of the highest accuracy, and of equals those
    of the lowest loss."""

    train: TrainingExamples
    validation: TrainingExamples
    options: TrainingSection
    seed: int
    steps: int
    answer_weight: float = 1.0
    reasoning_weight: float = 1.0
    texts: Sequence[str] = ()
    accuracy: Callable[[Model], float] | None = None

    @property
    def size(self) -> BatchSize:
        return BatchSize(self.options.batch_size, self.options.batch_tokens)

    def batches(
        self, examples: TrainingExamples, groups: Sequence[Sequence[int]], mine: Sequence[Sequence[int]] | None = None
    ) -> list[Batch]:
        return step_batches(
            examples,
            groups,
            mine=mine,
            answer_weight=self.answer_weight,
            reasoning_weight=self.reasoning_weight,
            shared_prefix=self.options.shared_prefix,
        )


@dataclass(frozen=True)
class Outputs:
    """Where a training leaves things. `save` keeps the weights of this moment as the best so far."""

    metrics: Path
    save: Callable[[], None]
    checkpoints: Checkpoints | None = None


@dataclass(frozen=True)
class Outcome:
    """What training did. `planned` steps may have been cut short by `patience`. `tokens` are those processed, on all
    ranks; losses are means over the last report and the best validation, the latter None without validation rows."""

    steps: int
    planned: int
    best_step: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    tokens: int
    seconds: float


@dataclass
class Position:
    """How far a training is; what a checkpoint holds beside the tensors."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_accuracy: float | None = None
    best_step: int = 0
    worse: int = 0
    """Measurements since the best one."""
    train_loss: float = 0.0
    """Mean over the last report."""
    losses: list[float] = field(default_factory=list)
    """Of the steps since then."""
    reported_tokens: int = 0
    reported_seconds: float = 0.0
    halvings: int = 0
    """How often the batches were halved because memory ran out."""


def steps_for(examples: TrainingExamples, options: TrainingSection, *, rows: int | None = None, seed: int = 0) -> int:
    """Optimizer steps that the options mean for these examples, or for so many `rows`."""
    if options.iters is not None:
        return options.iters
    epochs = DEFAULT_EPOCHS if options.epochs is None else options.epochs
    if options.batch_tokens is None:
        batches = math.ceil((len(examples.rows) if rows is None else rows) / options.batch_size)
    else:
        size = BatchSize(options.batch_size, options.batch_tokens)
        batches = len(batch_order(examples.lengths(), size, seed, 0))
    return max(1, round(epochs * math.ceil(batches / options.grad_accumulation_steps)))


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


def train(
    model: Model, job: Job, outputs: Outputs, *, progress: Progress, what: str, processes: ProcessGroup | None = None
) -> Outcome:
    """Run the job's steps, from the last checkpoint where there is one. `outputs.save` is called whenever the weights
    are the best so far, and at the end if there are no validation rows.

    Raises Failure where a loss is not finite, naming the step and its rows; the weights and checkpoints written before
    stay. On Ctrl-C the step is finished, a checkpoint written, and KeyboardInterrupt raised.
    """
    if not job.train.rows:
        raise UserError("There are no rows to train on.")
    return _Loop(model, job, outputs, progress, processes or SingleProcess()).run(what)


def mean_loss(model: Model, job: Job, processes: ProcessGroup | None = None, halvings: int = 0) -> float:
    """The loss over all validation rows, weighted as in training: each kind of token by its mean.

    Raises OutOfMemory, on all ranks alike, where the batches do not fit."""
    processes = processes or SingleProcess()
    groups = whole_batches(job.validation, job.size)
    total, full = 0.0, None
    try:
        for batch in job.batches(job.validation, groups, halved(groups[processes.rank :: processes.size], halvings)):
            total += model.loss(batch)
    except OutOfMemory as error:
        full = error
    total, fulls = processes.all_sum([total, float(full is not None)])
    if fulls:
        raise OutOfMemory("The validation rows do not fit into memory.") from full
    return total


class _Loop:
    def __init__(self, model: Model, job: Job, outputs: Outputs, progress: Progress, processes: ProcessGroup) -> None:
        self.model, self.job, self.outputs, self.progress, self.processes = model, job, outputs, progress, processes
        self.at = Position()
        self.writes = processes.rank == 0
        self.processed = 0

    def run(self, what: str) -> Outcome:
        options = self.job.options
        spec = OptimizerSpec(options.optimizer, weight_decay=options.weight_decay, max_grad_norm=options.max_grad_norm)
        self.model.configure_optimizer(spec, Execution(options.grad_checkpoint, options.compile))
        self._resume()
        folder = self.outputs.metrics.parent
        names = options.report_to if self.writes else ()
        reporting = open_reporting(names, folder, f"{folder.parent.name}/{folder.name}", after=self.at.step)
        try:
            with (
                Interrupts(loud=self.writes) as interrupts,
                self.progress.task(what, self.job.steps, self.at.step) as task,
            ):
                self._steps(interrupts, reporting, task)
        finally:
            reporting.close()
        if not self.job.validation.rows:
            self.at.best_step = self.at.step
            self._save()
        return Outcome(
            steps=self.at.step,
            planned=self.job.steps,
            best_step=self.at.best_step,
            train_loss=self.at.train_loss,
            validation_loss=self.at.best,
            validation_accuracy=self.at.best_accuracy,
            tokens=self.at.tokens,
            seconds=self.at.seconds,
        )

    def _steps(self, interrupts: Interrupts, reporting: Reporting, task: Task) -> None:
        groups = islice(_step_groups(self.job), self.at.step, None)
        while self.at.step < self.job.steps and not self._out_of_patience():
            begun = time.perf_counter()
            result, rate = self._step(next(groups))
            stop = self._count(interrupts)
            self.at.step += 1
            self.at.seconds += time.perf_counter() - begun
            line = self._report(result, rate) | self._validate()
            if line and self.writes:
                self._write(line)
                reporting.log(self.at.step, line)
            task.advance(1, **{key: line[key] for key in ("loss", "tokens_per_second") if key in line})
            # A new best is kept together with the weights that made it.
            if self.at.step % self.job.options.save_every == 0 or self.at.best_step == self.at.step or stop:
                self._checkpoint()
            if stop:
                raise KeyboardInterrupt
        if self.processes.all_sum([float(interrupts.asked)])[0]:  # after the last step was counted
            self._checkpoint()
            raise KeyboardInterrupt

    def _step(self, chosen: Sequence[Sequence[int]]) -> tuple[StepResult, float]:
        """The next optimizer step, on as small batches as memory makes it."""
        at, job, processes = self.at, self.job, self.processes
        rate = learning_rate_at(at.step, job.steps, job.options)
        seed = zlib.crc32(f"{job.seed} {at.step} {processes.rank}".encode())
        while True:
            mine = halved(share_of(chosen, processes.rank, processes.size), at.halvings)
            batches = job.batches(job.train, chosen, mine)
            try:
                result = self.model.train_step(batches, rate, seed=seed)
                break
            except OutOfMemory:
                self._halve(max(len(group) for group in chosen))
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            raise Failure(
                f"The loss is not finite at step {at.step + 1} ({self._named(chosen)}). What was saved before is kept.",
                hint=_MEND_FINITE,
            )
        at.losses.append(result.loss)
        self.processed = sum(batch.processed for batch in batches)
        return result, rate

    def _count(self, interrupts: Interrupts) -> bool:
        """Count the step's tokens on all ranks; whether one of them was asked to stop, and so all do."""
        tokens, asked = self.processes.all_sum([self.processed, float(interrupts.asked)])
        self.at.tokens += int(tokens)
        return asked > 0

    def _halve(self, rows: int) -> None:
        if 2**self.at.halvings >= rows:
            raise OutOfMemory(
                "There is not enough memory for a single row.",
                hint="Lower max_seq_length, set grad_checkpoint to true, or take a smaller model.",
            )
        self.at.halvings += 1
        left = math.ceil(rows / 2**self.at.halvings)
        self.progress.warn(
            f"Memory ran out at step {self.at.step + 1}: from here at most {left} rows go through the model together, "
            f"in {2**self.at.halvings} times as many batches a step. The step itself stays the same."
        )

    def _named(self, chosen: Sequence[Sequence[int]]) -> str:
        rows = [index for group in chosen for index in group]
        origins = self.job.train.origins
        named = [origins[row] for row in rows] if origins else rows
        texts = [f"{self.job.texts[row][:40]!r}" for row in named[:3] if row < len(self.job.texts)]
        shown = f", the first being {', '.join(texts)}" if texts else ""
        return "training rows " + ", ".join(str(row + 1) for row in named) + shown

    def _report(self, result: StepResult, rate: float) -> dict[str, float]:
        at = self.at
        if at.step % self.job.options.steps_per_report and at.step != self.job.steps:
            return {}
        speed = (at.tokens - at.reported_tokens) / max(at.seconds - at.reported_seconds, 1e-9)
        at.train_loss, at.losses = sum(at.losses) / len(at.losses), []
        line = {"loss": at.train_loss, "grad_norm": result.grad_norm, "learning_rate": rate}
        at.reported_tokens, at.reported_seconds = at.tokens, at.seconds
        return line | {"tokens": at.tokens, "tokens_per_second": speed}

    def _validate(self) -> dict[str, float]:
        at, options = self.at, self.job.options
        if not self.job.validation.rows or (at.step % options.steps_per_eval and at.step != self.job.steps):
            return {}
        loss = self._mean_loss()
        if not math.isfinite(loss):
            raise Failure(f"The validation loss is not finite at step {at.step}.", hint=_MEND_FINITE)
        accuracy = self._accuracy()
        if at.best is None or (-(accuracy or 0.0), loss) < (-(at.best_accuracy or 0.0), at.best):
            at.best, at.best_accuracy, at.best_step, at.worse = loss, accuracy, at.step, 0
            self._save()
        else:
            at.worse += 1
        if self._out_of_patience():
            best = f"a loss of {at.best:.4f}" if at.best_accuracy is None else f"{at.best_accuracy:.1%} right"
            self.progress.say(
                f"Stopped after step {at.step}: {at.worse} measurements without one better than {best} at step "
                f"{at.best_step}."
            )
        return {"validation_loss": loss} | ({} if accuracy is None else {"validation_accuracy": accuracy})

    def _accuracy(self) -> float | None:
        """Measured by the first rank, and known to all."""
        if self.job.accuracy is None:
            return None
        found, full = 0.0, None
        if self.processes.rank == 0:
            try:
                found = self.job.accuracy(self.model)
            except OutOfMemory as error:
                full = error
        accuracy, fulls = self.processes.all_sum([found, float(full is not None)])
        if fulls:
            raise OutOfMemory("The validation rows do not fit into memory.", hint=FEWER_ROWS) from full
        return accuracy

    def _mean_loss(self) -> float:
        while True:
            try:
                return mean_loss(self.model, self.job, self.processes, self.at.halvings)
            except OutOfMemory:
                self._halve(max(len(group) for group in whole_batches(self.job.validation, self.job.size)))

    def _out_of_patience(self) -> bool:
        patience = self.job.options.patience
        return patience is not None and self.at.worse >= patience

    # what is written

    def _save(self) -> None:
        if self.writes:
            self.outputs.save()

    def _write(self, line: dict[str, float]) -> None:
        with self.outputs.metrics.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": self.at.step} | line) + "\n")
            log.flush()
            os.fsync(log.fileno())  # a checkpoint is never ahead of its log

    def _checkpoint(self) -> None:
        if self.outputs.checkpoints is not None and self.writes:
            self.outputs.checkpoints.save(self.at.step, self.model.training_state().tensors, asdict(self.at))

    def _resume(self) -> None:
        """Go on from the last checkpoint; what was logged after it is logged again."""
        found = self.outputs.checkpoints.latest() if self.outputs.checkpoints else None
        step = 0 if found is None else int(found[1]["step"])
        first = int(self.processes.all_sum([step if self.processes.rank == 0 else 0])[0])
        if step != first:
            raise Failure(
                f"This process finds the checkpoint of step {step}, the first one that of step {first}.",
                hint="All machines must see the same folder of runs.",
            )
        if found is not None:
            self.model.load_training_state(TrainingState(found[0]))
            self.at = Position(**found[1])
            self.progress.say(f"Goes on after step {step:,} of {self.job.steps:,}.")
        if self.writes:
            write_jsonl(self.outputs.metrics, _lines_until(self.outputs.metrics, step))


def _lines_until(metrics: Path, step: int) -> list[dict[str, Any]]:
    """The lines of a log up to a step, without one that was torn."""
    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines() if step and metrics.is_file() else []:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if values["step"] <= step:
            kept.append(values)
    return kept


def _step_groups(job: Job) -> Iterator[list[list[int]]]:
    """Batches of row indices, one list an optimizer step, epoch after epoch without end."""
    lengths = job.train.lengths()
    size, epoch = job.options.grad_accumulation_steps, 0
    while True:
        order = batch_order(lengths, job.size, job.seed, epoch)
        for start in range(0, len(order), size):
            yield order[start : start + size]
        epoch += 1
