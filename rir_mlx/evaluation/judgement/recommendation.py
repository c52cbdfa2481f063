"""Which classifier of a run to use, and why.

It is about the trained classifiers as they are, so the intervals cover the draw of test rows alone. Which reasoning arm
stands for all of them was chosen on validation rows before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rir_mlx.evaluation.comparison import accuracy, between_classifiers
from rir_mlx.evaluation.entries import EntryPredictions
from rir_mlx.evaluation.scores import EvaluationRows
from rir_mlx.statistics.intervals import Interval

_NAMES = {"tf-idf": "TF-IDF", "encoder": "the encoder", "untuned": "the untuned model"}
_SAVINGS = {"untuned": "needs no training"}


@dataclass(frozen=True)
class Recommendation:
    """The name of an entry, None if none of them is worth using, and a sentence with the reason."""

    name: str | None
    text: str


@dataclass(frozen=True)
class _Candidates:
    entries: Sequence[EntryPredictions]
    rows: EvaluationRows

    def percent(self, entry: EntryPredictions) -> str:
        return f"{100 * accuracy(entry, self.rows):.1f} %"

    def against(self, first: EntryPredictions, second: EntryPredictions) -> Interval:
        return between_classifiers(first, second, self.rows)

    @property
    def baselines(self) -> list[EntryPredictions]:
        """Those that a person could use: not the most frequent label."""
        return [entry for entry in self.entries if entry.kind == "baseline" and entry.name != "majority"]


def recommend(
    entries: Sequence[EntryPredictions], rows: EvaluationRows, chosen: str | None, majority: EntryPredictions
) -> Recommendation:
    """One of the arms or baselines. `chosen` is the reasoning arm that the validation rows chose."""
    found = _Candidates(entries, rows)
    arms = [entry for entry in entries if entry.kind == "arm"]
    if not len(rows.test) or not arms:
        return Recommendation(None, "")
    if all(found.against(majority, arm).low <= 0 for arm in arms):
        return _without_an_arm(found, majority)
    arm, why = _best_arm(found, arms, chosen)
    better = [baseline for baseline in found.baselines if found.against(baseline, arm).high < 0]
    if better:
        best = max(better, key=lambda baseline: accuracy(baseline, rows))
        name = _NAMES.get(best.name, best.name)
        points = _points(found.against(arm, best))
        return Recommendation(best.name, f"Use {name} ({found.percent(best)}): it is {points} better than {arm.name}.")
    equal = [baseline for baseline in found.baselines if found.against(baseline, arm).low <= 0]
    if equal:
        return _cheaper_baseline(found, arm, max(equal, key=lambda baseline: accuracy(baseline, rows)))
    return Recommendation(arm.name, why)


def _without_an_arm(found: _Candidates, majority: EntryPredictions) -> Recommendation:
    useful = [baseline for baseline in found.baselines if found.against(majority, baseline).low > 0]
    if not useful:
        return Recommendation(
            None, "Use none of these: none is shown to beat always answering the most frequent label."
        )
    best = max(useful, key=lambda baseline: accuracy(baseline, found.rows))
    name = _NAMES.get(best.name, best.name)
    return Recommendation(best.name, f"Use {name} ({found.percent(best)}) until an arm learns the task.")


def _best_arm(found: _Candidates, arms: Sequence[EntryPredictions], chosen: str | None) -> tuple[EntryPredictions, str]:
    label_only = next((entry for entry in arms if entry.name == "qa"), None)
    reasoning = next((entry for entry in arms if entry.name == chosen), None)
    if label_only is None or reasoning is None:
        only = label_only or reasoning or arms[0]
        return only, f"Use {only.name} ({found.percent(only)}): it is better than every baseline that was measured."
    change = found.against(label_only, reasoning)
    percent = found.percent(reasoning)
    if change.low > 0:
        return reasoning, f"Use {reasoning.name} ({percent}): its classifiers are {_points(change)} better than qa's."
    use = f"Use qa ({found.percent(label_only)}): "
    if change.high < 0:
        return label_only, f"{use}its classifiers are {_points(found.against(reasoning, label_only))} better."
    return label_only, (
        f"{use}it is the cheapest, and {reasoning.name} is not shown to be better. If you want a reason with each "
        f"label, use {reasoning.name} ({percent})."
    )


def _cheaper_baseline(found: _Candidates, arm: EntryPredictions, baseline: EntryPredictions) -> Recommendation:
    name = _NAMES.get(baseline.name, baseline.name)
    reasons = "" if arm.name == "qa" else f" If you want a reason with each label, use {arm.name}."
    return Recommendation(
        baseline.name,
        f"Use {name} ({found.percent(baseline)}): {arm.name} ({found.percent(arm)}) is not shown to be better, and "
        f"{name} {_SAVINGS.get(baseline.name, 'is cheaper')}.{reasons}",
    )


def _points(change: Interval) -> str:
    return f"{100 * change.value:.1f} points (95 % interval {100 * change.low:.1f} to {100 * change.high:.1f})"
