"""A training job: its rows and options, the rows of each step, and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rir_mlx.backends.base import Batch, Model
from rir_mlx.prompting.batches import BatchSize, LossWeights, batch_order, step_batches
from rir_mlx.prompting.examples import TrainingExamples
from rir_mlx.recipe.schema import TrainingSection
from rir_mlx.training.checkpoints import Checkpoints

DEFAULT_EPOCHS = 2.0


@dataclass(frozen=True)
class TrainingJob:
    """What to train on. `steps` overrides the options, so that all arms take the same number. `accuracy`, if given,
    measures the model as it will be used: the best weights are then those with the highest accuracy, and of equals the
    lowest loss. `curriculum` are the shares of the steps between which the reasonings are dropped token by token, from
    their starts. `name` appears in progress lines and messages."""

    train: TrainingExamples
    validation: TrainingExamples
    options: TrainingSection
    seed: int
    steps: int
    weights: LossWeights = field(default_factory=LossWeights)
    accuracy: Callable[[Model], float] | None = None
    curriculum: tuple[float, float] | None = None
    name: str = "training"

    @property
    def size(self) -> BatchSize:
        return BatchSize(self.options.batch_size, self.options.batch_tokens)

    def dropped(self, step: int) -> float:
        """The share of every reasoning that step 0 … steps-1 leaves out. It depends on the step alone, so that a
        training that resumes goes on with it."""
        if self.curriculum is None:
            return 0.0
        begin, end = self.curriculum
        done = step / (self.steps - 1) if self.steps > 1 else 1.0
        return min(1.0, max(0.0, done - begin) / (end - begin)) if done < end else 1.0

    def settled(self, steps: int) -> bool:
        """Whether after so many steps rows are learned as in the end. Before that, patience does not count."""
        return self.dropped(steps - 1) == self.dropped(self.steps - 1)

    def batches(
        self,
        examples: TrainingExamples,
        groups: Sequence[Sequence[int]],
        mine: Sequence[Sequence[int]] | None = None,
        *,
        step: int | None = None,
    ) -> list[Batch]:
        """The batches of a step; without one, as they are learned in the end."""
        return step_batches(
            examples,
            groups,
            mine=mine,
            weights=replace(self.weights, dropped=self.dropped(self.steps - 1 if step is None else step)),
            shared_prefix=self.options.shared_prefix,
        )


@dataclass(frozen=True)
class TrainingOutputs:
    """Where a training writes. `save` keeps the current weights as the best so far."""

    metrics: Path
    save: Callable[[], None]
    checkpoints: Checkpoints | None = None


@dataclass(frozen=True)
class TrainingOutcome:
    """What training did. `patience` may have ended it before the `planned` steps. `tokens` counts those processed on
    all ranks. Losses are the mean over the last report and the best on validation rows (None without such rows)."""

    steps: int
    planned: int
    best_step: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    tokens: int
    seconds: float


@dataclass
class LoopState:
    """The progress of a training: what a checkpoint holds besides the tensors."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_accuracy: float | None = None
    best_step: int = 0
    worse: int = 0
    """Validations since the best one."""
    train_loss: float = 0.0
    """Mean over the last report."""
    losses: list[float] = field(default_factory=list)
    """Losses of the steps since then."""
    reported_tokens: int = 0
    reported_seconds: float = 0.0
    halvings: int = 0
    """Number of times the batches were halved after running out of memory."""


def steps_for(examples: TrainingExamples, options: TrainingSection, *, rows: int | None = None, seed: int = 0) -> int:
    """The number of optimizer steps that the options give for these examples, or for `rows` rows."""
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
    """The rate of step 0 … steps-1: a linear warm-up to the peak, then the schedule, which ends near 0."""
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


def step_groups(job: TrainingJob) -> Iterator[list[list[int]]]:
    """The batches of row indices for each optimizer step, epoch after epoch, without end."""
    lengths = job.train.lengths()
    size, epoch = job.options.grad_accumulation_steps, 0
    while True:
        order = batch_order(lengths, job.size, job.seed, epoch)
        for start in range(0, len(order), size):
            yield order[start : start + size]
        epoch += 1
