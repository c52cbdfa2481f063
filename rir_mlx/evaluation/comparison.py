"""Entries compared on the same test rows: which reasoning arm is chosen, and which entries are better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rir_mlx.evaluation.entries import EntryPredictions, entry_result
from rir_mlx.evaluation.schema import EntryResult, InferenceCost
from rir_mlx.evaluation.scores import EvaluationRows
from rir_mlx.statistics.intervals import LEVEL, Interval, rows_interval
from rir_mlx.statistics.paired_tests import PairedComparison, compare, is_better, is_significant

_ROUNDING = 1e-9


def choose_arm(entries: Sequence[EntryPredictions]) -> str | None:
    """The reasoning arm with the best validation accuracy; of ties the one that generates the fewest tokens, then the
    first. Test rows never decide."""
    tied = best_on_validation(entries)
    return min(tied, key=tokens_generated).name if tied else None


def best_on_validation(entries: Sequence[EntryPredictions]) -> list[EntryPredictions]:
    """The reasoning arms with the best validation accuracy."""
    arms = [entry for entry in entries if entry.is_reasoning_arm]
    best = max((entry.validation_accuracy or 0.0 for entry in arms), default=0.0)
    return [entry for entry in arms if (entry.validation_accuracy or 0.0) > best - _ROUNDING]


def tokens_generated(entry: EntryPredictions) -> float:
    """For each row when it classifies, on average; the size of the training does not count."""
    cost: InferenceCost | None = entry.fields.get("cost")
    return cost.tokens_generated if cost else 0.0


def compare_entries(entries: Sequence[EntryPredictions], rows: EvaluationRows) -> list[EntryResult]:
    """Every entry with its metrics, compared with label-only and, unless it is a baseline, with each baseline."""
    label_only = next((entry for entry in entries if entry.name == "qa"), None)
    arms = max(1, sum(entry.is_reasoning_arm for entry in entries))
    results = []
    for entry in entries:
        baselines = [other for other in entries if other.kind == "baseline" and entry.kind != "baseline"]
        compared = {
            "against": paired(label_only, entry, rows, arms) if label_only and entry is not label_only else None,
            "beats": [
                other.name
                for other in baselines
                if rows.clean.any() and is_better(paired(other, entry, rows, arms * len(baselines)))
            ],
        }
        results.append(entry_result(entry, rows).model_copy(update=compared))
    return results


def paired(
    first: EntryPredictions, second: EntryPredictions, rows: EvaluationRows, compared: int = 1
) -> PairedComparison:
    """On the cleaned test rows, with an interval that is corrected for `compared` comparisons."""
    keep = rows.compared
    named = [(entry.name, entry.probabilities[:, keep]) for entry in (first, second)]
    return compare(named[0], named[1], rows.test[keep], compared=compared)


def between_classifiers(
    first: EntryPredictions, second: EntryPredictions, rows: EvaluationRows, level: float = LEVEL
) -> Interval:
    """How much better the second one's classifiers are, on the cleaned test rows, with an interval over rows alone."""
    keep = rows.compared
    hits = [(entry.probabilities.argmax(-1) == rows.test)[:, keep].astype(np.float64) for entry in (first, second)]
    return rows_interval(hits[1] - hits[0], level)


def shown_difference(
    first: EntryPredictions, second: EntryPredictions, rows: EvaluationRows, compared: int
) -> tuple[Interval, int]:
    """How much better the second one's classifiers are, corrected for `compared` comparisons, and whether they are
    shown to be better (1), worse (-1) or neither (0). Of one classifier each it is what `paired` finds."""
    if len(first.probabilities) == len(second.probabilities) == 1:
        found = paired(first, second, rows, compared)
        interval, shown = found.difference, is_significant(found)
    else:
        interval = between_classifiers(first, second, rows, 1 - (1 - LEVEL) / compared)
        shown = not interval.low <= 0 <= interval.high
    return interval, int(np.sign(interval.value)) if shown else 0


def accuracy(entry: EntryPredictions, rows: EvaluationRows) -> float:
    """On the cleaned test rows, mean over seeds."""
    return float((entry.probabilities.argmax(-1) == rows.test)[:, rows.compared].mean())


def controls_as_good(entries: Sequence[EntryPredictions], arm: str, rows: EvaluationRows) -> list[str]:
    """Controls that the arm was not shown to beat, although their reasonings say nothing about their rows
    (arXiv:2406.14511)."""
    chosen = next(entry for entry in entries if entry.name == arm)
    controls = [entry for entry in entries if entry.kind == "control"]
    return [control.name for control in controls if not is_better(paired(control, chosen, rows))]


def different_steps(results: Sequence[EntryResult], arm: str) -> Mapping[str, int | None]:
    """The planned steps of every trained entry, if those of label-only and the arm differ; else empty."""
    planned = {result.name: result.training.planned for result in results if result.training}
    return planned if planned["qa"] != planned[arm] else {}
