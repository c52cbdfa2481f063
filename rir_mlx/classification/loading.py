"""From a run's folder to its trained classifier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from rir_mlx import __version__
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.exported import ExportedRun
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.errors import UserError
from rir_mlx.models import adapters
from rir_mlx.models.fingerprint import kept_digest
from rir_mlx.progress import who_were
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.recipe.schema import Recipe
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.storage.atomic import read_json
from rir_mlx.storage.digests import digest_of, digest_of_file
from rir_mlx.storage.layout import RunDir, Stage
from rir_mlx.training.recipe_model import RecipeModel
from rir_mlx.types import CONTROLS, Arm

_WRITTEN_AGAIN = "Delete it; `rir-mlx evaluate` then writes it again."


def trained_stage(run: RunDir, recipe: Recipe, arm: Arm, seed: int | None = None) -> Stage:
    """The folder of an arm that was trained with a seed: the recipe's first where none is given."""
    return run.classifier(arm + seed_suffix(recipe, recipe.classifier.seeds[0] if seed is None else seed))


def trained_at(run: RunDir, recipe: Recipe, arm: Arm) -> float:
    """When an arm's training ended, in seconds since 1970."""
    return (
        run.exported.created if isinstance(run, ExportedRun) else trained_stage(run, recipe, arm).record.stat().st_mtime
    )


def seed_suffix(recipe: Recipe, seed: int) -> str:
    """How a seed's artifacts are named apart from those of the first one, which classifies and is exported."""
    return "" if seed == recipe.classifier.seeds[0] else f"-seed{seed}"


@dataclass(frozen=True)
class StoredClassifier:
    """A trained arm as it lies in a run, before a model is loaded: the `folder` of its adapter, the adapter, what it is
    asked, and its calibration if it has been measured."""

    folder: Path
    adapter: adapters.Adapter
    task: ClassificationTask
    calibration: Calibration | None


def read_classifier(run: RunDir, model: RecipeModel, arm: Arm, seed: int | None = None) -> StoredClassifier:
    """A trained arm, of the recipe's first seed unless another is given.

    Raises UserError if the arm is not trained, ModelError if its adapter is damaged or of another base model."""
    if isinstance(run, ExportedRun):
        raise UserError(f"{run.folder} is an export itself.", hint="Name the run that it comes from.")
    stage = trained_stage(run, model.recipe, arm, seed)
    if stage.done() is None:
        trained = ", ".join(run.trained_arms())
        raise UserError(
            f"{run.folder} has no trained {arm} classifier.",
            hint="Run `rir-mlx train-classifier` with the same recipe first"
            + (f", or name a trained arm: {trained}." if trained else "."),
        )
    adapter = adapters.read_adapter(stage.adapter, model.files)
    limit, no_label = model.recipe.evaluate.max_reasoning_tokens, model.recipe.data.no_label
    task = ClassificationTask.from_dict(adapter.about["task"])
    task = replace(task, max_reasoning_tokens=limit, no_label=no_label if task.combinations else None)
    wanted, stored = model.recipe.evaluate.wanted_accuracy, _stored_calibration(stage)
    calibration = stored if stored is None and wanted is None else (stored or Calibration()).wanting(wanted)
    return StoredClassifier(stage.adapter, adapter, task, calibration)


def load_classifier(run: RunDir, model: RecipeModel, arm: Arm, seed: int | None = None) -> Classifier:
    """`read_classifier`, with its model loaded; or the classifier of an export. Raises the same errors."""
    if isinstance(run, ExportedRun):
        return run.load(model, arm)
    stored = read_classifier(run, model, arm, seed)
    return Classifier(model.load(stored.adapter), model.codec, stored.task, arm, stored.calibration)


def _stored_calibration(stage: Stage) -> Calibration | None:
    """The calibration beside an adapter, unless it was measured on another one."""
    if not stage.calibration.is_file():
        return None
    stored = read_json(stage.calibration, _WRITTEN_AGAIN)
    if stored["adapter"] != digest_of_file(stage.adapter / adapters.MLX_WEIGHTS):
        return None
    try:
        return Calibration.from_dict(stored["calibration"])
    except ValueError as error:
        raise UserError(
            f"{stage.calibration} is no calibration that this rir-mlx reads: {error}.", hint=_WRITTEN_AGAIN
        ) from error


def default_arm(run: RunDir) -> Arm:
    """The arm that answers if none is named, see `arm_to_use`."""
    return arm_to_use(run)[0]


def arm_to_use(run: RunDir) -> tuple[Arm, str]:
    """The arm that answers if none is named, and why in a few words: the one that the evaluation recommends; the
    reasoning arm that it chose, where it recommends a baseline or nothing; and before any was measured, the first
    trained one that reasons.

    Raises UserError if the run has no trained classifier."""
    trained = run.trained_arms()
    if not trained:
        raise UserError(
            f"{run.folder} holds no trained classifier.",
            hint="`rir-mlx demo` makes one in about a minute; `rir-mlx run RECIPE` makes yours.",
        )
    if run.comparison.is_file():
        hint = f"Run `rir-mlx evaluate {run.folder}` to write it again, or name an arm."
        comparison = read_json(run.comparison, hint)
        recommended, why, chosen = (comparison.get(key) for key in ("recommended", "recommendation", "chosen"))
        again = _trained_again(run, comparison)
        if recommended in trained:
            return cast(Arm, recommended), f"The evaluation recommends it{again}. {why}"
        if chosen in trained:
            found = [entry for entry in comparison.get("entries") or () if entry.get("name") == chosen]
            validated = any(entry.get("validation_accuracy") is not None for entry in found)
            best = "is the best on the validation rows" if validated else "generates the fewest tokens"
            told = f"Of the arms that reason it {best}{again}." if found else f"The evaluation chose it{again}."
            return cast(Arm, chosen), f"{told} {why}".rstrip() if why else told
    order: tuple[Arm, ...] = ("qra", "qarqa", "qar", "multitask", "curriculum", "qa", *CONTROLS)
    return next(arm for arm in order if arm in trained), ""


def trained_since(
    run: RunDir, measured: Iterable[tuple[str, Sequence[int]]], finished: str, *, gone_too: bool = False
) -> list[str]:
    """Of arms with their seeds that an evaluation of a run, `finished` at that time, `measured`: those of which other
    weights lie in the run now, or were measured since. Weights that are gone count only if `gone_too`."""
    names = {
        arm: [arm + (f"-seed{seed}" if place else "") for place, seed in enumerate(seeds)] for arm, seeds in measured
    }
    there = {arm: [name for name in found if gone_too or _weights(run, name).is_file()] for arm, found in names.items()}
    return [arm for arm, found in there.items() if not all(_is_measured(run, name, finished) for name in found)]


def _weights(run: RunDir, name: str) -> Path:
    return run.classifier(name).adapter / adapters.MLX_WEIGHTS


def _is_measured(run: RunDir, name: str, finished: str) -> bool:
    done, weights = run.evaluation(name).done(), _weights(run, name)
    if done is None or not weights.is_file() or kept_digest(weights)[:16] != done["inputs"].get("adapter"):
        return False
    try:
        return _time_of(done["finished"]) <= _time_of(finished)
    except (KeyError, ValueError):  # changed by hand, or of another version
        return False


def _time_of(written: str) -> datetime:
    return datetime.strptime(written, "%Y-%m-%dT%H:%M:%S%z")


def _trained_again(run: RunDir, comparison: dict[str, Any]) -> str:
    """What a sentence about an evaluation says of arms that were trained since; empty if none was."""
    measured = [
        (entry["name"], entry["seeds"])
        for entry in comparison.get("entries") or ()
        if entry.get("kind") != "baseline" and entry.get("seeds")
    ]
    found = trained_since(run, measured, (comparison.get("run") or {}).get("finished", ""))
    return f", but {who_were(found)} trained again since" if found else ""


def classifier_identity(run: RunDir, model: RecipeModel, arm: Arm, options: PredictOptions) -> str:
    """A short hash of everything that decides a classifier's answers, the backend included: backends differ in their
    last digits."""
    stage, recipe = run.classifier(arm), model.recipe
    weights = stage.adapter / adapters.MLX_WEIGHTS
    values: dict[str, Any] = {
        "adapter": digest_of_file(weights) if weights.is_file() else None,  # an export has none beside its model
        "made": {path.name: digest_of_file(path) for path in sorted(stage.folder.glob("*.json"))},
        "base": model.files.fingerprint,
        "backend": model.backend.name,
        "dtype": model.number_format,
        "date": recipe.date,
        "evaluate": recipe.evaluate.model_dump(mode="json"),
        "arm": arm,
        "how": asdict(options),
        "rir_mlx": __version__,
    }
    return digest_of(values)
