"""What a pilot's comparison says about the whole run, in words that claim no more than was measured."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rir_mlx.evaluation.judgement.case import USEFUL
from rir_mlx.evaluation.judgement.headline import leaves_learning_open
from rir_mlx.evaluation.schema import Comparison, EntryResult
from rir_mlx.progress import counted
from rir_mlx.statistics.intervals import LEVEL, Interval
from rir_mlx.statistics.paired_tests import PairedComparison, mcnemar
from rir_mlx.training.cost import duration
from rir_mlx.types import CONTROLS

Expectation = Literal["helps", "leans to helping", "open", "too small", "leans to hurting", "hurts", "not learned"]
"""What the whole run will probably find about reasoning."""

_LEANS = 0.03
"""A difference in accuracy from which a pilot leans to one side."""
_MANY_MORE = 2
"""From so many times the pilot's rows on, the whole run's rows may change the answer."""
_SAID: dict[Expectation, str] = {
    "helps": "Reasoning will probably help in the whole run.",
    "leans to helping": "Reasoning may help in the whole run; the pilot is too small to show it.",
    "open": "The pilot shows no difference: the whole run will probably show none, or a small one.",
    "too small": "The pilot is too small to tell whether reasoning helps or hurts.",
    "leans to hurting": "Reasoning may hurt in the whole run; the pilot is too small to show it.",
    "hurts": "Reasoning will probably hurt in the whole run.",
    "not learned": "The pilot's arms did not learn the task well enough, so it says nothing about reasoning.",
}
_AS_MUCH = (
    "The arm gains in the pilot, and about as much with other rows' reasonings: the pilot cannot tell whether what "
    "they say counts."
)
"""Said of `too small` where the arm gains."""
_NO_MORE = "The arm gains in the pilot, but less than with other rows' reasonings: what they say is not what counts."
"""Said of `open` where the control is shown to gain more."""
_NOT_SHOWN = (
    "The arm gains in the pilot, and is not shown to gain more than with other rows' reasonings. Reasoning may help in "
    "the whole run."
)
"""Said of `leans to helping` where the interval alone would have said more."""
_TOO_FEW = "The pilot's rows do not show whether an arm learned the task, so it says nothing about reasoning."
"""Said of `not learned` where that is open."""
_IF_AHEAD = "Reasoning will probably help in the whole run, unless label-only catches up with its many more rows."
"""Said of `helps` where the whole run has many more rows."""
_HEAD_START = (
    "The arm gains in the pilot, but label-only is shown to be worse than TF-IDF there: it has not learned what the "
    "rows allow, and may catch up in the whole run. Reasoning may help there, or not."
)
"""The same, where label-only is behind TF-IDF."""
_STILL_LEARNING = (
    "The arm loses in the pilot, but its loss was still falling at the end: it may catch up in the whole run. "
    "Reasoning may hurt there, or not."
)
"""Said instead of `hurts` where the arm was trained too briefly."""
_BOTH_BEHIND = (
    "The arm loses in the pilot, but label-only is shown to be worse than TF-IDF there: neither has learned what the "
    "rows allow. Reasoning may hurt in the whole run, or not."
)
"""The same, where label-only is behind TF-IDF."""


@dataclass(frozen=True)
class Outlook:
    """What a pilot says.

    expectation  what the whole run will probably find about reasoning
    text         the same in words
    signals      what it rests on, a sentence each
    cost         what the whole run takes, in words; empty if it is done or cannot be estimated
    comparison   what the pilot measured
    """

    expectation: Expectation
    text: str
    signals: tuple[str, ...]
    cost: str
    comparison: Comparison

    def as_dict(self) -> dict[str, Any]:
        """For `--json`, with the pilot's accuracies."""
        return {
            "expectation": self.expectation,
            "text": self.text,
            "signals": list(self.signals),
            "warnings": list(self.comparison.warnings),
            "cost": self.cost,
            "accuracy": {entry.name: entry.metrics.accuracy.value for entry in self.comparison.entries},
        }


def outlook(
    comparison: Comparison,
    seconds: float | None,
    unknown: Sequence[str] = (),
    rows: int = 0,
    falling: Container[str] = (),
) -> Outlook:
    """From a pilot's comparison. `seconds` is the estimate for the whole run, None if there is none; `unknown` are its
    stages whose time depends on a server; `rows` its training rows; `falling` the pilot's arms whose loss was still
    falling at the end."""
    expected, text = _expectation(comparison, falling)
    if expected == "helps" and rows >= _MANY_MORE * comparison.rows.train:
        text = _IF_AHEAD
    cost = ""
    if seconds is not None:
        beside = f", and {', '.join(unknown)}, which depends on a server" if unknown else ""
        cost = f"The whole run takes about {duration(seconds)}{beside}."
    return Outlook(expected, text, (*_signals(comparison), *_of_rows(comparison, rows)), cost, comparison)


def _expectation(comparison: Comparison, falling: Container[str]) -> tuple[Expectation, str]:
    """With its words."""
    arm, headline = _against(_reasoning_arm(comparison)), comparison.headline
    if headline is not None and leaves_learning_open(headline):
        return "not learned", _TOO_FEW
    if arm is None or (headline is not None and headline.finding == "failed"):
        return "not learned", _SAID["not learned"]
    expected, text = beside_control(arm, _against(_control(comparison)))
    if expected == "helps" and _label_only_is_behind(comparison):
        return "leans to helping", _HEAD_START
    if expected == "hurts" and arm.second in falling:
        return "leans to hurting", _STILL_LEARNING
    if expected == "hurts" and _label_only_is_behind(comparison):
        return "leans to hurting", _BOTH_BEHIND
    if expected == "open" and text == _SAID["open"] and _label_only_is_behind(comparison):
        return "too small", _SAID["too small"]
    return expected, text


def beside_control(arm: PairedComparison, control: PairedComparison | None) -> tuple[Expectation, str]:
    """What the differences that the arm and a control make say of the whole run, with its words."""
    change, by_chance = arm.difference, control.difference.value if control is not None else 0.0
    expected, gains = _of_interval(change, by_chance), change.low > 0 or change.value >= _LEANS
    if control is not None and gains:
        ahead = _ahead(arm, control)
        if ahead < 0:
            return "open", _NO_MORE
        if ahead == 0 and change.value - by_chance < _LEANS:
            return "too small", _AS_MUCH
        if ahead == 0 and expected == "helps":
            return "leans to helping", _NOT_SHOWN
    return expected, _SAID[expected]


def _ahead(arm: PairedComparison, control: PairedComparison) -> int:
    """Whether the arm is shown to be better (1) or worse (-1) than the control, or neither (0).

    Both are compared with label-only, not with each other. So it is McNemar's test of the rows on which either differs
    from label-only, as if they were different rows: where they are the same, more would be shown."""
    mine, others = arm.by_seed[0], control.by_seed[0]
    ahead, behind = mine.gained + others.lost, mine.lost + others.gained
    return int(np.sign(ahead - behind)) if mcnemar(ahead, behind) < 1 - LEVEL else 0


def _label_only_is_behind(comparison: Comparison) -> bool:
    """Whether TF-IDF is shown to beat label-only: what an arm gains on that may be a head start. On 300 of 14,000
    tweets `qra` was 14 points ahead of a label-only that had hardly begun to learn; the whole run found it behind."""
    entry = next((entry for entry in comparison.entries if entry.name == "tf-idf"), None)
    return entry is not None and entry.against is not None and entry.against.difference.low > 0


def _against(entry: EntryResult | None) -> PairedComparison | None:
    """The comparison with label-only, if there is one."""
    return None if entry is None else entry.against


def _of_interval(change: Interval, by_chance: float) -> Expectation:
    """From the difference that reasoning made, and the one that the control made."""
    if change.low > 0 and change.value > by_chance:
        return "helps"
    if change.high < 0:
        return "hurts"
    if change.value >= _LEANS and change.value > by_chance:
        return "leans to helping"
    if change.value <= -_LEANS:
        return "leans to hurting"
    return "open" if change.low > -USEFUL and change.high < USEFUL else "too small"


def _reasoning_arm(comparison: Comparison) -> EntryResult | None:
    return next((entry for entry in comparison.entries if entry.kind == "arm" and entry.name != "qa"), None)


def _control(comparison: Comparison) -> EntryResult | None:
    return next((entry for entry in comparison.entries if entry.name in CONTROLS), None)


def _signals(comparison: Comparison) -> Iterator[str]:
    rows, arm, control = comparison.rows, _reasoning_arm(comparison), _control(comparison)
    few = min((label.support for entry in comparison.entries[:1] for label in entry.per_class or ()), default=0)
    yield (
        f"{counted(rows.train, 'training row')}, {len(comparison.labels)} labels; measured on "
        f"{counted(rows.test, 'row')}, at least {few} of each label, with one seed."
    )
    if arm is not None and arm.against is not None:
        yield f"{arm.name} against qa: {_points(arm.against.difference)}."
        if control is not None and control.against is not None:
            means = _beside_control(arm.against, control.against)
            yield f"With other rows' reasonings ({control.name}): {_points(control.against.difference)}, {means}."
    yield from _of_reasonings(comparison.augmentation or {})
    if comparison.learning_curve is not None:
        yield comparison.learning_curve.text


def _beside_control(arm: PairedComparison, control: PairedComparison) -> str:
    match _ahead(arm, control):
        case 1:
            return "less: what they say counts"
        case -1:
            return "more: what they say is not what counts"
    apart = arm.difference.value - control.difference.value
    amount = "about as much" if abs(apart) < _LEANS else "less" if apart > 0 else "more"
    return f"{amount}, and the pilot cannot tell whether what they say counts"


def _of_reasonings(stats: dict[str, Any]) -> Iterator[str]:
    """Leakage, and mutual information where it was measured."""
    train, leak = stats.get("train"), stats.get("leakage") or {}
    if train:
        yield f"R-Gen's reasonings passed the filters in {train['kept']:,} of {counted(train['rows'], 'row')}."
    if masked := leak.get("without_label_words"):
        yield (
            f"From a reasoning alone, its label words blanked out, the label can be predicted in "
            f"{100 * masked['value']:.0f} % (the most frequent label: {100 * leak['majority']:.0f} %)."
        )
    if by_label := (stats.get("mutual_information") or {}).get("by_label"):
        medians = [found["median"] for found in by_label.values()]
        yield (
            f"Mutual information of reasoning and text: {np.median(medians):.1f} nats (median over labels, the lowest "
            f"{min(medians):.1f}); about 0 says nothing of the text."
        )


def _of_rows(comparison: Comparison, rows: int) -> Iterator[str]:
    """That the whole run has many more rows."""
    if rows >= _MANY_MORE * comparison.rows.train:
        yield (
            f"The whole run trains on {rows:,} rows, {rows / comparison.rows.train:.3g} times as many: with more rows "
            "label-only often catches up."
        )


def _points(change: Interval) -> str:
    return f"{100 * change.value:+.1f} points (95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f})"
