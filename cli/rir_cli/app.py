"""The commands. Frameworks are imported inside them, so that `--help` answers at once."""

from __future__ import annotations

import os
import shutil
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from rir_cli.checking import check
from rir_cli.classifying import classify
from rir_cli.context import context_for
from rir_cli.converting import convert, export
from rir_cli.options import RUNS, ArmChoice, BackendOption, JsonOption, OfflineOption, QuietOption, RunsOption
from rir_mlx import __version__

if TYPE_CHECKING:
    from rir_mlx.evaluation.schema import Comparison
    from rir_mlx.stages import Context

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train text classifiers that write their reasoning before their label, and measure whether that helped.",
    epilog="Start with `rir-mlx demo`: the whole pipeline, offline, in about two minutes.",
)


class EngineChoice(StrEnum):
    local = "local"
    openai = "openai"
    ray = "ray"


RecipeArgument = Annotated[
    str | None,
    typer.Argument(help="A recipe file, a shipped recipe (demo, emotion, emotion-tiny, paper), or a run's folder."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a recipe key, as rgen.epochs=1.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Run again even where nothing changed.")]
_INTERRUPTED = 130
_PROMPTS = 3

app.command()(check)


@app.command("train-rgen")
def train_rgen(
    recipe: RecipeArgument = None,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    force: ForceOption = False,
) -> None:
    """Stage 1: teach the base model to write a reasoning from a question and its answer (R-Gen)."""
    from rir_mlx import stages

    stages.train_rgen(context_for(recipe or "emotion", set_, runs, backend, offline=offline, quiet=quiet, force=force))


@app.command()
def augment(
    recipe: RecipeArgument = None,
    engine: Annotated[
        EngineChoice | None,
        typer.Option(help="local: in this process; ray: a Ray cluster; openai: a server.", show_default=False),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Address of an OpenAI-compatible server, as http://127.0.0.1:8080/v1.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows, to try it out.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the exact prompts of the first rows (3, or --limit) and stop.")
    ] = False,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Let R-Gen write a reasoning for every labelled row, and keep those that pass the filters."""
    from rir_cli.console import print_augmentation, print_json, print_prompts
    from rir_mlx import stages

    chosen = engine or ("openai" if base_url else None)
    extra = [f"augment.base_url={base_url}"] if base_url else []
    extra += [f"augment.engine={chosen}"] if chosen else []
    overrides = [*(set_ or []), *extra]
    context = context_for(recipe, overrides, runs, backend, offline=offline, quiet=quiet, force=force)
    if dry_run:
        prompts = stages.exact_prompts(context, limit or _PROMPTS)
        print_json(list(prompts)) if json else print_prompts(prompts)
        return
    from rir_mlx.storage.atomic import read_json

    stages.augment_rows(context, limit)
    if _is_main(context) and context.run.stats().is_file():
        stats = read_json(context.run.stats())
        print_json(stats) if json else print_augmentation(stats)


@app.command("train-classifier")
def train_classifier(
    recipe: RecipeArgument = None,
    arm: Annotated[
        list[ArmChoice] | None, typer.Option(help="Arms to train; the recipe's where none is named.")
    ] = None,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    force: ForceOption = False,
) -> None:
    """Stage 2: train the classifier's arms: label only (qa), reasoning then label (qra), label then reasoning (qar)."""
    from rir_mlx import stages

    context = context_for(recipe, set_, runs, backend, offline=offline, quiet=quiet, force=force)
    for one in [choice.value for choice in arm] if arm else context.recipe.classifier.arms:
        stages.train_classifier(context, one)


@app.command()
def evaluate(
    recipe: RecipeArgument = None,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
    png: Annotated[bool, typer.Option("--png", help="The report's charts as PNG files too (matplotlib).")] = False,
) -> None:
    """Measure the trained arms on the test rows, and say whether reasoning helped."""
    from rir_mlx import stages
    from rir_mlx.evaluation.report.plots import check_installed, write_plots

    if png:
        check_installed()
    context = context_for(recipe, set_, runs, backend, offline=offline, quiet=quiet, force=force)
    comparison = stages.evaluate(context)
    _show_comparison(context, comparison, json=json)
    if png and comparison is not None:
        context.progress.say(f"Charts → {write_plots(context.run.plots, comparison)[0].parent}")


@app.command()
def run(
    recipe: RecipeArgument = None,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """All stages of a recipe. What is done is skipped, so the same command continues an interrupted run."""
    from rir_mlx import stages

    context = context_for(recipe or "emotion", set_, runs, backend, offline=offline, quiet=quiet, force=force)
    _show_comparison(context, stages.run_all(context), json=json)


@app.command()
def demo(
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """The whole pipeline on the embedded synthetic data and model, offline."""
    from rir_mlx import stages

    context = context_for("demo", set_, runs, backend, offline=True, quiet=quiet, force=force)
    context.progress.say("Synthetic sentences and a tiny model that ship with rir-mlx: this shows the method, offline.")
    comparison = stages.run_all(context)
    _show_comparison(context, comparison, json=json)
    if not json and _is_main(context):
        _show_example(context)


app.command()(classify)


app.command()(export)
app.add_typer(convert, name="convert")


@app.command("recipe")
def show_recipe(recipe: RecipeArgument = None, set_: SetOption = None) -> None:
    """Print a recipe with every key spelt out."""
    from rir_mlx.recipe.loading import dump_recipe, load_recipe

    typer.echo(dump_recipe(load_recipe(recipe, set_ or ())), nl=False)


def _show_comparison(context: Context, comparison: Comparison | None, *, json: bool) -> None:
    from rir_cli.console import print_comparison, print_json

    if comparison is None:
        return
    if json:
        print_json(comparison.model_dump(mode="json"))
    else:
        print_comparison(comparison)
    context.progress.say(f"Report → {context.run.report}; figures and predictions → {context.run.comparison.parent}")


def _show_example(context: Context) -> None:
    """The first test row that the arm which was chosen answered with a reasoning."""
    from rir_mlx.classification.loading import default_arm
    from rir_mlx.storage.atomic import read_jsonl

    rows = read_jsonl(context.run.predictions(default_arm(context.run)))
    if (row := next((row for row in rows if row["reasoning"]), None)) is None:
        return
    typer.echo(f"\nText:      {row['text']}\nReasoning: {row['reasoning']}")
    typer.echo(f"Label:     {row['predicted']} ({max(row['probabilities'].values()):.0%}), truth: {row['label']}")
    typer.echo(f'\nNext: {_own_name()} classify "i was afraid of the storm, but now it is over and i can laugh"')


def _own_name() -> str:
    """How this program can be called from here: `make demo` runs it out of a virtual environment that is not active."""
    if shutil.which("rir-mlx"):
        return "rir-mlx"
    return "python -m rir_cli" if sys.argv[0].endswith("__main__.py") else sys.argv[0]


def _is_main(context: Context) -> bool:
    from rir_mlx.backends.processes import is_main

    return is_main(context.processes)


def _rank() -> int:
    """This process among those that `torchrun` or `mlx.launch` started."""
    return int(os.environ.get("RANK") or os.environ.get("MLX_RANK") or 0)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rir-mlx {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Two-stage reasoning-infused text classification (arXiv:2507.00214) on one's own machine."""


def main() -> NoReturn:
    """Run a command. Exit codes: 0 done, 1 the work failed, 2 the user's mistake, 130 interrupted."""
    from rir_mlx.errors import RirError

    try:
        app()
    except RirError as error:
        from rir_cli.console import debugging, print_error

        if debugging():
            raise
        rank = _rank()
        if rank == 0 or error.exit_code == 1:  # a user's mistake is the same in every process
            print_error(error, f"process {rank}: " if rank else "")
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            command = "the same command" + (" without --force" if "--force" in sys.argv else "")
            typer.echo(f"\nInterrupted. What was finished is kept; {command} continues.", err=True)
        raise
    except Exception as error:
        from rir_cli.console import debugging

        if debugging():
            raise
        typer.echo(f"error: {type(error).__name__}: {error}\nRIR_DEBUG=1 shows where.", err=True)
        sys.exit(1)
    sys.exit(0)
