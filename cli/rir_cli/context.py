"""From a command's options to the run that it works on."""

from __future__ import annotations

import glob
import json
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rir_mlx.recipe.schema import Recipe
    from rir_mlx.stages import Context


def context_for(
    recipe: str | None,
    overrides: list[str] | None,
    runs: Path,
    backend: str | None,
    *,
    offline: bool,
    quiet: bool,
    force: bool = False,
) -> Context:
    """The run that a command works on: the one named, the recipe's, or the newest."""
    prepare(offline=offline)
    from rir_cli.console import ConsoleProgress
    from rir_mlx.backends import open_backend
    from rir_mlx.progress import Silent
    from rir_mlx.stages import Context, resolve_recipe
    from rir_mlx.storage.layout import RunDir

    extra = tuple(overrides or ()) + ((f"backend={backend}",) if backend else ())
    folder, loaded = _find_run(recipe, extra, runs)
    opened = open_backend(loaded.backend)
    progress = Silent() if opened.processes.rank else ConsoleProgress(quiet=quiet)  # the first process speaks for all
    command = shlex.join(["rir-mlx", *sys.argv[1:]])
    context = Context(RunDir(folder), loaded, opened, progress, force, command)
    resolve_recipe(context)
    return context


def _find_run(recipe: str | None, extra: tuple[str, ...], runs: Path) -> tuple[Path, Recipe]:
    from rir_mlx.recipe.loading import load_recipe
    from rir_mlx.storage.layout import RunDir, newest_run

    if recipe is not None and (Path(recipe) / "recipe.yaml").is_file():
        return Path(recipe), RunDir(Path(recipe)).recipe(extra)
    if recipe is None and (newest := newest_run(runs)) is not None:
        return newest.folder, newest.recipe(extra)
    loaded = load_recipe(recipe or "emotion", extra)
    return runs / loaded.name, loaded


def data_context(data: str | None, overrides: list[str] | None, runs: Path, *, offline: bool, quiet: bool) -> Context:
    """What an audit works on: the rows of a file or data set under the default recipe, or of a recipe or run.

    Resolves no model and opens no framework: neither has to be there to read rows."""
    prepare(offline=offline)
    from rir_cli.console import ConsoleProgress
    from rir_mlx.backends import open_backend
    from rir_mlx.recipe.loading import load_recipe
    from rir_mlx.stages import Context
    from rir_mlx.storage.layout import RunDir

    extra = tuple(overrides or ())
    if data is not None and _holds_rows(data):
        loaded = load_recipe(
            None, (f"data.train={json.dumps(data, ensure_ascii=False)}", *extra)
        )  # quoted: a pattern may start with *
        folder = runs / loaded.name
    else:
        folder, loaded = _find_run(data, extra, runs)
    return Context(RunDir(folder), loaded, open_backend("fake"), ConsoleProgress(quiet=quiet))


def _holds_rows(data: str) -> bool:
    """Whether a name is one of rows, and not that of a recipe or a run."""
    from rir_mlx.data.tables import SUFFIXES
    from rir_mlx.recipe.loading import SHIPPED

    path = Path(data)
    if data in SHIPPED or (path / "recipe.yaml").is_file() or path.suffix in (".yaml", ".yml"):
        return False
    there = path.exists() and (path.is_dir() or bool(path.suffix))
    return there or data.startswith("builtin:") or path.suffix in SUFFIXES or glob.has_magic(data) or "/" in data


def trained_context(run: str | None, runs: Path, backend: str | None, *, offline: bool, quiet: bool) -> Context:
    """The named run, or the newest one, which must have a trained classifier."""
    from rir_mlx.errors import UserError
    from rir_mlx.storage.layout import RunDir, newest_run

    found = RunDir(Path(run)) if run else newest_run(runs, trained=True)
    if found is None or not found.recipe_file.is_file() or not found.trained_arms():
        where = f"{run} holds" if run else f"There is no run in {runs}/ with"
        raise UserError(
            f"{where} no trained classifier." if run else f"{where} a trained classifier.",
            hint="`rir-mlx demo` makes one in two minutes; `rir-mlx run RECIPE` makes yours.",
        )
    return context_for(str(found.folder), None, runs, backend, offline=offline, quiet=quiet)


def prepare(*, offline: bool) -> None:
    """Before any library is imported that reads these: no telemetry, and no network where none is wanted."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # What libraries plan for later versions, and what PEFT finds odd in mlx-lm's keys: nothing that a user can mend.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Unexpected keyword arguments", category=UserWarning)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
