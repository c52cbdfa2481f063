"""Which classifier of a run to use, and why.

It is about the trained classifiers as they are, so the intervals cover the draw of test rows alone, corrected for how
many are compared. Which reasoning arm stands for all of them was chosen on validation rows before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rir_mlx.evaluation.comparison import accuracy, tokens_generated
from rir_mlx.evaluation.entries import EntryPredictions
from rir_mlx.evaluation.judgement.case import Case
from rir_mlx.progress import counted
from rir_mlx.statistics.intervals import Interval

_NAMES = {
    "tf-idf": "TF-IDF",
    "embedding": "the sentence encoder",
    "encoder": "the encoder",
    "untuned": "the untuned model",
}
_SAVINGS = {"untuned": "needs no training"}
_CHEAP = ("tf-idf", "embedding", "encoder", "untuned")
"""Baselines, the cheapest first. All are cheaper than a trained arm."""


@dataclass(frozen=True)
class Recommendation:
    """The name of an entry, None if none of them is worth using, and a sentence with the reason."""

    name: str | None
    text: str


def recommend(case: Case, chosen: str | None) -> Recommendation:
    """Of label-only, the reasoning arm `chosen` by the validation rows, and the baselines: the cheapest of those that
    are shown to beat the most frequent label, and than which no other one is shown to be better. If arms are shown to
    beat every baseline, it is one of them. Of arms that cost the same, the one with the higher validation accuracy."""
    if not len(case.rows.test) or not case.arms:
        return Recommendation(None, "")
    arms = [arm for arm in case.arms if arm.name in ("qa", chosen)]
    shown = [arm for arm in arms if case.learned([arm])]
    if not shown:
        return _without_an_arm(case, case.learned(arms))
    useful = [
        entry
        for entry in _usable(case)
        if case.learned([entry]) or any(case.is_better(arm, entry) for arm in shown)  # and so better than majority
    ]
    best_arms = [arm for arm in shown if all(case.is_better(entry, arm) for entry in _usable(case))]
    candidates = best_arms or [*useful, *shown]
    unbeaten = [
        entry
        for entry in candidates
        if not any(case.is_better(entry, other) for other in candidates if other is not entry)
    ]
    pick = min(unbeaten, key=_cost)
    rest = [arm for arm in arms if arm is not pick]
    why = _of_baseline(case, pick, rest) if pick.kind == "baseline" else _of_arm(case, pick, rest)
    return Recommendation(pick.name, f"Use {_NAMES.get(pick.name, pick.name)} ({_percent(case, pick)}): {why}")


def _usable(case: Case) -> list[EntryPredictions]:
    """The baselines that a person could use: not the most frequent label."""
    return [entry for entry in case.baselines if entry.name != "majority"]


def _percent(case: Case, entry: EntryPredictions) -> str:
    return f"{100 * accuracy(entry, case.rows):.1f} %"


def _best(case: Case, entries: Sequence[EntryPredictions]) -> EntryPredictions:
    return max(entries, key=lambda entry: accuracy(entry, case.rows))


def _cost(entry: EntryPredictions) -> tuple[int, int, float]:
    """What decides among candidates, the smallest first."""
    if entry.kind == "baseline":
        return _CHEAP.index(entry.name) if entry.name in _CHEAP else len(_CHEAP), 0, 0.0
    return len(_CHEAP) + 1, round(tokens_generated(entry)), -(entry.validation_accuracy or 0.0)


def _without_an_arm(case: Case, found: bool | None) -> Recommendation:
    """`found` is False if the arms learned nothing, None if the test rows cannot show it."""
    useful = [baseline for baseline in _usable(case) if case.learned([baseline])]
    if useful:
        best = _best(case, useful)
        until = "until an arm learns the task" if found is False else "until an arm is shown to have learned the task"
        return Recommendation(best.name, f"Use {_NAMES.get(best.name, best.name)} ({_percent(case, best)}) {until}.")
    if found is False:
        text = "Use none of these: none is shown to beat always answering the most frequent label."
        return Recommendation(None, text)
    rows = counted(int(case.rows.compared.sum()), "test row")
    text = f"No recommendation: {rows} cannot show that any of these beats always answering the most frequent label."
    return Recommendation(None, text)


def _of_baseline(case: Case, pick: EntryPredictions, arms: Sequence[EntryPredictions]) -> str:
    best = _best(case, arms)
    change, shown = case.difference(best, pick)
    if shown > 0:
        return f"it is {_points(change)} better than {best.name}."
    cheaper = f"{_NAMES.get(pick.name, pick.name)} {_SAVINGS.get(pick.name, 'is cheaper')}"
    return f"{best.name} ({_percent(case, best)}) is not shown to be better, and {cheaper}.{_reasons(case, arms)}"


def _of_arm(case: Case, pick: EntryPredictions, rest: Sequence[EntryPredictions]) -> str:
    if not rest:
        return "nothing that was measured is shown to be better."
    [other] = rest
    change, shown = case.difference(other, pick)
    if shown > 0:
        return f"its classifiers are {_points(change)} better than those of {other.name}."
    if _cost(pick) > _cost(other):
        every = _usable(case) and all(case.is_better(entry, pick) for entry in _usable(case))
        return f"unlike {other.name}, it is shown to beat {'every baseline' if every else 'the most frequent label'}."
    if round(tokens_generated(pick)) == round(tokens_generated(other)):
        if (pick.validation_accuracy or 0.0) > (other.validation_accuracy or 0.0):
            why = f"it costs no more than {other.name} to run, and its validation accuracy is higher."
        else:  # the same, or there are no validation rows
            why = f"{other.name} costs as much to run, and is not shown to be better."
        return f"{why}{_reasons(case, rest)}"
    return f"it is cheaper than {other.name}, which is not shown to be better.{_reasons(case, rest)}"


def _reasons(case: Case, arms: Sequence[EntryPredictions]) -> str:
    reasoning = [arm for arm in arms if arm.is_reasoning_arm]
    if not reasoning:
        return ""
    best = _best(case, reasoning)
    return f" If you want a reason with each label, use {best.name} ({_percent(case, best)})."


def _points(change: Interval) -> str:
    return f"{100 * change.value:.1f} points (95 % interval {100 * change.low:.1f} to {100 * change.high:.1f})"
