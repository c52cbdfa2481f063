"""Accuracy against training rows: whether more labels would help, and more than reasonings do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rir_mlx.evaluation.schema import CurvePoint, EntryResult, LearningCurve
from rir_mlx.statistics.intervals import Interval, rows_interval, share_interval
from rir_mlx.statistics.paired_tests import PairedComparison

_USEFUL = 0.02
"""A gain from twice the labels below which they are hardly worth the work."""
OF_TWO = "With one seed, that is about these two classifiers."
"""The interval covers the test rows: another seed alone may change an accuracy by points (simulated without any gain,
28 to 39 % of curves with 2,000 test rows show one where seeds vary by 2 to 4 points)."""


def learning_curve(
    arm: str, seed: int, correct: Mapping[int, NDArray[np.bool_]], entries: Sequence[EntryResult] = ()
) -> LearningCurve:
    """From whether the test rows are classified correctly, [rows] by the number of training rows, two or more. With
    `entries`, the conclusion also says what reasonings did: they are those of arms that have learned."""
    sizes = sorted(correct)
    points = [CurvePoint(rows=size, accuracy=share_interval(correct[size][None])) for size in sizes]
    few, all_rows = (correct[size].astype(np.float64)[None] for size in sizes[-2:])
    gain = rows_interval(all_rows - few)
    text = conclusion(arm, (sizes[-2], sizes[-1]), gain, _best_reasoning(entries))
    return LearningCurve(arm=arm, seed=seed, points=points, gain=gain, text=text)


def _best_reasoning(entries: Sequence[EntryResult]) -> PairedComparison | None:
    """That of the reasoning arm that gained most on label-only."""
    gains = [entry.against for entry in entries if entry.kind == "arm" and entry.against]
    return max(gains, key=lambda found: found.difference.value, default=None)


def conclusion(arm: str, sizes: tuple[int, int], gain: Interval, reasoning: PairedComparison | None) -> str:
    """Whether more labels would help, in a sentence or two. `gain` is that of the larger of the two sizes, `reasoning`
    compares an arm with label-only."""
    measured = f"From {sizes[0]:,} to {sizes[1]:,} training rows, {arm} changed by {_points(gain)} (one seed)"
    if gain.low > 0:
        found = f"{measured}. {OF_TWO} More labels may help."
    elif gain.high < 0:
        found = f"{measured}. {OF_TWO} The seed, chance or rows of another kind can do that: more labels may not help."
    elif gain.high < _USEFUL:
        found = f"{measured}. {OF_TWO} More labels may hardly help."
    else:
        found = f"{measured}: whether more labels would help is unclear."
    return found if reasoning is None else f"{found} {_of_reasonings(gain, reasoning)}"


def _of_reasonings(gain: Interval, reasoning: PairedComparison) -> str:
    """What they did, beside what labels did. With fewer than three seeds it is about the classifiers of the run."""
    change = reasoning.difference
    if change.high < 0:
        than = "which did not help"
    elif gain.low > change.high:
        than = "less than the labels"
    elif change.low > max(0.0, gain.high):
        than = "more than the labels"
    else:
        than = "and which of the two helps more is unclear"
    if reasoning.judges_training:
        return f"Reasonings ({reasoning.second}) changed it by {_points(change)}, {than}."
    against = f"{_points(change)} against {reasoning.first}, {than}"
    if (seeds := len(reasoning.by_seed)) > 1:
        return f"These {seeds} {reasoning.second} classifiers have {against}; {seeds} seeds prove no more."
    return f"This {reasoning.second} classifier has {against}; one seed proves no more."


def _points(change: Interval) -> str:
    return f"{100 * change.value:+.1f} points (95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f})"
