"""`rir-mlx pilot`: what a recipe's run will probably say, from a trial of minutes."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from rir_cli.context import note_default, say_next, set_words, stage_options
from rir_cli.options import (
    BackendOption,
    ForceOption,
    JsonOption,
    OfflineOption,
    QuietOption,
    RecipeArgument,
    RunsOption,
    SetOption,
    TrustRecipeOption,
)
from rir_mlx.types import DEFAULT_RECIPE, RUNS


def pilot(
    recipe: RecipeArgument = None,
    rows: Annotated[int, typer.Option(min=40, help="Training rows of the trial.")] = 300,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    trust_recipe: TrustRecipeOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Train on a few hundred rows, and say what the whole run will probably find and how long it will take.

    The trial is a run of its own, NAME-pilot. It measures on training rows that it did not train on: the test rows
    stay unseen.
    """
    import rir_mlx
    from rir_cli.console import print_json, print_outlook

    options = stage_options(quiet=quiet, runs=runs, overrides=set_ or (), backend=backend, offline=offline, force=force)
    options["trust_recipe"] = trust_recipe
    note_default(recipe, options)
    found = rir_mlx.pilot(recipe, rows=rows, **options)
    if found is None:
        return
    print_json(found.as_dict()) if json else print_outlook(found)
    given = [*set_words(set_ or ()), *(("--backend", backend) if backend else ())]
    say_next(options, shlex.join(["run", recipe or DEFAULT_RECIPE, *given]))
