"""Which classifier of a run to use, and why.

It is about the trained classifiers as they are, so the intervals cover the draw of test rows alone, corrected for how
many are compared. Which reasoning arm stands for all of them was chosen on validation rows before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rir_mlx.evaluation.comparison import accuracy, learned, shown_difference, tokens_generated
from rir_mlx.evaluation.entries import EntryPredictions
from rir_mlx.evaluation.scores import EvaluationRows
from rir_mlx.progress import counted
from rir_mlx.statistics.intervals import Interval

_NAMES = {"tf-idf": "TF-IDF", "encoder": "the encoder", "untuned": "the untuned model"}
_SAVINGS = {"untuned": "needs no training"}
_CHEAP = ("tf-idf", "encoder", "untuned")
"""Baselines, the cheapest first. All are cheaper than a trained arm."""


@dataclass(frozen=True)
class Recommendation:
    """The name of an entry, None if none of them is worth using, and a sentence with the reason."""

    name: str | None
    text: str


@dataclass(frozen=True)
class _Field:
    """All entries, on these rows."""

    entries: Sequence[EntryPredictions]
    rows: EvaluationRows

    def percent(self, entry: EntryPredictions) -> str:
        return f"{100 * accuracy(entry, self.rows):.1f} %"

    @property
    def baselines(self) -> list[EntryPredictions]:
        """Those that a person could use: not the most frequent label."""
        return [entry for entry in self.entries if entry.kind == "baseline" and entry.name != "majority"]

    def difference(self, first: EntryPredictions, second: EntryPredictions) -> tuple[Interval, int]:
        """How much better the second is, and whether it is shown to be better (1), worse (-1) or neither (0)."""
        compared = max(1, sum(entry.is_reasoning_arm for entry in self.entries))
        if "baseline" in (first.kind, second.kind):
            compared *= max(1, sum(entry.kind == "baseline" for entry in self.entries))
        return shown_difference(first, second, self.rows, compared)

    def best(self, entries: Sequence[EntryPredictions]) -> EntryPredictions:
        return max(entries, key=lambda entry: accuracy(entry, self.rows))


def recommend(
    entries: Sequence[EntryPredictions], rows: EvaluationRows, chosen: str | None, majority: EntryPredictions
) -> Recommendation:
    """Of label-only, the reasoning arm `chosen` by the validation rows, and the baselines: the cheapest of those that
    are shown to beat the most frequent label, and than which no other one is shown to be better. If arms are shown to
    beat every baseline, it is one of them. Of arms that cost the same, the one with the higher validation accuracy."""
    field = _Field(entries, rows)
    if not len(rows.test) or not any(entry.kind == "arm" for entry in entries):
        return Recommendation(None, "")
    arms = [entry for entry in entries if entry.kind == "arm" and entry.name in ("qa", chosen)]
    shown = [arm for arm in arms if learned(majority, [arm], rows)]
    if not shown:
        return _without_an_arm(field, majority, learned(majority, arms, rows))
    useful = [entry for entry in field.baselines if learned(majority, [entry], rows)]
    best_arms = [arm for arm in shown if all(field.difference(entry, arm)[1] > 0 for entry in field.baselines)]
    candidates = best_arms or [*useful, *shown]
    unbeaten = [
        entry
        for entry in candidates
        if not any(field.difference(entry, other)[1] > 0 for other in candidates if other is not entry)
    ]
    pick = min(unbeaten, key=_cost)
    rest = [arm for arm in arms if arm is not pick]
    why = _of_baseline(field, pick, rest) if pick.kind == "baseline" else _of_arm(field, pick, rest)
    return Recommendation(pick.name, f"Use {_NAMES.get(pick.name, pick.name)} ({field.percent(pick)}): {why}")


def _cost(entry: EntryPredictions) -> tuple[int, int, float]:
    """What decides among candidates, the smallest first."""
    if entry.kind == "baseline":
        return _CHEAP.index(entry.name) if entry.name in _CHEAP else len(_CHEAP), 0, 0.0
    return len(_CHEAP) + 1, round(tokens_generated(entry)), -(entry.validation_accuracy or 0.0)


def _without_an_arm(field: _Field, majority: EntryPredictions, found: bool | None) -> Recommendation:
    """`found` is False if the arms learned nothing, None if the test rows cannot show it."""
    useful = [baseline for baseline in field.baselines if learned(majority, [baseline], field.rows)]
    if useful:
        best = field.best(useful)
        until = "until an arm learns the task" if found is False else "until an arm is shown to have learned the task"
        return Recommendation(best.name, f"Use {_NAMES.get(best.name, best.name)} ({field.percent(best)}) {until}.")
    if found is False:
        text = "Use none of these: none is shown to beat always answering the most frequent label."
        return Recommendation(None, text)
    rows = counted(int(field.rows.compared.sum()), "test row")
    text = f"No recommendation: {rows} cannot show that any of these beats always answering the most frequent label."
    return Recommendation(None, text)


def _of_baseline(field: _Field, pick: EntryPredictions, arms: Sequence[EntryPredictions]) -> str:
    best = field.best(arms)
    change, shown = field.difference(best, pick)
    if shown > 0:
        return f"it is {_points(change)} better than {best.name}."
    cheaper = f"{_NAMES.get(pick.name, pick.name)} {_SAVINGS.get(pick.name, 'is cheaper')}"
    return f"{best.name} ({field.percent(best)}) is not shown to be better, and {cheaper}.{_reasons(field, arms)}"


def _of_arm(field: _Field, pick: EntryPredictions, rest: Sequence[EntryPredictions]) -> str:
    if not rest:
        return "nothing that was measured is shown to be better."
    [other] = rest
    change, shown = field.difference(other, pick)
    if shown > 0:
        return f"its classifiers are {_points(change)} better than those of {other.name}."
    if _cost(pick) > _cost(other):
        every = field.baselines and all(field.difference(entry, pick)[1] > 0 for entry in field.baselines)
        return f"unlike {other.name}, it is shown to beat {'every baseline' if every else 'the most frequent label'}."
    if round(tokens_generated(pick)) == round(tokens_generated(other)):
        return (
            f"it costs no more than {other.name} to run, and its validation accuracy is higher.{_reasons(field, rest)}"
        )
    return f"it is cheaper than {other.name}, which is not shown to be better.{_reasons(field, rest)}"


def _reasons(field: _Field, arms: Sequence[EntryPredictions]) -> str:
    reasoning = [arm for arm in arms if arm.is_reasoning_arm]
    if not reasoning:
        return ""
    best = field.best(reasoning)
    return f" If you want a reason with each label, use {best.name} ({field.percent(best)})."


def _points(change: Interval) -> str:
    return f"{100 * change.value:.1f} points (95 % interval {100 * change.low:.1f} to {100 * change.high:.1f})"
