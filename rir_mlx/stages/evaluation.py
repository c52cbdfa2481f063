"""Measure the trained arms and the baselines on the test rows, and answer "did reasoning help?"."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rir_mlx import __version__
from rir_mlx.augmentation.augmented_rows import read_stats
from rir_mlx.backends.processes import run_on_main
from rir_mlx.data.labels.combinations import place_of
from rir_mlx.errors import UserError
from rir_mlx.evaluation.cleaning import copies_note, row_faults
from rir_mlx.evaluation.comparison import choose_arm, compare_entries
from rir_mlx.evaluation.entries import EntryPredictions, arm_predictions
from rir_mlx.evaluation.judgement.case import Case, Journals
from rir_mlx.evaluation.judgement.judge import failure_to_learn, judge
from rir_mlx.evaluation.judgement.learning import still_falling
from rir_mlx.evaluation.judgement.warnings import of_reasonings, trained_otherwise, trained_unlike
from rir_mlx.evaluation.learning_curve import learning_curve
from rir_mlx.evaluation.report.examples import row_examples
from rir_mlx.evaluation.report.page import write_report
from rir_mlx.evaluation.run_facts import DataFacts, ModelFacts, RowCounts, RunFacts, TrainingCost
from rir_mlx.evaluation.schema import (
    Comparison,
    EntryResult,
    Headline,
    LearningCurve,
    write_comparison,
)
from rir_mlx.evaluation.score_cache import MadeWith
from rir_mlx.evaluation.scores import EvaluationRows, MeasuredArm, distributions
from rir_mlx.prompting.prompts import answers_twice, writes_reasoning
from rir_mlx.recipe.loading import dump_recipe
from rir_mlx.stages.baselines import baseline_names, majority_entry, measure_baseline, predicted_rows
from rir_mlx.stages.checking import outdated_reasonings
from rir_mlx.stages.context import Context, exclusive
from rir_mlx.stages.measuring import explain, held_out, measure, measure_learning_curve, score_shares
from rir_mlx.stages.training import arm_inputs
from rir_mlx.statistics.intervals import FloatArray
from rir_mlx.storage.atomic import read_jsonl, write_json, write_jsonl
from rir_mlx.training.loop import logged_lines
from rir_mlx.types import Arm

_EXPLAINED_EXAMPLES = 100
"""Examples of each outcome for which an arm that writes the label first is asked for its reasoning."""


@exclusive
def evaluate(context: Context) -> Comparison | None:
    """Measure every trained arm and the baselines on the test rows, compare them, and write `comparison.json`, the
    predictions and the report. Of several processes, each scores a share of the rows; the main one does the rest and
    returns the comparison.

    Raises UserError if there are no test rows, no arm is trained, or one was trained on other rows or seeds."""
    if context.processes.size > 1:
        run_on_main(context.processes, lambda: (_trained_arms(context), context.data.test_rows()))  # reports mistakes
        score_shares(context, _trained_arms(context))
    return run_on_main(context.processes, lambda: _evaluate(context))


def _evaluate(context: Context) -> Comparison:
    arms, rows, run = _trained_arms(context), _evaluation_rows(context), context.run
    if left_out := _arms_left_out(context):
        context.progress.say(f"note: {left_out}")
    measured, entries = list[MeasuredArm](), list[EntryPredictions]()
    curve: Mapping[int, NDArray[np.bool_]] = {}
    for arm in arms:
        scores = measure(context, arm, rows)
        _write_validation_predictions(context, scores)
        entries.append(arm_predictions(scores, context.recipe.classifier.seeds, rows))
        if arm == context.recipe.classifier.learning_curve:
            curve = measure_learning_curve(context, scores, rows)
        measured.append(scores.only_main_way())
    _write_predictions(context, measured, entries, rows)
    entries += [measure_baseline(context, name) for name in baseline_names(context)]
    comparison = _comparison(context, entries, rows, curve)
    for result in comparison.entries:
        write_json(run.entry_result(result.name), result.model_dump(mode="json"))
    write_comparison(run.comparison, comparison)
    shown = [result.name for result in comparison.entries if result.name != "majority"]
    write_report(run.report, comparison, row_examples({name: read_jsonl(run.predictions(name)) for name in shown}))
    context.progress.say(f"Report → {run.report}; metrics and predictions → {run.comparison.parent}")
    return comparison


def _trained_arms(context: Context) -> list[Arm]:
    """The recipe's arms that are trained. Each has all seeds, and was trained on these rows."""
    found, seeds = list[Arm](), context.recipe.classifier.seeds
    for arm in context.recipe.classifier.arms:
        done = [context.trained(arm, seed).done() for seed in seeds]
        if not any(done):
            continue
        if missing := [
            str(seed)
            for seed, record in zip(seeds, done, strict=True)
            if record is None or record["inputs"]["seed"] != seed  # the folder of the first seed bears no number
        ]:
            raise UserError(
                f"The {arm} classifier is not trained with seed {', '.join(missing)}.",
                hint="Run `rir-mlx train-classifier`, or remove the seed from classifier.seeds.",
            )
        if any(record is not None and record["inputs"]["data"] != context.data.digest for record in done):
            raise UserError(
                f"The {arm} classifier was trained on other rows, labels or splits: some of these test rows may be "
                "among its training rows.",
                hint="Run `rir-mlx train-classifier` with the same recipe again.",
            )
        found.append(arm)
    if not found:
        left_out = _arms_left_out(context)
        what = f"{context.run.folder} has no trained classifier{' of classifier.arms' if left_out else ''}."
        raise UserError(
            what, hint=" ".join(["Run `rir-mlx train-classifier` with the same recipe first.", left_out]).strip()
        )
    return found


def _arms_left_out(context: Context) -> str:
    """Which trained arms are not measured, and how to add them; empty if all are."""
    arms, trained = context.recipe.classifier.arms, context.run.trained_arms()
    if not (left_out := [arm for arm in trained if arm not in arms]):
        return ""
    return (
        f"Trained, but not among classifier.arms: {', '.join(left_out)}. "
        f"To measure: --set 'classifier.arms=[{', '.join([*arms, *left_out])}]'."
    )


def _evaluation_rows(context: Context) -> EvaluationRows:
    data, test = context.data, context.data.test_rows()
    validation, copied = held_out(context)
    index = {label: place for place, label in enumerate(data.names)}
    validation_labels, test_labels = (
        np.array([index[row.label] for row in part], dtype=np.int64) for part in (validation, test)
    )
    seen = [row.text for row in (*data.train, *data.validation)]
    soft = context.recipe.data.soft_labels
    faults = row_faults(seen, [row.text for row in test], [row.label for row in test])
    return EvaluationRows(
        data.names,
        validation_labels,
        test_labels,
        faults.clean,
        leaked=int(faults.leaked.sum()),
        conflicting=int(faults.conflicting.sum()),
        single=data.single,
        shares=(distributions(validation, data.names), distributions(test, data.names)) if soft else None,
        copied=copied,
        alone=place_of(context.task.no_label, data.single),
    )


def _comparison(
    context: Context,
    entries: Sequence[EntryPredictions],
    rows: EvaluationRows,
    curve: Mapping[int, NDArray[np.bool_]],
) -> Comparison:
    data, stats = context.data, context.run.stats
    results = [
        result if result.kind == "baseline" else result.model_copy(update={"training": _training_cost(context, result)})
        for result in compare_entries(entries, rows)
    ]
    case = Case(entries, results, rows, majority_entry(context), _journals(context, results))
    judged, augmentation = vars(judge(case)), read_stats(stats) if stats.is_file() else None
    arms = [arm for arm in context.recipe.classifier.arms if arm in {entry.name for entry in results}]
    trained = _trained_from(context, results)
    found = [*trained_otherwise(trained, _recipes_inputs(context, trained))]
    if set(arms) - {"qa"}:
        found += outdated_reasonings(context)
    found += [*trained_unlike(trained), *of_reasonings(augmentation or {}, arms)]
    copied = 0 if rows.copied is None else int(rows.copied.sum())
    if copied:
        found.append(copies_note(copied, len(data.validation)))
    judged["warnings"] = [*found, *judged["warnings"]]
    return Comparison(
        run=_run_facts(context),
        labels=data.single or data.names,
        rows=RowCounts(
            train=len(data.train),
            validation=len(data.validation),
            copied=copied,
            test=len(rows.test),
            cleaned=int(rows.clean.sum()),
            leaked=rows.leaked,
            conflicting=rows.conflicting,
        ),
        **judged,
        entries=results,
        learning_curve=None
        if case.all_seen
        else _learning_curve(context, curve, _that_learned(case, judged["headline"])),
        augmentation=augmentation,
    )


def _that_learned(case: Case, headline: Headline) -> Sequence[EntryResult]:
    """The lines of the comparison, if it says anything of reasonings."""
    return () if headline.finding == "failed" or failure_to_learn(case) else case.results


def _learning_curve(
    context: Context, curve: Mapping[int, NDArray[np.bool_]], results: Sequence[EntryResult]
) -> LearningCurve | None:
    options = context.recipe.classifier
    if options.learning_curve is None or len(curve) < 2:
        return None
    return learning_curve(options.learning_curve, options.seeds[0], curve, results)


def _trained_from(context: Context, results: Sequence[EntryResult]) -> dict[str, Any]:
    """The inputs of the first seed of each trained entry."""
    seed, arms = context.recipe.classifier.seeds[0], [result.name for result in results if result.kind != "baseline"]
    done = {arm: context.trained(arm, seed).done() for arm in arms}  # type: ignore[arg-type]
    return {arm: record["inputs"] for arm, record in done.items() if record is not None}


def _recipes_inputs(context: Context, arms: Iterable[str]) -> dict[str, Any]:
    """What the recipe of now would train the first seed of each arm from; without the arms of which that is not known,
    since the reasonings of the run are not finished."""
    seed, reasonings = context.recipe.classifier.seeds[0], context.run.augmented.done() is not None
    known: list[Any] = [arm for arm in arms if arm == "qa" or reasonings]
    return {arm: arm_inputs(context, arm, seed) for arm in known}


def _journals(context: Context, results: Sequence[EntryResult]) -> Journals:
    """What each seed of each trained entry logged while it was trained."""
    arms: list[Any] = [result.name for result in results if result.kind != "baseline"]
    paths = {arm: [context.trained(arm, seed).metrics for seed in context.recipe.classifier.seeds] for arm in arms}
    return {arm: [logged_lines(path) for path in of_seeds] for arm, of_seeds in paths.items()}


def falling_arms(context: Context) -> list[str]:
    """The trained arms whose loss was still falling at the end of the first seed's training."""
    arms, seed = context.recipe.classifier.arms, context.recipe.classifier.seeds[0]
    return [arm for arm in arms if still_falling(logged_lines(context.trained(arm, seed).metrics))]


def _training_cost(context: Context, result: EntryResult) -> TrainingCost:
    arm: Any = result.name
    done = [(context.trained(arm, seed).done() or {})["results"] for seed in context.recipe.classifier.seeds]
    means = {key: sum(record[key] for record in done) / len(done) for key in ("steps", "tokens", "seconds")}
    return TrainingCost(
        **means,
        planned=done[0].get("planned", done[0]["steps"]),
        rows=done[0]["rows"],
        best_step=[record["best_step"] for record in done],
    )


def _write_validation_predictions(context: Context, arm: MeasuredArm) -> None:
    """validation.jsonl of an arm's first seed: what a review shows of rows that it was not trained on."""
    scored, rows = arm.scores[0].validation[arm.main_way], context.data.validation
    calibration, single = arm.calibrations[0], context.data.single
    probabilities = calibration.probabilities(scored.log_probabilities, arm.main_way)
    thresholds = calibration.thresholds(arm.main_way, single)
    lines = (
        row | {"reasoning": reasoning}
        for row, reasoning in zip(
            predicted_rows(context, probabilities, rows, thresholds), scored.reasonings, strict=True
        )
    )
    write_jsonl(context.run.validation_predictions(arm.arm), lines)


def _write_predictions(
    context: Context, measured: Sequence[MeasuredArm], entries: Sequence[EntryPredictions], rows: EvaluationRows
) -> None:
    """predictions.jsonl of every arm and seed: each test row with its calibrated probabilities, its reasoning, and
    whether the comparisons use it."""
    seeds, chosen = context.recipe.classifier.seeds, choose_arm(entries)
    for arm, entry in zip(measured, entries, strict=True):
        for place, (seed, scores, probabilities) in enumerate(zip(seeds, arm.scores, entry.probabilities, strict=True)):
            thresholds = arm.calibrations[place].thresholds(arm.main_way, rows.single)
            predicted = predicted_rows(context, probabilities, thresholds=thresholds)
            scored = scores.test[scores.main_way]
            reasonings = list(scored.reasonings)
            if seed == seeds[0] and arm.arm == chosen and scores.main_way == "direct" and writes_reasoning(arm.arm):
                _add_explanations(context, arm.arm, reasonings, probabilities, entries)
            details = zip(scored.mass.tolist(), reasonings, scored.tokens, rows.compared.tolist(), strict=True)
            lines = (
                row | {"mass": mass, "reasoning": reasoning, "tokens": tokens, "compared": compared} | first
                for row, (mass, reasoning, tokens, compared), first in zip(
                    predicted, details, _first_answers(arm, place, rows), strict=True
                )
            )
            write_jsonl(context.run.predictions(arm.arm + context.seed_suffix(seed)), lines)


def _first_answers(arm: MeasuredArm, seed: int, rows: EvaluationRows) -> list[dict[str, Any]]:
    """For each test row what an arm that answers twice answered before its reasoning, with the seed at that place."""
    if not answers_twice(arm.arm):
        return [{}] * len(rows.test)
    direct = arm.scores[seed].test["direct"].log_probabilities
    calibrated = arm.calibrations[seed].probabilities(direct, "direct")
    best = calibrated.argmax(1).tolist()
    chances = calibrated.max(1).tolist()
    return [
        {"first": {"label": rows.labels[label], "probability": probability}}
        for label, probability in zip(best, chances, strict=True)
    ]


def _add_explanations(
    context: Context,
    arm: Arm,
    reasonings: list[str | None],
    probabilities: FloatArray,
    entries: Sequence[EntryPredictions],
) -> None:
    """Fill in the reasonings of an arm that writes the label first, for the most confident rows of each outcome that
    the report shows beside label-only."""
    test, labels = context.data.test_rows(), context.data.names
    truth = np.array([labels.index(row.label) for row in test])
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    label_only = next((entry.probabilities[0].argmax(1) for entry in entries if entry.name == "qa"), predicted)
    first_correct, second_correct = label_only == truth, predicted == truth
    shown: list[int] = []
    for second_outcome, first_outcome in ((True, False), (False, True), (False, False), (True, True)):
        rows = np.flatnonzero((second_correct == second_outcome) & (first_correct == first_outcome))
        shown += rows[np.argsort(-confidence[rows], kind="stable")][:_EXPLAINED_EXAMPLES].tolist()
    texts, predicted_labels = [test[row].text for row in shown], [labels[predicted[row]] for row in shown]
    for row, reasoning in zip(shown, explain(context, arm, texts, predicted_labels), strict=True):
        reasonings[row] = reasoning


def _run_facts(context: Context) -> RunFacts:
    recipe, base = context.recipe, context.model.files
    versions = {"rir-mlx": __version__, "python": platform.python_version()}
    for package in ("numpy", "scikit-learn", "transformers", "torch", "mlx", "mlx-lm"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    parts = {part: getattr(recipe.data, part) for part in ("train", "validation", "test")}
    sources = {part: source.path if source else None for part, source in parts.items()}
    return RunFacts(
        name=context.run.folder.name,
        command=context.command,
        finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        versions=versions,
        **_measured_with(context),
        seed=recipe.seed,
        seeds=list(recipe.classifier.seeds),
        model=ModelFacts(name=base.name, revision=base.revision, fingerprint=base.fingerprint),
        data=DataFacts(digest=context.data.digest, **sources),
        recipe=dump_recipe(recipe),
    )


def _measured_with(context: Context) -> dict[str, str]:
    """The backends, devices and number formats of the scores, of which some may be of another day and machine."""
    found = sorted(set[MadeWith]().union(*context.measured_with.values()))
    columns = zip(MadeWith._fields, zip(*found, strict=True), strict=True)
    return {key: " and ".join(dict.fromkeys(values)) for key, values in columns}
