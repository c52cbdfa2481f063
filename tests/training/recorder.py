"""A model that only writes down what it is asked to do, rows that can be told apart, and a job made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rir_mlx.backends.base import (
    PLAIN,
    Batch,
    Execution,
    OptimizerSpec,
    StepResult,
)
from rir_mlx.progress import Silent
from rir_mlx.prompting.examples import TrainingExample, TrainingExamples
from rir_mlx.recipe.schema import TrainingSection
from rir_mlx.training.job import TrainingJob, TrainingOutcome, TrainingOutputs
from rir_mlx.training.loop import train

HEAD = tuple(range(16))
"""The shortest prefix that is worth running apart."""


class Recorder:
    """Remembers batches and rates. Its losses are given; where there are no more, the last one stays."""

    parameters = 0

    def __init__(self, losses: Sequence[float] = (1.0,), validation: Sequence[float] = (1.0,)) -> None:
        self.losses, self.validation = list(losses), list(validation)
        self.steps: list[list[Batch]] = []
        self.rates: list[float] = []
        self.measured = 0
        self.seeds: list[int] = []
        self.optimizer: OptimizerSpec | None = None

    def configure_optimizer(self, spec: OptimizerSpec, execution: Execution = PLAIN) -> None:
        self.optimizer, self.execution = spec, execution

    def train_step(self, batches: Sequence[Batch], learning_rate: float, *, seed: int = 0) -> StepResult:
        self.seeds.append(seed)
        self.steps.append(list(batches))
        self.rates.append(learning_rate)
        return StepResult(self.losses[min(len(self.steps), len(self.losses)) - 1], 0.5)

    def loss(self, batch: Batch) -> float:
        self.measured += 1
        return self.validation[min(self.measured, len(self.validation)) - 1]


def rows_of(count: int) -> TrainingExamples:
    """Rows that can be told by their first token, of different lengths."""
    return TrainingExamples(
        HEAD, tuple(TrainingExample((100 + i,) + (3,) * (i % 7), (4,), (5, 6), id=f"train:{i}") for i in range(count))
    )


def job_of(rows: int, steps: int, validation: int = 0, **options: Any) -> TrainingJob:
    return TrainingJob(rows_of(rows), rows_of(validation), TrainingSection(**options), seed=0, steps=steps)


def logged(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a training, without its speed."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


def run(
    model: Any, job: TrainingJob, folder: Path, saved: list[int] | None = None
) -> tuple[TrainingOutcome, list[dict[str, Any]]]:
    path = folder / "metrics.jsonl"

    def save() -> None:
        if saved is not None:
            saved.append(len(model.steps))

    outcome = train(model, job, TrainingOutputs(path, save), progress=Silent())
    return outcome, [json.loads(line) for line in path.read_text().splitlines()]


def seen(model: Recorder) -> list[list[int]]:
    """Per step, the rows that it trained."""
    return [[int(row[row >= 100][0]) - 100 for batch in step for row in batch.tokens] for step in model.steps]


class Hearing(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)
