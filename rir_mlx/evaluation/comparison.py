"""Entries compared on the same test rows: which reasoning arm is chosen, which entries are better, what to warn of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rir_mlx.evaluation.entries import EntryPredictions, entry_result
from rir_mlx.evaluation.schema import CalibrationResult, EntryResult, LabelMass
from rir_mlx.evaluation.scores import FEWEST_TO_CALIBRATE, EvaluationRows
from rir_mlx.statistics.calibration import MAX_TEMPERATURE, NO_ANSWER
from rir_mlx.statistics.paired_tests import PairedComparison, compare, is_better, is_worse

_ENOUGH_TO_CALIBRATE = 500
"""Validation rows needed for a stable temperature."""
_LOW_MASS = 0.05
"""Below this probability of all labels together, a model is said not to write labels."""


def choose_arm(entries: Sequence[EntryPredictions]) -> str | None:
    """The reasoning arm with the best validation accuracy; of ties the first. Test rows never decide."""
    arms = [entry for entry in entries if entry.is_reasoning_arm]
    return max(arms, key=lambda entry: entry.validation_accuracy or 0.0).name if arms else None


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
                other.name for other in baselines if is_better(paired(other, entry, rows, arms * len(baselines)))
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


def arms_better_than(
    baseline: EntryPredictions, entries: Sequence[EntryPredictions], rows: EvaluationRows
) -> list[str]:
    return [entry.name for entry in entries if entry.kind == "arm" and is_better(paired(baseline, entry, rows))]


def all_arms_worse_than(baseline: EntryPredictions, entries: Sequence[EntryPredictions], rows: EvaluationRows) -> bool:
    return all(is_worse(paired(baseline, entry, rows)) for entry in entries if entry.kind == "arm")


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


def warnings(entries: Sequence[EntryPredictions], rows: EvaluationRows) -> list[str]:
    """What a reader should know before relying on the numbers."""
    found, count = [], len(rows.validation)
    if not count and (first := choose_arm(entries)):
        found.append(f"There are no validation rows to choose an arm by: {first} is the first one of the recipe.")
    if count < FEWEST_TO_CALIBRATE:
        found.append(f"{count} validation rows are too few to calibrate: probabilities are uncalibrated.")
    elif count < _ENOUGH_TO_CALIBRATE:
        found.append(
            f"Temperatures and thresholds are fitted on {count:,} validation rows; with fewer than "
            f"{_ENOUGH_TO_CALIBRATE} they are rough."
        )
    if len(rows.test) and not rows.clean.any():
        found.append(
            "Every test text is also a training or validation text, or has two labels. So the comparisons use all of "
            "them, and say nothing about new texts."
        )
    for entry in entries:
        calibration: CalibrationResult | None = entry.fields.get("calibration")
        mass: LabelMass | None = entry.fields.get("label_mass")
        if mass is not None and mass.p50 < _LOW_MASS:
            found.append(
                f"{entry.name}: all labels together have a probability of {100 * mass.p50:.1f} % (median). The model "
                "hardly writes labels here: train it longer, or raise the learning rate."
            )
        if calibration is not None and max(calibration.temperature) > MAX_TEMPERATURE * 0.99:
            found.append(
                f"{entry.name}: the fitted temperature is at its bound of {MAX_TEMPERATURE:g}. The classifier's "
                "probabilities say next to nothing about which label is correct."
            )
        if calibration is not None and calibration.answer_from[0] == NO_ANSWER:
            found.append(
                f"{entry.name}: no threshold is shown to reach evaluate.wanted_accuracy on {count:,} validation rows, "
                "so it abstains on every text. Use more validation rows, or lower evaluate.wanted_accuracy."
            )
        if trimmed := entry.fields.get("trimmed"):
            found.append(f"{entry.name}: the ends of {trimmed:,} test texts were cut to fit into max_seq_length.")
    return found
