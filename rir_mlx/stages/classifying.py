"""A run's trained classifiers, and texts of the user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rir_mlx import adapters
from rir_mlx.calibration import Calibration
from rir_mlx.classifier import Classifier, Decoding, Prediction, Task
from rir_mlx.errors import UserError
from rir_mlx.prompts import CONTROLS, Arm
from rir_mlx.run import digest_of_file, read_json
from rir_mlx.stages.context import Context

_CHUNK = 256


def load_classifier(context: Context, arm: Arm, seed: int | None = None) -> Classifier:
    """A trained arm, of the recipe's first seed where none is named, calibrated where it has been measured."""
    stage = context.trained(arm, context.recipe.classifier.seeds[0] if seed is None else seed)
    if stage.done() is None:
        raise UserError(
            f"{context.run.folder} has no trained {arm} classifier.", mend="Run `rir-mlx train-classifier` first."
        )
    adapter = adapters.read_adapter(stage.adapter, context.base)
    task = replace(Task(**adapter.about["task"]), max_reasoning_tokens=context.recipe.evaluate.max_reasoning_tokens)
    calibration = None
    if stage.calibration.is_file():
        stored = read_json(stage.calibration)
        if stored["adapter"] == digest_of_file(stage.adapter / adapters.MLX_WEIGHTS):
            calibration = Calibration.from_dict(stored["calibration"])
    return Classifier(context.load(adapter), context.codec, task, arm, calibration)


def default_arm(context: Context) -> Arm:
    """The arm that classifies where none is named: the reasoning arm that was best on the validation rows; before they
    are measured, the first that reasons."""
    trained = context.run.trained_arms()
    if context.run.comparison.is_file() and (best := read_json(context.run.comparison).get("chosen")) in trained:
        found: Arm = best
        return found
    order: tuple[Arm, ...] = ("qra", "qar", "multitask", "qa", *CONTROLS)
    return next(arm for arm in order if arm in trained)


def predict(
    context: Context, classifier: Classifier, texts: Sequence[str], how: Decoding | None = None, *, what: str
) -> Iterator[Prediction]:
    """Classify many texts, with progress."""
    how = how or Decoding(batch_size=context.recipe.evaluate.batch_size)
    with context.progress.task(what, len(texts)) as task:
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            yield from classifier.predict(chunk, how)
            task.advance(len(chunk))
