"""Which classifier of a run answers, what decides its answers, and the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from rir_mlx import __version__
from rir_mlx.classification.classifier import Classifier, Decoding, Prediction
from rir_mlx.errors import UserError
from rir_mlx.models import adapters
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.stages.context import Context
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.storage.atomic import read_json
from rir_mlx.storage.digests import digest_of, digest_of_file
from rir_mlx.types import CONTROLS, Arm

_CHUNK = 256


def load_classifier(context: Context, arm: Arm, seed: int | None = None) -> Classifier:
    """A trained arm, of the recipe's first seed where none is named, calibrated where it has been measured."""
    stage = context.trained(arm, context.recipe.classifier.seeds[0] if seed is None else seed)
    if stage.done() is None:
        raise UserError(
            f"{context.run.folder} has no trained {arm} classifier.", hint="Run `rir-mlx train-classifier` first."
        )
    adapter = adapters.read_adapter(stage.adapter, context.base)
    task = replace(
        ClassificationTask(**adapter.about["task"]), max_reasoning_tokens=context.recipe.evaluate.max_reasoning_tokens
    )
    calibration = None
    if stage.calibration.is_file():
        stored = read_json(stage.calibration)
        if stored["adapter"] == digest_of_file(stage.adapter / adapters.MLX_WEIGHTS):
            calibration = Calibration.from_dict(stored["calibration"])
    return Classifier(context.load(adapter), context.codec, task, arm, calibration)


def default_arm(context: Context) -> Arm:
    """The arm that answers where none is named: the reasoning arm that was best on the validation rows; before they
    were measured, the first that reasons.

    Raises UserError where the run has no trained classifier."""
    trained = context.run.trained_arms()
    if not trained:
        raise UserError(
            f"{context.run.folder} holds no trained classifier.",
            hint="`rir-mlx demo` makes one in two minutes; `rir-mlx run RECIPE` makes yours.",
        )
    if context.run.comparison.is_file() and (best := read_json(context.run.comparison).get("chosen")) in trained:
        found: Arm = best
        return found
    order: tuple[Arm, ...] = ("qra", "qar", "multitask", "qa", *CONTROLS)
    return next(arm for arm in order if arm in trained)


def classifier_identity(context: Context, arm: Arm, how: Decoding) -> str:
    """A short hash of everything that decides what a classifier answers. The backend does: its last digits are its
    own."""
    stage = context.run.classifier(arm)
    values: dict[str, Any] = {
        "adapter": digest_of_file(stage.adapter / adapters.MLX_WEIGHTS),
        "made": {path.name: digest_of_file(path) for path in sorted(stage.folder.glob("*.json"))},
        "base": context.base.fingerprint,
        "backend": context.backend.name,
        "dtype": context.recipe.dtype,
        "date": context.recipe.date,
        "evaluate": context.recipe.evaluate.model_dump(mode="json"),
        "arm": arm,
        "how": asdict(how),
        "rir_mlx": __version__,
    }
    return digest_of(values)


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
