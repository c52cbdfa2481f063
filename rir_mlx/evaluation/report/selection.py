"""Which of the measured values the report shows: bins with enough rows, ways of classifying that differ, the labels
that are recognised worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rir_mlx.evaluation.schema import CostPoint
from rir_mlx.statistics.intervals import Interval, wilson_interval
from rir_mlx.statistics.metrics import LabelMetrics, ReliabilityBin

BIN_ROWS = 40
"""Test rows that a bin of the reliability chart has at least: its interval is then some 30 points wide."""


@dataclass(frozen=True)
class Bin:
    """Rows of similar confidence: their mean confidence, and their accuracy with its interval."""

    confidence: float
    accuracy: Interval
    rows: int
    """Of all seeds."""


@dataclass(frozen=True)
class LabelLine:
    """The metrics of a label, and the interval of its recall."""

    metrics: LabelMetrics
    recall: Interval | None


def filled_bins(bins: Sequence[ReliabilityBin], seeds: int) -> list[Bin]:
    """Neighbouring bins joined until each holds `BIN_ROWS` test rows. Seeds share their rows, so they do not narrow the
    interval (Wilson)."""
    groups: list[list[ReliabilityBin]] = []
    for found in (found for found in bins if found.count):
        if groups and sum(each.count for each in groups[-1]) < BIN_ROWS * seeds:
            groups[-1].append(found)
        else:
            groups.append([found])
    if len(groups) > 1 and sum(each.count for each in groups[-1]) < BIN_ROWS * seeds:
        last = groups.pop()
        groups[-1].extend(last)
    return [_joined(group, seeds) for group in groups]


def _joined(group: Sequence[ReliabilityBin], seeds: int) -> Bin:
    count = sum(found.count for found in group)
    confidence = sum(found.confidence * found.count for found in group) / count
    accuracy = sum(found.accuracy * found.count for found in group) / count
    return Bin(confidence, wilson_interval(min(1.0, accuracy), max(1, round(count / seeds))), count)


def few_ways(curve: Sequence[CostPoint]) -> list[CostPoint]:
    """Never, below the fitted threshold, always, and with the most reasonings drawn: those of them that differ."""
    most = max((point.samples for point in curve), default=1)
    fitted = [point for point in curve if point.threshold is None and point.samples in (1, most)]
    kept: list[CostPoint] = []
    for point in sorted(fitted, key=lambda point: point.tokens_generated):
        if not any(_same(point, other) for other in kept):
            kept.append(point)
    return kept


def _same(point: CostPoint, other: CostPoint) -> bool:
    return (point.tokens_generated, point.accuracy) == (other.tokens_generated, other.accuracy)


def worst_first(labels: Sequence[LabelMetrics]) -> list[LabelLine]:
    """By F1, labels without test rows last."""
    ordered = sorted(labels, key=lambda label: (label.support == 0, label.f1))
    known = [wilson_interval(label.recall, label.support) if label.support else None for label in ordered]
    return [LabelLine(label, recall) for label, recall in zip(ordered, known, strict=True)]
