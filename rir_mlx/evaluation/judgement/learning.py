"""Signs in the numbers of a training: it ended too early, it overfits, or its seeds end far apart.

Reads the lines of `metrics.jsonl` (`training.loop`) as dictionaries; knows no file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rir_mlx.statistics.intervals import FloatArray, row_variances

Lines = Sequence[Mapping[str, Any]]
"""The lines of one training's metrics.jsonl."""

_SHARE, _LEAST = 0.05, 0.03
"""A loss has fallen or risen if it did so by this share of itself, and by so many nats."""
_LEFT = 0.1
"""A training loss below so many nats leaves nothing to be gained by more steps."""
_LATE = 0.75
"""The last quarter of the steps is the end of a training."""
_FAR_APART, _P = 0.05, 0.01
"""Seeds are unstable if their accuracies differ by 5 points or more, and rows alone do that once in a hundred times."""


@dataclass(frozen=True)
class Change:
    """How a loss changed between two steps."""

    what: str
    """`training loss` or `validation loss`."""
    first: float
    last: float
    first_step: int
    last_step: int


@dataclass(frozen=True)
class Spread:
    """The lowest and the highest accuracy among the seeds of an entry."""

    low: float
    high: float

    @property
    def points(self) -> float:
        return 100 * (self.high - self.low)


def still_falling(lines: Lines) -> Change | None:
    """How the loss fell in the last quarter of the steps; None if it did not, or cannot be told.

    With two validations or more, it is the validation loss, which must be at its lowest at the end. Else it is the
    training loss, which is an average over the steps since the line before."""
    held = _points(lines, "validation_loss")
    if len(held) > 1:
        (last_step, last), before = held[-1], held[:-1]
        earlier = [point for point in before if point[0] <= _LATE * last_step] or before[:1]
        first_step, first = min(earlier, key=lambda point: point[1])
        change = Change("validation loss", first, last, first_step, last_step)
        return change if last <= min(loss for _, loss in before) and _fell(first, last) else None
    losses = _points(lines, "loss")
    if len(losses) < 2:
        return None
    first_step, first, last = _ends(losses)
    change = Change("training loss", first, last, first_step, losses[-1][0])
    return change if last > _LEFT and _fell(first, last) else None


def overfitted(lines: Lines) -> Change | None:
    """How the validation loss rose from its lowest value to the end; None if it did not."""
    held = _points(lines, "validation_loss")
    if len(held) < 2:
        return None
    (lowest_step, lowest), (last_step, last) = min(held, key=lambda point: point[1]), held[-1]
    return Change("validation loss", lowest, last, lowest_step, last_step) if _fell(last, lowest) else None


def accuracy_kept_up(lines: Lines, change: Change) -> bool:
    """Whether the validation accuracy at the end is at least that of the step from which the loss rose."""
    found = dict(_points(lines, "validation_accuracy"))
    if change.first_step not in found or change.last_step not in found:
        return False
    return found[change.last_step] >= found[change.first_step]


def unstable(correct: FloatArray) -> Spread | None:
    """`correct` [seeds, rows], 0 or 1 → how far apart the seeds end, if that is more than the draw of the test rows
    makes of equal classifiers (a chi-squared test of the seeds' accuracies, whose errors the shared rows correlate)."""
    from scipy.special import chdtrc

    seeds, rows = correct.shape
    if seeds < 2 or rows < 2:
        return None
    values = correct.mean(1)
    low, high = float(values.min()), float(values.max())
    if high - low < _FAR_APART:
        return None
    own, shared = row_variances(np.cov(correct) / rows)
    noise = own - shared
    statistic = float(((values - values.mean()) ** 2).sum()) / noise if noise > 0 else math.inf
    return Spread(low, high) if chdtrc(seeds - 1, statistic) < _P else None


def _points(lines: Lines, key: str) -> list[tuple[int, float]]:
    return [(int(line["step"]), float(line[key])) for line in lines if key in line]


def _fell(first: float, last: float) -> bool:
    return first - last >= max(_SHARE * abs(first), _LEAST)


def _ends(losses: Sequence[tuple[int, float]]) -> tuple[int, float, float]:
    """The mean training loss of the last quarter of the steps and of the quarter before, weighted by the steps that
    each covers, and the step that separates them. Where a quarter has no line, the nearest line stands for it."""
    last_step = losses[-1][0]
    starts = [0, *(step for step, _ in losses[:-1])]
    covered = [(step, loss, step - start) for (step, loss), start in zip(losses, starts, strict=True)]
    late = [point for point in covered[1:] if point[0] > _LATE * last_step] or covered[-1:]
    rest = covered[: len(covered) - len(late)]
    before = [point for point in rest if point[0] > (2 * _LATE - 1) * last_step] or rest[-1:]

    def mean(points: Sequence[tuple[int, float, int]]) -> float:
        return sum(loss * steps for _, loss, steps in points) / sum(steps for *_, steps in points)

    return before[-1][0], mean(before), mean(late)
