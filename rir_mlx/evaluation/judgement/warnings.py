"""What a reader should know before relying on the numbers of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rir_mlx.evaluation.comparison import accuracy, best_on_validation, choose_arm
from rir_mlx.evaluation.entries import EntryPredictions
from rir_mlx.evaluation.judgement.case import Case
from rir_mlx.evaluation.judgement.learning import Change, Lines, accuracy_kept_up, overfitted
from rir_mlx.evaluation.schema import CalibrationResult, LabelMass
from rir_mlx.evaluation.scores import FEWEST_TO_CALIBRATE, EvaluationRows
from rir_mlx.progress import counted, who_were
from rir_mlx.prompting.prompts import answers_twice, reasons_first
from rir_mlx.statistics.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, at_bound
from rir_mlx.storage.digests import changes
from rir_mlx.types import Arm

_ENOUGH_TO_CALIBRATE = 500
"""Validation rows needed for a stable temperature."""
_LOW_MASS = 0.05
"""Below this probability of all labels together, a model is said not to write labels."""

_FEW_REASONINGS = 0.9
"""Below this share of rows with a reasoning, arms are said to learn from fewer rows than label-only."""
_NOTICEABLE = 0.01
"""A rise of the log-loss, in nats, from which a calibration is said to have made it worse."""


def warnings(case: Case) -> list[str]:
    entries, rows = case.entries, case.rows
    return [
        *_of_several_labels(rows),
        *_of_distributions(rows),
        *_of_test_rows(rows),
        *_of_baselines(case),
        *_of_chosen(case),
        *_of_training(case),
        *_of_validation_rows(entries, rows),
        *(warning for entry in entries for warning in _of_entry(entry, rows)),
        *_of_cut_texts(entries),
    ]


def _of_several_labels(rows: EvaluationRows) -> Iterator[str]:
    if rows.single:
        yield (
            f"A text may have several of the {len(rows.single)} labels: accuracy is the share of rows whose labels are "
            "all right, and comparisons are about that. F1 and Jaccard count each label."
        )


def _of_distributions(rows: EvaluationRows) -> Iterator[str]:
    if rows.shares is not None and len(shares := rows.shares[1]):
        surprise = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        yield (
            "Labels are distributions: log-loss and Brier score are against them, and no log-loss is below their "
            f"entropy, {-float((shares * surprise).sum(1).mean()):.3f}. All else is about each row's main label."
        )


_OF_THE_MEASUREMENT = {"dtype", "max_reasoning_tokens"}
"""What a training depends on as well, and what an evaluation may change to measure the same weights otherwise."""


def trained_unlike(inputs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Of arms with what each was trained from, in the form of a stage's inputs: those that were trained otherwise than
    an arm before them, in more than what they learn."""
    arms = list(inputs)
    for place, arm in enumerate(arms):
        for other in arms[:place]:
            before, now = (_common(inputs[one], inputs[two]) for one, two in ((other, arm), (arm, other)))
            if found := changes(before, now):
                more = f", and {len(found) - 1} more" if len(found) > 1 else ""
                yield (
                    f"{arm} was trained otherwise than {other} ({found[0]}{more}): part of their difference may come "
                    "from that. `rir-mlx train-classifier` trains all arms alike."
                )
                break


def trained_otherwise(inputs: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Of arms with what each was trained from, in the form of a stage's inputs: those that the recipe of now would
    train from something else, `now`. What only says how an arm is measured does not count."""
    arms_of: dict[tuple[str, ...], list[str]] = {}
    for arm in (arm for arm in inputs if arm in now):
        mine, wanted = (
            {key: value for key, value in values.items() if key not in _OF_THE_MEASUREMENT}
            for values in (inputs[arm], now[arm])
        )
        if found := changes(mine, wanted):
            arms_of.setdefault(tuple(found), []).append(arm)
    for what, arms in arms_of.items():
        more = f", and {len(what) - 1} more" if len(what) > 1 else ""
        yield (
            f"{who_were(arms)} trained otherwise than the recipe says now "
            f"({what[0]}{more}): these are the figures of that training. `rir-mlx train-classifier` trains again."
        )


def of_reasonings(stats: Mapping[str, Any], arms: Sequence[Arm]) -> Iterator[str]:
    """What the statistics of an augmentation say that concerns these arms: labels of which no reasoning was kept, and
    reasonings that stay though they name nothing in their texts."""
    learning = [arm for arm in arms if reasons_first(arm) and not answers_twice(arm)]  # others learn every label
    if not learning or not stats:
        return
    train, many = stats["train"], len(learning) > 1
    if never := [label for label, rows in train["rows_by_label"].items() if rows and not train["kept_by_label"][label]]:
        yield (
            f"No reasoning of {' or '.join(map(repr, never))} was kept, so {' and '.join(learning)} never "
            f"learned {'that label' if len(never) == 1 else 'these labels'}. Write some yourself "
            "(data.reasoning_column), or set augment.filters."
        )
    elif train["rows"] and train["kept"] < _FEW_REASONINGS * train["rows"]:
        yield (
            f"{' and '.join(learning)} {'learn' if many else 'learns'} from the {train['kept']:,} of {train['rows']:,} "
            f"training rows whose reasoning was kept{'; qa learns from all' * ('qa' in arms)}."
        )
    measured = stats.get("ungrounded") or {}
    if measured.get("cost") is not None and not measured["applied"]:
        yield (
            f"Reasonings that name no word of their text stay: the filter ungrounded would have cost "
            f"{measured['cost']:.0%} of the rows their reasoning (augment.ungrounded_at_most)."
        )


def _common(mine: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """What both have a value of, but for the arm itself; of mappings, those of their keys that both have."""
    return {
        key: _common(value, others[key]) if isinstance(value, Mapping) and isinstance(others[key], Mapping) else value
        for key, value in mine.items()
        if key in others and key != "arm"
    }


def _of_test_rows(rows: EvaluationRows) -> Iterator[str]:
    if len(rows.test) and not rows.clean.any():
        yield (
            "Every test text is also a training or validation text, or has two labels: the figures say nothing about "
            "new texts, and nothing is judged. `rir-mlx check` lists them."
        )
        return
    parts = []
    if rows.leaked:
        parts.append(f"{counted(rows.leaked, 'test row')} also in training or validation rows")
    if rows.conflicting:
        parts.append(f"{counted(rows.conflicting, 'test row')} whose text has two labels")
    if parts:
        yield f"{' and '.join(parts)}: left out of all comparisons. `rir-mlx check` lists them."


def _of_baselines(case: Case) -> Iterator[str]:
    """Baselines that the best arm loses to, or that no arm is shown to beat."""
    if not case.arms or not len(case.rows.test) or case.all_seen:
        return
    for baseline in case.baselines:
        shown = [case.difference(baseline, arm)[1] for arm in case.arms]
        has = f"{baseline.name} ({100 * accuracy(baseline, case.rows):.1f} %)"
        if max(shown) < 0:
            yield f"{has} is better than every arm as trained here."
        elif max(shown) < 1:
            yield f"No arm is shown to be better than {has}."


def _of_chosen(case: Case) -> Iterator[str]:
    """That other arms have learned, but not the one that the validation rows chose."""
    chosen = next((arm for arm in case.arms if arm.name == choose_arm(case.entries)), None)
    if chosen is None or not len(case.rows.test) or case.learned([chosen]):
        return
    if learned := [arm.name for arm in case.arms if case.learned([arm])]:
        yield (
            f"{chosen.name}, the chosen arm, is not shown to beat always answering the most frequent label; "
            f"{' and '.join(learned)} {'is' if len(learned) == 1 else 'are'}."
        )


def _of_training(case: Case) -> Iterator[str]:
    if case.early:
        yield (
            f"Trained too briefly, for the loss was still falling at the end ({_listed(case.early)}). Raise "
            "classifier.epochs (or classifier.iters), or classifier.learning_rate."
        )
    rising = {
        name: max(map(_overfitting, seeds), key=lambda pair: pair[0]) for name, seeds in case.journals.items() if seeds
    }
    worse = {name: change for name, (_, change, kept_up) in rising.items() if change and not kept_up}
    sure = {name: change for name, (_, change, kept_up) in rising.items() if change and kept_up}
    if worse:
        yield (
            f"Overfitted ({_listed(worse)}): lower classifier.epochs or classifier.learning_rate, or add training "
            "rows. The weights kept are those of the best validation."
        )
    if sure:
        yield (f"Grown too sure, with no fewer correct labels ({_listed(sure)}): the temperature corrects that.")
    for name, spread in case.spreads.items():
        yield (
            f"{name} is unstable: its seeds end at {100 * spread.low:.1f} to {100 * spread.high:.1f} %, more than the "
            "test rows explain. Lower classifier.learning_rate, raise classifier.epochs, or train more "
            "classifier.seeds."
        )


def _in_words(change: Change) -> str:
    verb = "fell" if change.last < change.first else "rose"
    return (
        f"{change.what} {verb} from {change.first:.2f} to {change.last:.2f} between steps {change.first_step:,} and "
        f"{change.last_step:,}"
    )


def _listed(changes: Mapping[str, Change]) -> str:
    return "; ".join(f"{name}: {_in_words(change)}" for name, change in changes.items())


def _overfitting(lines: Lines) -> tuple[float, Change | None, bool]:
    """How far the validation loss rose, the rise itself, and whether the validation accuracy kept up."""
    change = overfitted(lines)
    if change is None:
        return 0.0, None, False
    return change.last - change.first, change, accuracy_kept_up(lines, change)


def _of_validation_rows(entries: Sequence[EntryPredictions], rows: EvaluationRows) -> Iterator[str]:
    count, chosen = len(rows.validation), choose_arm(entries)
    only = "" if rows.copied is None else " but copies of training rows"
    if not count and chosen:
        yield (
            f"There are no validation rows{only} to choose an arm by: {chosen} is the one that generates the fewest "
            "tokens."
        )
    elif len(tied := best_on_validation(entries)) > 1 and chosen:
        names = " and ".join(entry.name for entry in tied)
        share = tied[0].validation_accuracy or 0.0
        yield (
            f"{names} tie on the validation rows ({100 * share:.1f} %): {chosen} is chosen, the cheapest or first one "
            "of them."
        )
    if not count:
        yield f"Without {'other ' if only else ''}validation rows, probabilities are uncalibrated."
    elif count < FEWEST_TO_CALIBRATE:
        many = f"{counted(count, 'validation row')} {'is' if count == 1 else 'are'}"
        yield f"{many} too few to calibrate: probabilities are uncalibrated."
    elif count < _ENOUGH_TO_CALIBRATE:
        yield (
            f"Temperatures and thresholds are fitted on {count:,} validation rows; with fewer than "
            f"{_ENOUGH_TO_CALIBRATE} they are rough."
        )


def _of_entry(entry: EntryPredictions, rows: EvaluationRows) -> Iterator[str]:
    calibration: CalibrationResult | None = entry.fields.get("calibration")
    mass: LabelMass | None = entry.fields.get("label_mass")
    if mass is not None and mass.p50 < _LOW_MASS:
        yield (
            f"{entry.name}: all labels together have a probability of {100 * mass.p50:.1f} % (median). The model "
            "hardly writes labels here: train it longer, or raise the learning rate."
        )
    if calibration is not None:
        yield from _of_calibration(entry.name, calibration)
    if entry.abstains:
        yield (
            f"{entry.name}: no threshold is shown to reach evaluate.wanted_accuracy on "
            f"{counted(len(rows.validation), 'validation row')}, so it abstains on every text. Use more validation "
            "rows, or lower evaluate.wanted_accuracy."
        )


def _of_cut_texts(entries: Sequence[EntryPredictions]) -> Iterator[str]:
    cut = {entry.name: int(count) for entry in entries if (count := entry.fields.get("trimmed"))}
    if cut and len(set(cut.values())) == 1:
        texts = counted(next(iter(cut.values())), "test text")
        yield f"The ends of {texts} were cut to fit into max_seq_length ({', '.join(cut)})."
    elif cut:
        listed = ", ".join(f"{name} {count:,}" for name, count in cut.items())
        yield f"The ends of test texts were cut to fit into max_seq_length: {listed}."


def _of_calibration(name: str, calibration: CalibrationResult) -> Iterator[str]:
    if at_bound(max(calibration.temperature)) == MAX_TEMPERATURE:
        yield (
            f"{name}: the fitted temperature is at its bound of {MAX_TEMPERATURE:g}. The classifier's probabilities "
            "say next to nothing about which label is correct."
        )
    elif calibration.at_bounds:
        bounds, ways = f"{MIN_TEMPERATURE:g} or {MAX_TEMPERATURE:g}", " and ".join(calibration.at_bounds)
        yield (
            f"{name}: the temperature fitted for {ways} scores is at a bound ({bounds}). "
            "Their probabilities are not calibrated."
        )
    before, after = calibration.before, calibration.after
    if after.log_loss > before.log_loss + _NOTICEABLE and after.calibration_error > before.calibration_error:
        yield (
            f"{name}: calibration made its probabilities worse on the test rows (log-loss {before.log_loss:.3f} to "
            f"{after.log_loss:.3f}, calibration error {before.calibration_error:.3f} to "
            f"{after.calibration_error:.3f}). More validation rows help."
        )
