"""The one training loop. Both frameworks run it; neither is imported here. It knows no limit of
lengths: `RecipeModel.load_to_train` refuses too long a `max_seq_length` before, and every backend too long a row.

The seed and the step number determine everything random in a step: its rows and its dropout. So a checkpoint holds the
backend's tensors and the loop's state, and a training resumed from it ends with the same weights.
"""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from rir_mlx.backends.base import (
    FEWER_ROWS,
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
    halved,
    share_of,
    whole_batches,
)
from rir_mlx.storage.atomic import failure_to_write, write_jsonl
from rir_mlx.training.job import LoopState, TrainingJob, TrainingOutcome, TrainingOutputs, learning_rate_at, step_groups
from rir_mlx.training.trackers import Reporting, open_reporting

_HINT_FINITE = "Start again with --force and a lower learning_rate, or with dtype float32."
_NAMED = 3
"""Rows whose texts a message quotes."""


def train(
    model: Model,
    job: TrainingJob,
    outputs: TrainingOutputs,
    *,
    progress: Progress,
    processes: ProcessGroup | None = None,
) -> TrainingOutcome:
    """Run the job's steps, resuming from the last checkpoint if there is one. Calls `outputs.save` whenever the weights
    are the best so far, and at the end if there are no validation rows.

    Raises Failure if a loss is not finite, naming the step and its rows; earlier weights and checkpoints are kept. On
    Ctrl-C it finishes the step, writes a checkpoint, and raises KeyboardInterrupt.
    """
    if not job.train.rows:
        raise UserError("There are no rows to train on.")
    return _Loop(model, job, outputs, progress, processes or SingleProcess()).run()


def mean_loss(model: Model, job: TrainingJob, processes: ProcessGroup | None = None, halvings: int = 0) -> float:
    """The loss over all validation rows, weighted as in training: the mean over each kind of token.

    Raises OutOfMemory on all ranks if the batches of one of them do not fit."""
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
    def __init__(
        self, model: Model, job: TrainingJob, outputs: TrainingOutputs, progress: Progress, processes: ProcessGroup
    ) -> None:
        self.model, self.job, self.outputs, self.progress, self.processes = model, job, outputs, progress, processes
        self.at = LoopState()
        self.writes = processes.rank == 0
        self.processed = 0

    def run(self) -> TrainingOutcome:
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
                self.progress.task(self.job.name, self.job.steps, self.at.step) as task,
            ):
                self._steps(interrupts, reporting, task)
        finally:
            reporting.close()
        if not self.job.validation.rows:
            self.at.best_step = self.at.step
            self._save()
        return TrainingOutcome(
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
        groups = islice(step_groups(self.job), self.at.step, None)
        while self.at.step < self.job.steps and not self._out_of_patience():
            started = time.perf_counter()
            result, rate = self._step(next(groups))
            stop = self._count(interrupts)
            self.at.step += 1
            self.at.seconds += time.perf_counter() - started
            line = self._report(result, rate) | self._validate()
            if line and self.writes:
                self._write(line)
                reporting.log(self.at.step, line)
            task.advance(1, **{key: line[key] for key in ("loss", "tokens_per_second") if key in line})
            # A new best is saved together with a checkpoint, so that both survive a kill.
            if self.at.step % self.job.options.save_every == 0 or self.at.best_step == self.at.step or stop:
                self._checkpoint()
            if stop:
                raise KeyboardInterrupt
        if self.processes.all_sum([float(interrupts.asked)])[0]:  # after the last step was counted
            self._checkpoint()
            raise KeyboardInterrupt

    def _step(self, chosen: Sequence[Sequence[int]]) -> tuple[StepResult, float]:
        """Run the next optimizer step, in batches small enough for the memory."""
        at, job, processes = self.at, self.job, self.processes
        rate = learning_rate_at(at.step, job.steps, job.options)
        seed = zlib.crc32(f"{job.seed} {at.step} {processes.rank}".encode())
        while True:
            mine = halved(share_of(chosen, processes.rank, processes.size), at.halvings)
            batches = job.batches(job.train, chosen, mine, step=at.step)
            try:
                result = self.model.train_step(batches, rate, seed=seed)
                break
            except OutOfMemory:
                self._halve(max(len(group) for group in chosen))
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            raise Failure(
                f"The loss is not finite at step {at.step + 1} ({self._named(chosen)}). Earlier checkpoints are kept.",
                hint=_HINT_FINITE,
            )
        at.losses.append(result.loss)
        self.processed = sum(batch.processed for batch in batches)
        return result, rate

    def _count(self, interrupts: Interrupts) -> bool:
        """Add up the step's tokens over all ranks. True if any rank was asked to stop: then all of them do."""
        tokens, asked = self.processes.all_sum([self.processed, float(interrupts.asked)])
        self.at.tokens += int(tokens)
        return asked > 0

    def _halve(self, rows: int) -> None:
        if 2**self.at.halvings >= rows:
            raise OutOfMemory(
                "There is not enough memory for a single row.",
                hint="Lower max_seq_length, set grad_checkpoint to true, or use a smaller model.",
            )
        self.at.halvings += 1
        left = math.ceil(rows / 2**self.at.halvings)
        self.progress.warn(
            f"Memory ran out at step {self.at.step + 1}. From here each batch has at most {left} rows, with "
            f"{2**self.at.halvings} times as many batches per step. The optimizer step stays the same."
        )

    def _named(self, chosen: Sequence[Sequence[int]]) -> str:
        rows = [self.job.train.rows[index] for group in chosen for index in group]
        texts = [f"{row.text[:40]!r}" for row in rows[:_NAMED] if row.text]
        shown = f", starting with {', '.join(texts)}" if texts else ""
        return "training rows " + ", ".join(row.id for row in rows) + shown

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
            raise Failure(f"The validation loss is not finite at step {at.step}.", hint=_HINT_FINITE)
        accuracy = self._accuracy()
        if at.best is None or (-(accuracy or 0.0), loss) < (-(at.best_accuracy or 0.0), at.best):
            at.best, at.best_accuracy, at.best_step, at.worse = loss, accuracy, at.step, 0
            self._save()
        elif self.job.settled(at.step):
            at.worse += 1
        if self._out_of_patience():
            best = f"a loss of {at.best:.4f}" if at.best_accuracy is None else f"{at.best_accuracy:.1%} correct"
            self.progress.say(
                f"Stopped after step {at.step}: {at.worse} validations without improving on {best} at step "
                f"{at.best_step}."
            )
        return {"validation_loss": loss} | ({} if accuracy is None else {"validation_accuracy": accuracy})

    def _accuracy(self) -> float | None:
        """Measured on the first rank and shared with all."""
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

    def _save(self) -> None:
        if self.writes:
            self.outputs.save()

    def _write(self, line: dict[str, float]) -> None:
        path = self.outputs.metrics
        with failure_to_write(path), path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": self.at.step} | line) + "\n")
            log.flush()
            os.fsync(log.fileno())  # the log is never behind a checkpoint

    def _checkpoint(self) -> None:
        if self.outputs.checkpoints is not None and self.writes:
            self.outputs.checkpoints.save(self.at.step, self.model.training_state().tensors, asdict(self.at))

    def _resume(self) -> None:
        """Resume from the last checkpoint. Drops log lines written after it: those steps run again."""
        found = self.outputs.checkpoints.latest() if self.outputs.checkpoints else None
        step = 0 if found is None else int(found[1]["step"])
        first = int(self.processes.all_sum([step if self.processes.rank == 0 else 0])[0])
        if step != first:
            raise Failure(
                f"This process found a checkpoint of step {step}, but the first process found step {first}.",
                hint="All machines must see the same runs folder.",
            )
        if found is not None:
            self.model.load_training_state(TrainingState(found[0]))
            self.at = LoopState(**found[1])
            self.progress.say(f"Resuming from step {step:,} of {self.job.steps:,}.")
        if self.writes:
            write_jsonl(self.outputs.metrics, logged_lines(self.outputs.metrics, step) if step else [])


def logged_lines(metrics: Path, until: int | None = None) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, up to a step if one is given; none if there is no such file. Skips a line that was
    cut off or damaged."""
    kept = []
    for line in metrics.read_bytes().splitlines() if metrics.is_file() else []:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and "step" in values and (until is None or values["step"] <= until):
            kept.append(values)
    return kept
