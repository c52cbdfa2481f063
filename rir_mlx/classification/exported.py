"""A classifier in a folder that `rir-mlx export` wrote: what it is asked and how it is calibrated, beside its weights.

The folder is a run with a single trained arm to whoever classifies. It holds no rows, so it can be neither evaluated
nor reviewed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from rir_mlx import __version__
from rir_mlx.classification.classifier import Classifier
from rir_mlx.errors import RecipeError, UserError
from rir_mlx.models import adapters
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.recipe.loading import load_recipe, validated
from rir_mlx.recipe.schema import Recipe
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.storage.atomic import read_json, write_json
from rir_mlx.storage.layout import RunDir, Stage
from rir_mlx.training.recipe_model import RecipeModel
from rir_mlx.types import Arm, ExportFormat

FILE = "rir_mlx.json"
_VERSION = 1
_AGAIN = "Export it again: rir-mlx export RUN --to hf (or mlx, or adapter)."
_READABLE: tuple[ExportFormat, ...] = ("hf", "mlx", "adapter")


@dataclass(frozen=True)
class ExportedClassifier:
    """What an export says of its classifier. `name` is the run's, `created` when its training ended (seconds since
    1970). `base` and `revision` name the base model of an adapter; the folder itself is the model if they are None."""

    name: str
    arm: Arm
    form: ExportFormat
    task: ClassificationTask
    calibration: Calibration
    created: float
    base: str | None
    revision: str | None
    recipe: dict[str, Any]
    """Values of the recipe's keys that classifying depends on, by section."""


def write_exported(folder: Path, exported: ExportedClassifier) -> None:
    """Write what the folder's classifier is asked beside its weights."""
    values = asdict(exported) | {"calibration": exported.calibration.as_dict()}
    write_json(folder / FILE, {"version": _VERSION, "rir_mlx": __version__} | values)


def needed_keys(recipe: Recipe) -> dict[str, Any]:
    """The recipe's keys that classifying depends on, of which none tells anything about rows."""
    values = recipe.model_dump(mode="json")
    used = ("batch_size", "samples", "sample_temperature", "max_reasoning_tokens")
    evaluate = {key: values["evaluate"][key] for key in used}
    return {
        "dtype": AdapterSpec(recipe.fine_tune_type).base_dtype(recipe.dtype),  # as the run's own is computed
        "date": values["date"],
        "max_seq_length": values["max_seq_length"],
        "data": {"text_column": values["data"]["text_column"], "instruction": values["data"]["instruction"]},
        "evaluate": evaluate,
    }


class ExportedRun(RunDir):
    """An exported folder, as a run whose only arm is the exported one."""

    def __init__(self, folder: Path, exported: ExportedClassifier) -> None:
        super().__init__(folder)
        self.exported = exported

    @property
    def name(self) -> str:
        return self.exported.name

    def classifier(self, arm: str) -> Stage:
        """The folder itself; one that is not there for any other arm."""
        if arm != self.exported.arm:
            return super().classifier(arm)
        stage = Stage(self.folder)
        stage.record, stage.adapter = self.folder / FILE, self.folder
        return stage

    def trained_arms(self) -> list[str]:
        return [self.exported.arm]

    def recipe(self, overrides: tuple[str, ...] = ()) -> Recipe:
        """The recipe that classifies as the run does. It names none of the run's rows. Raises UserError for keys or
        values that are none of a recipe's: another version may have written them."""
        exported = self.exported
        model = {"model": exported.base or str(self.folder.absolute()), "revision": exported.revision}
        try:
            own = validated({"name": exported.name} | exported.recipe | model, str(self.folder / FILE))
        except RecipeError as error:
            raise UserError(error.what, hint=_AGAIN) from error
        return load_recipe(own, overrides)

    def load(self, model: RecipeModel, arm: Arm) -> Classifier:
        """The classifier, with its model loaded.

        Raises UserError for another arm, ModelError if an adapter is damaged or of another base."""
        exported = self.exported
        if arm != exported.arm:
            raise UserError(
                f"{self.folder} holds the {exported.arm} classifier, and no {arm}.",
                hint="Leave out --arm, or name the run.",
            )
        adapter = adapters.read_adapter(self.folder, model.files) if exported.form == "adapter" else None
        loaded = model.load(adapter) if adapter else model.backend.load(model.files.folder, dtype=model.recipe.dtype)
        return Classifier(loaded, model.codec, exported.task, exported.arm, exported.calibration)


def find_export(folder: Path) -> ExportedRun | None:
    """The export in a folder; None if no export is there.

    Raises UserError if it cannot be classified with: it is of another format, or lacks what the classifier is asked."""
    if folder.suffix == ".gguf" or any(folder.glob("*.gguf")):
        raise UserError(
            f"{folder} is an export for llama.cpp, which only llama.cpp's programs run.",
            hint=f"Name the run, or an export of another format. {_AGAIN}",
        )
    if (folder / FILE).is_file():
        return ExportedRun(folder, _read(folder / FILE))
    if (folder / "verification.json").is_file():
        raise UserError(
            f"{folder} lacks {FILE}, which says what a classifier is asked and how it is measured. An adapter that was "
            "fused or converted never has one.",
            hint=f"A run's classifier: {_AGAIN}",
        )
    return None


def _read(path: Path) -> ExportedClassifier:
    values = read_json(path, _AGAIN)
    try:
        if values["version"] != _VERSION:
            raise ValueError(f"its version is {values['version']!r}, not {_VERSION}")
        found = {name: values[name] for name in ExportedClassifier.__dataclass_fields__}
        if found["arm"] not in get_args(Arm) or found["form"] not in _READABLE:
            raise ValueError(f"it names the arm {found['arm']!r} and the form {found['form']!r}")
        kinds: dict[str, Any] = {"name": str, "created": float | int, "base": str | None, "recipe": dict}
        if odd := [name for name, kind in kinds.items() if not isinstance(found[name], kind)]:
            raise ValueError(f"its {odd[0]} is {found[odd[0]]!r}")
        found["task"] = ClassificationTask.from_dict(found["task"])
        if not isinstance(found["task"].labels, dict) or not found["task"].labels:
            raise ValueError("it names no labels")
        found["calibration"] = Calibration.from_dict(found["calibration"])
        return ExportedClassifier(**found)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error!r}.", hint=_AGAIN) from error
