"""From a recipe's name, file or run folder to the context that the stages work with."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rir_mlx.backends import open_backend
from rir_mlx.classification.exported import FILE, ExportedRun, find_export
from rir_mlx.errors import UserError, did_you_mean
from rir_mlx.models.hub import ModelFiles, resolve_model
from rir_mlx.progress import Progress, Silent, process_rank
from rir_mlx.recipe.builtin import BUILTIN
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.recipe.schema import Recipe, SourceSpec
from rir_mlx.stages.context import Context
from rir_mlx.storage.layout import RunDir, all_runs, newest_run
from rir_mlx.training.recipe_model import RecipeModel
from rir_mlx.types import DEFAULT_RECIPE, RUNS, SHIPPED, TABLE_SUFFIXES, BackendName

RecipeSource = str | Path | Recipe | None
"""A recipe; a recipe's file or shipped name; a run's folder; None for the newest run, or the default recipe."""


@dataclass(frozen=True)
class OpenOptions:
    """How a run is opened.

    runs       the folder that holds the runs; a recipe's run is the folder of its name in there
    overrides  recipe keys to change, as `rgen.epochs=1`
    backend    in place of the recipe's
    offline    fetch no model: the base model must be on this machine
    progress   where progress is shown; nowhere by default. Ranks after the first are always silent
    force      run a stage again even if nothing changed
    command    what the user typed, for the report and the model card
    continues  a recipe's file or name stands for the run that it began, with the overrides given there
    trust_recipe  send texts and the key to the server that the recipe names, though the user did not name it
    """

    runs: Path = RUNS
    overrides: Sequence[str] = ()
    backend: BackendName | None = None
    offline: bool = False
    progress: Progress = field(default_factory=Silent)
    force: bool = False
    command: str = ""
    trust_recipe: bool = False
    continues: bool = False


_DEFAULTS = OpenOptions()


def open_run(source: RecipeSource, options: OpenOptions = _DEFAULTS) -> Context:
    """The run of a recipe, with its backend open, its base model found and its recipe resolved.

    Raises RecipeError, ModelError, or UserError if the backend is not installed."""
    run, recipe = find_run(source, options)
    overrides = _overrides(source, run, options)
    if options.continues and not _is_run(source) and (before := overrides[: len(overrides) - len(options.overrides)]):
        options.progress.say(f"note: as at the start of this run: {' '.join(f'-s {text}' for text in before)}")
    backend = open_backend(recipe.backend)
    files = resolve_model(recipe.model, recipe.revision, offline=options.offline)
    model = RecipeModel(_resolved(recipe, files), backend, files)
    progress = Silent() if backend.processes.rank else options.progress
    trusted = _trusts_server(recipe, options)
    return Context(run, model, progress, options.force, options.command, trusted, overrides)


def _is_run(source: RecipeSource) -> bool:
    return source is None or (not isinstance(source, Recipe) and RunDir(Path(source)).recipe_file.is_file())


def _overrides(source: RecipeSource, run: RunDir, options: OpenOptions) -> tuple[str, ...]:
    """The overrides of a run's recipe: those given now, behind those that the run began with."""
    given = tuple(options.overrides)
    if not (options.continues or _is_run(source)):
        return given
    keys = {text.partition("=")[0] for text in given} | {"name"}
    return (*(text for text in run.overrides() if text.partition("=")[0] not in keys), *given)


def _trusts_server(recipe: Recipe, options: OpenOptions) -> bool:
    """Whether the user named the recipe's server: as an override, or in the environment. A recipe may be a stranger's,
    and must not decide who gets the key."""
    if options.trust_recipe or any(text.startswith("augment.base_url=") for text in options.overrides):
        return True
    if recipe.augment.engine != "openai" or not (named := os.environ.get("OPENAI_BASE_URL")):
        return False
    from rir_mlx.augmentation.engines.address import is_same_server  # its HTTP library is needed only with a server

    return is_same_server(named, recipe.augment.base_url or "")


def open_trained_run(folder: str | Path | None, options: OpenOptions = _DEFAULTS) -> Context:
    """A run that has a trained classifier: the one in `folder`, which may be an export, or the newest one.

    Raises UserError if there is none."""
    run = find_trained_run(folder, options.runs)
    if isinstance(run, ExportedRun):
        return _open_export(run, options)
    if run is None or not run.trained_arms():
        there = [str(run.folder) for run in all_runs(options.runs) if run.trained_arms()]
        raise UserError(
            f"There is no run in {options.runs}/ with a trained classifier."
            if folder is None
            else f"{folder} holds no trained classifier.{did_you_mean(str(folder), there)}",
            hint=f"Trained: {', '.join(there)}."
            if there
            else "`rir-mlx demo` makes one in about a minute; `rir-mlx run RECIPE` makes yours.",
        )
    return open_run(run.folder, options)


def find_trained_run(folder: str | Path | None, runs: Path) -> RunDir | None:
    """The run or the export in `folder`, or the newest run with a trained classifier; None if there is none.

    Raises UserError for an export that cannot be classified with."""
    run = newest_run(runs, trained=True) if folder is None else _named_run(Path(folder), runs)
    return run if run is None or run.recipe_file.is_file() else find_export(run.folder)


def _open_export(run: ExportedRun, options: OpenOptions) -> Context:
    """An exported folder, to classify with."""
    recipe = run.recipe((*options.overrides, *((f"backend={options.backend}",) if options.backend else ())))
    backend = open_backend(recipe.backend)
    files = resolve_model(recipe.model, recipe.revision, offline=options.offline)
    return Context(run, RecipeModel(recipe, backend, files), options.progress, command=options.command)


def recipe_of_rows(source: str | None, options: OpenOptions = _DEFAULTS) -> Recipe:
    """The recipe whose rows an audit reads: the default one with a data file, pattern or data set in place of its
    training rows, or that of a recipe or run. Finds no model and opens no framework."""
    if source is not None and _names_rows(source):
        quoted = json.dumps(source, ensure_ascii=False)  # a pattern may start with *
        return load_recipe(None, (f"data.train={quoted}", *options.overrides))
    return find_run(source, options)[1]


NO_RECIPE = f"note: no recipe is named: this is {DEFAULT_RECIPE}, which comes with rir-mlx."


def find_run(source: RecipeSource, options: OpenOptions = _DEFAULTS) -> tuple[RunDir, Recipe]:
    """The run that `source` names and its recipe, which is not resolved yet."""
    overrides = (*options.overrides, *((f"backend={options.backend}",) if options.backend else ()))
    if isinstance(source, Recipe):
        recipe = load_recipe(source, overrides)
        return RunDir(options.runs / recipe.name), recipe
    if source is not None and not str(source).strip():
        raise UserError("The name of the recipe or run is empty.", hint="A variable that is not set, perhaps.")
    run = newest_run(options.runs) if source is None else _named_run(Path(source), options.runs)
    if run is not None and run.recipe_file.is_file():
        return run, run.recipe(overrides)
    if source is not None and (Path(source) / FILE).is_file():
        raise UserError(
            f"{source} is an export: it holds no recipe and no rows.",
            hint="Name the run that it was made from. An export can be classified with, and served.",
        )
    if source is None and process_rank() == 0:
        options.progress.say(NO_RECIPE)
    recipe = load_recipe(DEFAULT_RECIPE if source is None else source, overrides)
    run = RunDir(options.runs / recipe.name)
    if options.continues and (before := _overrides(source, run, options)):
        recipe = load_recipe(DEFAULT_RECIPE if source is None else source, (*before, *overrides))
    return run, recipe


def _named_run(name: Path, runs: Path) -> RunDir:
    """The run in a folder; or, if it is a bare name and no shipped recipe's, the run of that name in the folder of
    runs."""
    inside = RunDir(runs / name)
    bare = len(name.parts) == 1 and str(name) not in SHIPPED and not RunDir(name).recipe_file.is_file()
    return inside if bare and inside.recipe_file.is_file() else RunDir(name)


def _names_rows(source: str) -> bool:
    """Whether a name is one of rows rather than of a recipe or a run."""
    path = Path(source)
    if source in SHIPPED or (path / "recipe.yaml").is_file() or path.suffix in (".yaml", ".yml"):
        return False
    if source.startswith(BUILTIN) or path.suffix in TABLE_SUFFIXES or glob.has_magic(source) or "/" in source:
        return True
    return path.exists() and (path.is_dir() or bool(path.suffix))


def _resolved(recipe: Recipe, files: ModelFiles) -> Recipe:
    """The recipe such that it means the same in any folder and on any day: local paths absolute, the model's revision
    fixed."""
    data = {part: _absolute(getattr(recipe.data, part)) for part in ("train", "validation", "test")}
    encoders = {key: _absolute_folder(getattr(recipe.evaluate, key)) for key in ("encoder", "embedding_model")}
    return recipe.model_copy(
        update={
            "model": str(files.folder.resolve()) if Path(recipe.model).expanduser().is_dir() else recipe.model,
            "revision": files.revision,
            "data": recipe.data.model_copy(update=data),
            "evaluate": recipe.evaluate.model_copy(update=encoders),
            "reasoning": recipe.reasoning.model_copy(update={"source": _absolute(recipe.reasoning.source)}),
        }
    )


def _absolute_folder(name: str | None) -> str | None:
    folder = Path(name or "").expanduser()
    return str(folder.absolute()) if name and folder.is_dir() else name


def _absolute(source: SourceSpec | None) -> SourceSpec | None:
    if source is None or not (Path(source.path).exists() or glob.has_magic(source.path)):
        return source
    return source.model_copy(update={"path": str(Path(source.path).absolute())})
