"""The commands. Frameworks are imported inside them, so that `--help` answers at once."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn, cast, get_args

import typer

import rir_mlx
from rir_cli.answering.classifying import classify
from rir_cli.answering.mcp_server import mcp
from rir_cli.answering.reviewing import review
from rir_cli.answering.serving import serve
from rir_cli.checking import check
from rir_cli.context import note_default, open_options, own_name, say_next, stage_options, tell
from rir_cli.converting import convert, export
from rir_cli.groups import Command, Group
from rir_cli.looking.benching import bench
from rir_cli.looking.models import models
from rir_cli.looking.runs import compare, report
from rir_cli.looking.runs import runs as runs_
from rir_cli.options import (
    ArmsOption,
    BackendOption,
    ForceOption,
    JsonOption,
    OfflineOption,
    QuietOption,
    RecipeArgument,
    RetryRefusedOption,
    RunRecipeArgument,
    RunsOption,
    SetOption,
    TrustRecipeOption,
)
from rir_cli.starting.doctor import doctor
from rir_cli.starting.init import init
from rir_cli.starting.pilot import pilot
from rir_cli.streams import (
    ends_with_its_reader,
    impossible_place,
    is_about_output,
    messages_stop_no_work,
    without_stdout_print_nowhere,
)
from rir_mlx.progress import process_rank
from rir_mlx.types import DEFAULT_RECIPE, RUNS, Arm, EngineName

if TYPE_CHECKING:  # evaluation needs numpy, and help does not
    from rir_cli.console import StageLines
    from rir_mlx.evaluation.schema import Comparison
    from rir_mlx.pipeline import Options
    from rir_mlx.storage.layout import RunDir

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train text classifiers that write their reasoning before their label, and measure whether that helped.",
    epilog="Start with `rir-mlx demo`: the whole pipeline, offline, in about a minute.",
)


_INTERRUPTED = 130
_CONTINUED = ("run", "demo", "pilot", "train-rgen", "augment", "train-classifier", "evaluate")
"""Commands that go on where they were stopped, as `classify` does with an output."""
_AFTER_EVALUATION = 'classify "a text of your own"'
_PROMPTS = 3

app.command(cls=Command, short_help="Write a first recipe for your table.")(init)
app.command(cls=Command, short_help="Audit labelled rows before training.")(check)
app.command(cls=Command, short_help="Try a recipe on few rows before its long run.")(pilot)


@app.command("train-rgen", cls=Command, short_help="Stage 1: train R-Gen, which writes reasonings.")
def train_rgen(
    recipe: RecipeArgument = None,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    force: ForceOption = False,
) -> None:
    """Stage 1: train R-Gen to write a reasoning from a question and its answer."""
    options = stage_options(quiet=quiet, runs=runs, overrides=set_ or (), backend=backend, offline=offline, force=force)
    note_default(recipe, options)
    rir_mlx.train_rgen(recipe, **options)
    say_next(options, "augment")


@app.command(cls=Command, short_help="Let R-Gen write a reasoning for every row.")
def augment(
    recipe: RunRecipeArgument = None,
    engine: Annotated[
        EngineName | None,
        typer.Option(
            help="What writes the reasonings. local: R-Gen in this process; ray: R-Gen on a Ray cluster; openai: a "
            "server's model. Default: the recipe's."
        ),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Address of an OpenAI-compatible server, such as http://127.0.0.1:8080/v1.")
    ] = None,
    trust_recipe: TrustRecipeOption = False,
    retry_refused: RetryRefusedOption = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Augment only the first LIMIT rows, as a trial.")] = None,
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
    """Write a reasoning for every labelled row with R-Gen, and keep those that pass the filters."""
    from rir_cli.console import print_augmentation, print_json, print_prompts

    overrides = list(set_ or ())
    overrides += [f"augment.base_url={base_url}"] if base_url else []
    if chosen := engine or ("openai" if base_url else None):
        overrides += [f"augment.engine={chosen}"]
    options = stage_options(quiet=quiet, runs=runs, overrides=overrides, backend=backend, offline=offline, force=force)
    options["trust_recipe"] = trust_recipe
    if dry_run:
        from rir_mlx.stages import exact_prompts, open_run

        prompts = exact_prompts(open_run(recipe, open_options(options, continues=True)), limit or _PROMPTS)
        print_json(list(prompts)) if json else print_prompts(prompts)
    elif (result := rir_mlx.augment(recipe, limit=limit, retry_refused=retry_refused, **options)) is not None:
        print_json(result.stats) if json else print_augmentation(result.stats)
        say_next(options, "train-classifier" if limit is None else "augment")


@app.command("train-classifier", cls=Command, short_help="Stage 2: train the classifiers.")
def train_classifier(
    recipe: RunRecipeArgument = None,
    arm: ArmsOption = None,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    force: ForceOption = False,
) -> None:
    """Stage 2: train the classifier's arms: label only (qa), reasoning then label (qra), label then reasoning (qar)."""
    options = stage_options(quiet=quiet, runs=runs, overrides=set_ or (), backend=backend, offline=offline, force=force)
    rir_mlx.train_classifier(recipe, arms=[cast(Arm, choice.value) for choice in arm or ()], **options)
    say_next(options, "evaluate")


@app.command(cls=Command, short_help="Measure the classifiers on the test rows.")
def evaluate(
    recipe: RunRecipeArgument = None,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
    png: Annotated[bool, typer.Option("--png", help="Also write the charts as PNG files (matplotlib).")] = False,
) -> None:
    """Measure the trained arms on the test rows, and say whether reasoning helped."""
    options = stage_options(quiet=quiet, runs=runs, overrides=set_ or (), backend=backend, offline=offline, force=force)
    comparison = rir_mlx.evaluate(recipe, png=png, **options)
    _print_result(comparison, json=json)
    say_next(options, _AFTER_EVALUATION)


@app.command(cls=Command, short_help="Run all stages of a recipe, or resume them.")
def run(
    recipe: RecipeArgument = None,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    trust_recipe: TrustRecipeOption = False,
    retry_refused: RetryRefusedOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Run all stages of a recipe. Finished stages are skipped: the same command resumes an interrupted run."""
    from rir_cli.console import print_augmentation

    options = stage_options(quiet=quiet, runs=runs, overrides=set_ or (), backend=backend, offline=offline, force=force)
    options["trust_recipe"] = trust_recipe
    note_default(recipe, options)
    comparison = rir_mlx.run(recipe, retry_refused=retry_refused, **options)
    if comparison is not None and comparison.augmentation is not None and not json:
        print_augmentation(comparison.augmentation)
    _print_result(comparison, json=json)
    say_next(options, _AFTER_EVALUATION)


@app.command(cls=Command, short_help="Run the whole pipeline offline in a minute.")
def demo(
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Run the whole pipeline offline, on synthetic data and a tiny model that ship with rir-mlx."""
    from rir_cli.console import StageLines, print_json

    options = stage_options(quiet=quiet, runs=runs, overrides=set_ or (), backend=backend, offline=True, force=force)
    options["progress"] = lines = StageLines(quiet=quiet or process_rank() > 0)
    run, comparison = _run_demo(options, lines)
    if comparison is None:
        return
    print_json(comparison.model_dump(mode="json")) if json else _print_demo(run, comparison)
    if open_:
        typer.launch(run.report.resolve().as_uri())


_DEMO_SAYS = "Synthetic sentences and a tiny model that ship with rir-mlx show the method, offline."
_DEMO_STAGES = {
    "R-Gen": "R-Gen learns to write reasonings from {triples:,} examples",
    "augmentation": "R-Gen writes a reasoning for each of {train:,} training rows",
    "evaluation": "All are measured on {test:,} test rows",
}


def _run_demo(options: Options, lines: StageLines) -> tuple[RunDir, Comparison | None]:
    """Every stage of the demo, with a line each."""
    from rir_mlx.evaluation.entries import DESCRIPTIONS
    from rir_mlx.hub_access import without_network
    from rir_mlx.stages import in_order, open_run

    words = _DEMO_STAGES | {f"classifier {arm}": f"Classifier {arm}: {DESCRIPTIONS[arm]}" for arm in get_args(Arm)}
    comparison = None
    with without_network(True):
        context = open_run("demo", open_options(options))
        if not lines.quiet:
            tell(_DEMO_SAYS, err=True)
        data = context.data
        sizes = {"triples": len(data.triples.train), "train": len(data.train), "test": len(data.test)}
        for name, stage in in_order(context):
            with lines.stage(words.get(name, name).format(**sizes)):
                comparison = stage()
    return context.run, comparison


def _print_demo(run: RunDir, comparison: Comparison) -> None:
    """Print what was measured, where the report is, and a command to try next."""
    from rir_cli.console import print_demo
    from rir_mlx.classification.loading import default_arm
    from rir_mlx.storage.atomic import read_jsonl

    trained = run.trained_arms()
    arm = "qra" if "qra" in trained else default_arm(run)
    files = {name: run.predictions(name) for name in ("qa", arm) if name in trained}
    print_demo(comparison, arm, {name: list(read_jsonl(path)) for name, path in files.items()})
    tell(f"\nThe report, with every row: {run.report}\nTo open it: {own_name()} demo --open")
    tell(f'Next: {_classify_command(run)} "I feel great"')


app.command(cls=Command, short_help="Label texts, each with its reasoning.")(classify)
app.command(cls=Command, short_help="Answer over HTTP, with reasons.")(serve)
app.command(cls=Command, short_help="Answer as a tool, over MCP.")(mcp)
app.command(cls=Command, short_help="Write reviewed rows into new tables.")(review)
app.command(cls=Command, short_help="Write a classifier in another format.")(export)
app.command(cls=Command, short_help="List the runs.")(runs_)
app.command(cls=Command, short_help="Put two runs side by side.")(compare)
app.command(cls=Command, short_help="Open a run's report.")(report)
app.command(cls=Command, short_help="List the base models on this machine.")(models)
app.command(cls=Command, short_help="Check this machine.")(doctor)
app.command(cls=Command, short_help="Measure this machine's speed.")(bench)
app.add_typer(convert, name="convert", short_help="Convert or fuse adapters from elsewhere.")


@app.command("recipe", cls=Command, short_help="Print a recipe.")
def show_recipe(
    recipe: RecipeArgument = None,
    all_: Annotated[bool, typer.Option("--all", help="Print every key with its value, without comments.")] = False,
    set_: SetOption = None,
) -> None:
    """Print a recipe as it is written, with its comments. `rir-mlx recipe custom > mine.yaml` begins one of your own.

    With --set, or of a run, every key is printed.
    """
    from rir_mlx.recipe.loading import dump_recipe, recipe_text
    from rir_mlx.stages.opening import OpenOptions, find_run

    run, found = find_run(DEFAULT_RECIPE if recipe is None else recipe, OpenOptions(overrides=tuple(set_ or ())))
    whole = all_ or set_ or run.recipe_file.is_file()
    typer.echo(dump_recipe(found) if whole else recipe_text(DEFAULT_RECIPE if recipe is None else recipe), nl=False)


def _print_result(comparison: Comparison | None, *, json: bool) -> None:
    """Print the comparison, in the process that has it."""
    from rir_cli.console import print_comparison, print_json

    if comparison is not None:
        print_json(comparison.model_dump(mode="json")) if json else print_comparison(comparison)


def _classify_command(run: RunDir) -> str:
    """The command that classifies with this run."""
    from rir_mlx.storage.layout import newest_run

    newest = newest_run(RUNS, trained=True)
    chosen = newest is not None and newest.folder == run.folder  # without being named
    return f"{own_name()} classify" + ("" if chosen else f" --run {shlex.quote(str(run.folder))}")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rir-mlx {rir_mlx.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Two-stage reasoning-infused text classification (arXiv:2507.00214) on your own machine."""


def _goes_on(given: list[str]) -> bool:
    """Whether the same command continues what was interrupted."""
    command, *options = given or [""]
    writes = command == "classify" and any(option.startswith(("-o", "--output")) for option in options)
    return command in _CONTINUED or writes


def main() -> NoReturn:
    """Run a command. Exit codes: 0 done, 1 the work failed, 2 the user's mistake, 130 interrupted, 141 nobody reads
    its output any more."""
    without_stdout_print_nowhere()
    with messages_stop_no_work(), ends_with_its_reader():
        _main()


def _main() -> NoReturn:
    from rir_mlx.errors import RirError

    try:
        app(prog_name="rir-mlx")
    except RirError as error:
        from rir_cli.console import debugging, print_error

        if debugging():
            raise
        rank = process_rank()
        if rank == 0 or error.exit_code == 1:  # every process finds the same user mistake
            print_error(error, f"process {rank}: " if rank else "")
            if "continues" in (error.hint or "") and "--force" in sys.argv and _goes_on(sys.argv[1:]):
                tell("That is without --force: with it, the work begins anew.", err=True)
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            command = "the same command" + (" without --force" if "--force" in sys.argv else "")
            kept = f" Finished work is kept; {command} continues." if _goes_on(sys.argv[1:]) else ""
            tell(f"\nInterrupted.{kept}", err=True)
        raise
    except Exception as error:
        from rir_cli.console import debugging

        if debugging():
            raise
        if is_about_output(error):
            said = f"error: The output could not be written: {error.strerror}.\nMake room, or send it elsewhere."
        else:
            said = f"error: {type(error).__name__}: {error}\nRIR_DEBUG=1 shows where."
        if place := impossible_place(error):
            said = f"error: {place}"
        tell(said, err=True)
        sys.exit(2 if place else 1)
    sys.exit(0)
