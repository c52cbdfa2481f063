"""Which classifier of a run to use, and why.

It is about the trained classifiers as they are, so the intervals cover the draw of test rows alone, corrected for how
many are compared. Which reasoning arm stands for all of them was chosen on validation rows before. With several seeds
the classifier that is used is the first one's: it decides, and the mean is shown beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
_NOTABLE = 0.01
"""From this difference on, the accuracy of the first seed's classifier is given beside the mean."""
_FIRST = "the first seed, which is used"


@dataclass(frozen=True)
class Recommendation:
    """The name of an entry, None if none of them is worth using, and a sentence with the reason."""

    name: str | None
    text: str


def recommend(case: Case, chosen: str | None) -> Recommendation:
    """Of label-only, the reasoning arm `chosen` by the validation rows, and the baselines: the cheapest of those that
    are shown to beat the most frequent label, and than which no other one is shown to be better. If arms are shown to
    beat every baseline, it is one of them. Of arms that cost the same, the one with the higher validation accuracy."""
    if not len(case.rows.test) or case.all_seen or not case.arms:
        return Recommendation(None, "")
    arms = [arm for arm in case.arms if arm.name in ("qa", chosen)]
    shown = [arm for arm in arms if _learned(case, arm)]
    if not shown:
        return _without_an_arm(case, arms)
    useful = [
        entry
        for entry in _usable(case)
        if _learned(case, entry) or any(_is_better(case, arm, entry) for arm in shown)  # and so better than majority
    ]
    best_arms = [arm for arm in shown if all(_is_better(case, entry, arm) for entry in _usable(case))]
    pick = _cheapest(case, best_arms or [*useful, *shown])
    rest = [arm for arm in arms if arm is not pick]
    why = _of_baseline(case, pick, rest) if pick.kind == "baseline" else _of_arm(case, pick, rest)
    return Recommendation(pick.name, f"Use {_NAMES.get(pick.name, pick.name)} ({_percent(case, pick)}): {why}")


def _cheapest(case: Case, candidates: Sequence[EntryPredictions]) -> EntryPredictions:
    """The cheapest of those that no other one is shown to be better than."""
    unbeaten = [entry for entry in candidates if not any(_is_better(case, entry, other) for other in candidates)]
    return min(unbeaten, key=_cost)


def _used(entry: EntryPredictions) -> EntryPredictions:
    """With the classifier of the first seed alone, which is the one that is used."""
    return replace(entry, probabilities=entry.probabilities[:1])


def _difference(case: Case, first: EntryPredictions, second: EntryPredictions) -> tuple[Interval, int]:
    """`Case.difference` of the classifiers that are used."""
    return case.difference(_used(first), _used(second))


def _is_better(case: Case, first: EntryPredictions, second: EntryPredictions) -> bool:
    return _difference(case, first, second)[1] > 0


def _learned(case: Case, entry: EntryPredictions) -> bool:
    """Whether the classifier that is used is shown to beat the most frequent label."""
    return case.learned([_used(entry)]) is True


def _usable(case: Case) -> list[EntryPredictions]:
    """The baselines that a person could use: not the most frequent label."""
    return [entry for entry in case.baselines if entry.name != "majority"]


def _percent(case: Case, entry: EntryPredictions) -> str:
    """The mean over seeds, and beside it the accuracy of the classifier that is used, if it differs."""
    mean, used = accuracy(entry, case.rows), accuracy(_used(entry), case.rows)
    beside = f", {100 * used:.1f} % with {_FIRST}" if abs(used - mean) >= _NOTABLE else ""
    return f"{100 * mean:.1f} %{beside}"


def _best(case: Case, entries: Sequence[EntryPredictions]) -> EntryPredictions:
    return max(entries, key=lambda entry: accuracy(_used(entry), case.rows))


def _cost(entry: EntryPredictions) -> tuple[int, int, float]:
    """What decides among candidates, the smallest first."""
    if entry.kind == "baseline":
        return _CHEAP.index(entry.name) if entry.name in _CHEAP else len(_CHEAP), 0, 0.0
    return len(_CHEAP) + 1, round(tokens_generated(entry)), -(entry.validation_accuracy or 0.0)


def _without_an_arm(case: Case, arms: Sequence[EntryPredictions]) -> Recommendation:
    """For label-only and the chosen arm, if neither is shown to have learned, or only with seeds that are not used."""
    found, others = case.learned([_used(arm) for arm in arms]), [arm for arm in case.arms if _learned(case, arm)]
    named, why = " and ".join(arm.name for arm in arms), ""
    if on_average := [arm.name for arm in arms if case.learned([arm])]:
        named, beat = " and ".join(on_average), "beats" if len(on_average) == 1 else "beat"
        why = f"{named} {beat} the most frequent label on average, but not clearly with {_FIRST}."
    elif others:
        why = f"{named} {'are' if len(arms) > 1 else 'is'} not shown to beat always answering the most frequent label."
    if others:
        best = _best(case, others)
        why += f" {best.name} ({_percent(case, best)}) is shown to beat it, but was not chosen on the validation rows."
    useful = [baseline for baseline in _usable(case) if _learned(case, baseline)]
    if useful:
        pick = _cheapest(case, useful)
        until = "until an arm learns the task" if found is False else "until an arm is shown to have learned the task"
        said = f"Use {_NAMES.get(pick.name, pick.name)} ({_percent(case, pick)})"
        return Recommendation(pick.name, f"{said}: {why}" if why else f"{said} {until}.")
    if why:
        return Recommendation(None, f"No recommendation: {why}")
    if found is False:
        text = "Use none of these: none is shown to beat always answering the most frequent label."
        return Recommendation(None, text)
    rows = counted(int(case.rows.compared.sum()), "test row") + (" of one label" if case.one_label is not None else "")
    text = f"No recommendation: {rows} cannot show that any of these beats always answering the most frequent label."
    return Recommendation(None, text)


def _of_baseline(case: Case, pick: EntryPredictions, arms: Sequence[EntryPredictions]) -> str:
    best = _best(case, arms)
    change, shown = _difference(case, best, pick)
    if shown > 0:
        return f"{_it_is(case, pick, best)} {_points(change)} better than {_this(best)}."
    if not _learned(case, best):
        return _of_unlearned(case, best)
    cheaper = f"{_NAMES.get(pick.name, pick.name)} {_SAVINGS.get(pick.name, 'is cheaper')}"
    return f"{best.name} ({_percent(case, best)}) is not shown to be better, and {cheaper}.{_reasons(case, pick, arms)}"


def _of_arm(case: Case, pick: EntryPredictions, rest: Sequence[EntryPredictions]) -> str:
    if not rest:
        return "nothing that was measured is shown to be better."
    [other] = rest
    change, shown = _difference(case, other, pick)
    if shown > 0:
        return f"{_it_is(case, pick, other)} {_points(change)} better than {_this(other)}."
    if not _learned(case, other):
        return _of_unlearned(case, other)
    if _cost(pick) > _cost(other):
        every = all(_is_better(case, entry, pick) for entry in _usable(case))
        beats_every = f"unlike {_this(other)}, it is shown to beat every baseline."
        return beats_every if every else f"a baseline is shown to be better than {_this(other)}."
    if round(tokens_generated(pick)) == round(tokens_generated(other)):
        if (pick.validation_accuracy or 0.0) > (other.validation_accuracy or 0.0):
            why = f"it costs no more than {other.name} to run, and its validation accuracy is higher."
        else:  # the same, or there are no validation rows
            why = f"{other.name} costs as much to run, and is not shown to be better."
        return f"{why}{_reasons(case, pick, rest)}"
    return f"it is cheaper than {other.name}, which is not shown to be better.{_reasons(case, pick, rest)}"


def _it_is(case: Case, pick: EntryPredictions, other: EntryPredictions) -> str:
    """How a difference of the classifiers that are used begins."""
    if len(pick.probabilities) == len(other.probabilities) == 1:
        return "it is"
    return f"with {'that seed' if _FIRST in _percent(case, pick) else _FIRST}, it is"


def _this(arm: EntryPredictions) -> str:
    """An arm that is shown to be worse: what is compared is its classifier, not its way of training."""
    return f"this {arm.name} classifier"


def _of_unlearned(case: Case, other: EntryPredictions) -> str:
    """Why an arm is not used that is not shown to have learned, or only with seeds that are not used."""
    measured = f"{other.name} ({_percent(case, other)})"
    if case.learned([other]):
        return f"{measured} beats the most frequent label on average, but not clearly with {_FIRST}."
    return f"{measured} is not shown to beat the most frequent label."


def _reasons(case: Case, pick: EntryPredictions, arms: Sequence[EntryPredictions]) -> str:
    """Which arm gives reasons, if one has learned, and how much worse it is, if that is shown."""
    reasoning = [arm for arm in arms if arm.is_reasoning_arm and _learned(case, arm)]
    if not reasoning:
        return ""
    best = _best(case, reasoning)
    change, shown = _difference(case, best, pick)
    seed = "" if _it_is(case, pick, best) == "it is" else f" with {_FIRST}"
    worse = f", which is {_points(change)} worse{seed}" if shown > 0 else ""
    return f" If you want a reason with each label, use {best.name} ({_percent(case, best)}){worse}."


def _points(change: Interval) -> str:
    return f"{100 * change.value:.1f} points (95 % interval {100 * change.low:.1f} to {100 * change.high:.1f})"
