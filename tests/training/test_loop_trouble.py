"""What the training loop does where memory runs out, a loss is not finite, a rank differs, or a signal comes."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorder import HEAD, Hearing, Recorder, job_of, rows_of, run, seen

from rir_mlx.backends.base import (
    Batch,
    StepResult,
    TrainingState,
)
from rir_mlx.backends.fake import FakeModel
from rir_mlx.errors import Failure, OutOfMemory
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.progress import Silent
from rir_mlx.prompting.examples import TrainingExamples
from rir_mlx.training.checkpoints import Checkpoints
from rir_mlx.training.job import TrainingJob, TrainingOutputs
from rir_mlx.training.loop import mean_loss, train


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_step_and_rows(tmp_path: Path, loss: float) -> None:
    model, saved = Recorder(losses=[1.0, 1.0, 1.0, loss], validation=[2.0]), []
    with pytest.raises(Failure, match="not finite at step 4") as failed:
        run(model, job_of(20, 10, validation=2, batch_size=3, steps_per_eval=2, steps_per_report=1), tmp_path, saved)
    rows = failed.value.what.partition("training rows ")[2].partition(")")[0]
    assert sorted(int(row.removeprefix("train:")) for row in rows.split(", ")) == sorted(seen(model)[3])
    assert "learning_rate" in failed.value.hint
    assert saved == [2]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


class Small(Recorder):
    """Runs out of memory with more than `limit` rows in a batch."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def train_step(self, batches: Sequence[Batch], learning_rate: float, *, seed: int = 0) -> StepResult:
        if max(len(batch.tokens) for batch in batches) > self.rows:
            raise OutOfMemory("full")
        return super().train_step(batches, learning_rate, seed=seed)


def test_where_memory_runs_out_the_batches_are_halved(tmp_path: Path) -> None:
    """The same rows with the same weights, in smaller batches; said once, and kept for the steps that follow."""
    job, progress = job_of(24, 6, batch_size=8, grad_accumulation_steps=2), Hearing()
    whole, small = Recorder(), Small(3)
    run(whole, job, tmp_path)
    train(small, job, TrainingOutputs(tmp_path / "m", lambda: None), progress=progress)
    assert [sorted(step) for step in seen(small)] == [sorted(step) for step in seen(whole)]
    assert {len(batch.tokens) for step in small.steps for batch in step} <= {1, 2}
    sums = [[sum(float(batch.weights.sum()) for batch in step) for step in model.steps] for model in (whole, small)]
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-6)
    assert len(progress.warnings) == 2
    assert "at most 2 rows" in progress.warnings[-1]


def test_a_single_row_that_does_not_fit_is_a_failure_with_a_mend(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="a single row") as failed:
        run(Small(0), job_of(24, 6, batch_size=8), tmp_path)
    assert "grad_checkpoint" in failed.value.hint


def test_a_row_that_is_not_finite_is_named_by_its_text(tmp_path: Path) -> None:
    job = job_of(4, 5, batch_size=1, grad_accumulation_steps=1)
    rows = tuple(replace(row, text=f"text {number}") for number, row in enumerate(job.train.rows))
    examples = TrainingExamples(HEAD, rows)
    model = Recorder(losses=[math.nan])
    with pytest.raises(Failure) as failed:
        run(model, TrainingJob(examples, rows_of(0), job.options, 0, 5), tmp_path)
    row = seen(model)[0][0]
    assert f"training rows train:{row}, starting with 'text {row}'" in failed.value.what


class Others:
    """A process group whose other ranks give these numbers."""

    def __init__(self, rank: int, size: int, *gives: Sequence[float]) -> None:
        self.rank, self.size, self.gives = rank, size, list(gives)
        self.given: list[list[float]] = []

    def all_sum(self, values: Sequence[float]) -> list[float]:
        self.given.append(list(values))
        others = self.gives.pop(0) if self.gives else [0.0] * len(values)
        return [own + other for own, other in zip(values, others, strict=True)]


def test_a_rank_without_validation_rows_learns_the_loss_of_the_others() -> None:
    """Two batches for four ranks: the empty ranks gave integers, and got their sum cut off."""
    job = job_of(8, 1, validation=6, batch_size=3)
    processes = Others(3, 4, [2.75, 0.0])
    assert mean_loss(Recorder(), job, processes) == 2.75
    assert processes.given == [[0.0, 0.0]]
    assert all(isinstance(value, float) for value in processes.given[0])


def test_out_of_memory_on_another_rank_is_out_of_memory_here() -> None:
    with pytest.raises(OutOfMemory):
        mean_loss(Recorder(), job_of(8, 1, validation=6), Others(0, 2, [0.0, 1.0]))


def test_where_memory_runs_out_in_validation_the_batches_are_halved(tmp_path: Path) -> None:
    class Narrow(FakeModel):
        def loss(self, batch: Batch) -> float:
            if len(batch.tokens) > 2:
                raise OutOfMemory("full")
            return super().loss(batch)

    job, progress, ends = job_of(12, 4, validation=9, batch_size=4, steps_per_eval=2), Hearing(), []
    for model in (FakeModel(200), Narrow(200)):
        model.add_adapter(AdapterSpec(), seed=0)
        outputs = TrainingOutputs(tmp_path / "m", lambda: None)
        ends.append(train(model, job, outputs, progress=progress).validation_loss)
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)
    assert len(progress.warnings) == 1


def test_all_ranks_stop_where_one_was_asked_to(tmp_path: Path) -> None:
    """Otherwise the rank that continues waits for one that has gone, and loses what was not yet saved."""
    model, checkpoints = Recorder(), Checkpoints(tmp_path / "checkpoints", {})
    model.training_state = lambda: TrainingState({"w": np.zeros(1)})  # type: ignore[attr-defined]
    processes = Others(0, 2, [0.0], [10.0, 0.0], [10.0, 1.0])
    outputs = TrainingOutputs(tmp_path / "m", lambda: None, checkpoints)
    with pytest.raises(KeyboardInterrupt):
        train(model, job_of(20, 9), outputs, progress=Silent(), processes=processes)
    assert len(model.steps) == 2
    assert checkpoints.step() == 2


def test_an_interrupt_after_the_last_step_is_heard_too(tmp_path: Path) -> None:
    """While the last validation was measured, it was taken note of and forgotten: the next stage went on."""

    class Pressed(Recorder):
        weights = 0.0

        def training_state(self) -> TrainingState:
            return TrainingState({"steps": np.array([len(self.steps)])})

        def load_training_state(self, state: TrainingState) -> None:
            pass

        def loss(self, batch: Batch) -> float:
            if len(self.steps) == 6:
                os.kill(os.getpid(), signal.SIGINT)
            return super().loss(batch)

    checkpoints = Checkpoints(tmp_path / "checkpoints", {})
    outputs = TrainingOutputs(tmp_path / "m", lambda: None, checkpoints)
    job = job_of(8, 6, validation=2, steps_per_eval=3)
    with pytest.raises(KeyboardInterrupt):
        train(Pressed(), job, outputs, progress=Silent())
    assert checkpoints.step() == 6
    model = Pressed()
    assert train(model, job, outputs, progress=Silent()).steps == 6
    assert model.steps == []


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_rank_measures_the_accuracy_and_all_choose_by_it(tmp_path: Path, rank: int) -> None:
    class Pair(Others):
        """The other rank measures 0.75 where it is the first."""

        def all_sum(self, values: Sequence[float]) -> list[float]:
            asked.append(list(values))
            first, *rest = values
            return [first + (0.75 if len(asked) == 4 and rank == 1 else 0.0), *rest]

    asked: list[list[float]] = []
    model, measured = Recorder(), []

    def accuracy(_: Any) -> float:
        measured.append(rank)
        return 0.75

    job = replace(job_of(8, 1, validation=4), accuracy=accuracy)
    processes = Pair(rank, 2)
    outcome = train(model, job, TrainingOutputs(tmp_path / "m", lambda: None), progress=Silent(), processes=processes)
    assert outcome.validation_accuracy == 0.75
    assert measured == [0] * (rank == 0)
