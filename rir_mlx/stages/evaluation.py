"""The trained arms on the test rows, and on texts of the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rir_mlx import adapters, metrics
from rir_mlx.classifier import Classifier, Prediction, Task
from rir_mlx.errors import UserError
from rir_mlx.prompts import Arm
from rir_mlx.run import digest_of_file, read_json, read_jsonl, write_json, write_jsonl
from rir_mlx.stages.context import Context, by_the_first, is_due

_CHUNK = 256


def load_classifier(context: Context, arm: Arm) -> Classifier:
    stage = context.run.classifier(arm)
    if stage.done() is None:
        raise UserError(
            f"{context.run.folder} has no trained {arm} classifier.", mend="Run `rir-mlx train-classifier` first."
        )
    adapter = adapters.read_adapter(stage.adapter, context.base)
    task = replace(Task(**adapter.about["task"]), max_reasoning_tokens=context.recipe.evaluate.max_reasoning_tokens)
    return Classifier(context.load(adapter), context.codec, task, arm)


@by_the_first
def evaluate(context: Context) -> dict[str, Any]:
    """Measure every trained arm on the test rows, compare them, and write it all down. Returns the comparison."""
    run = context.run
    arms: list[Arm] = [arm for arm in context.recipe.classifier.arms if run.classifier(arm).done() is not None]
    if not arms:
        raise UserError(f"{run.folder} has no trained classifier.", mend="Run `rir-mlx train-classifier` first.")
    test = context.test_rows()
    for arm in arms:
        if (run.classifier(arm).done() or {})["inputs"]["data"] != context.data.digest:
            raise UserError(
                f"The {arm} classifier was trained on other rows, labels or splits than these: some of these test rows "
                "may be among them.",
                mend="Run `rir-mlx train-classifier` again.",
            )
    measured = {arm: _evaluate_arm(context, arm) for arm in arms}
    truth = [row.label for row in test]
    common = metrics.majority([row.label for row in context.data.train])
    baseline = metrics.accuracy(truth, [common] * len(truth))
    comparison: dict[str, Any] = {
        "test_rows": len(test),
        "majority": {"label": common, "accuracy": asdict(baseline)},
        "arms": measured,
    }
    if "qa" in arms and "qra" in arms:
        labels = {arm: [row["predicted"] for row in read_jsonl(run.predictions(arm))] for arm in arms}
        paired = metrics.compare(("qa", labels["qa"]), ("qra", labels["qra"]), truth)
        steps = {arm: values["planned_steps"] for arm, values in measured.items()}
        unmatched = f"The arms were given different numbers of steps ({steps}): no verdict. Train both again."
        matched = len(set(steps.values())) == 1
        comparison |= {"paired": asdict(paired), "verdict": metrics.verdict(paired) if matched else unmatched}
    write_json(run.comparison, comparison)
    return comparison


def _evaluate_arm(context: Context, arm: Arm) -> dict[str, Any]:
    stage, test = context.run.evaluation(arm), context.data.test
    trained = context.run.classifier(arm)
    inputs = {
        "adapter": digest_of_file(trained.adapter / adapters.MLX_WEIGHTS),
        "data": context.data.digest,
        "evaluate": context.recipe.evaluate.model_dump(mode="json", exclude={"batch_size"}),
        "max_seq_length": context.recipe.max_seq_length,
    }
    measured = stage.folder / "metrics.json"
    if not is_due(context, stage, inputs, f"evaluation {arm}"):
        return read_json(measured)
    stage.begin()
    classifier = load_classifier(context, arm)
    predictions = predict(context, classifier, [row.text for row in test], what=f"evaluate {arm}")
    write_jsonl(
        context.run.predictions(arm),
        (
            {"text": row.text, "label": row.label, "predicted": one.label, "reasoning": one.reasoning}
            | {"probabilities": one.probabilities, "mass": one.mass}
            for row, one in zip(test, predictions, strict=True)
        ),
    )
    truth, labels = [row.label for row in test], [one.label for one in predictions]
    done = trained.done() or {}
    values = {
        "accuracy": asdict(metrics.accuracy(truth, labels)),
        "macro_f1": metrics.macro_f1(truth, labels, list(context.data.labels)),
        "trimmed_texts": sum(one.trimmed > 0 for one in predictions),
        "mean_mass": sum(one.mass for one in predictions) / len(predictions),
        "training_steps": done["results"]["steps"],
        "planned_steps": done["results"].get("planned", done["results"]["steps"]),
        "training_tokens": done["results"]["tokens"],
        "training_rows": done["results"]["rows"],
    }
    write_json(measured, values)
    stage.finish(inputs)
    return values


def predict(context: Context, classifier: Classifier, texts: Sequence[str], *, what: str) -> list[Prediction]:
    """Classify many texts, with progress."""
    predictions: list[Prediction] = []
    with context.progress.task(what, len(texts)) as task:
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            predictions += classifier.predict(chunk, batch_size=context.recipe.evaluate.batch_size)
            task.advance(len(chunk))
    return predictions
