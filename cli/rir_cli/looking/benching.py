"""`rir-mlx bench`: how fast each stage is here, and how near that is to the machine's limit."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from rir_cli.context import prepare
from rir_cli.options import BackendOption, JsonOption, OfflineOption, QuietOption, RecipeArgument, SetOption
from rir_mlx.types import DEFAULT_RECIPE, BenchTask, Rival

if TYPE_CHECKING:
    from rir_mlx.speed.bench import Bench, Part


class TaskChoice(StrEnum):
    """The tasks. typer takes a list of an enumeration, but not a list of a Literal."""

    vars().update({task: task for task in get_args(BenchTask)})


def bench(
    recipe: RecipeArgument = None,
    only: Annotated[
        list[TaskChoice] | None, typer.Option("--only", help="Measure this task. May be repeated. Default: all.")
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=600,
            help="How long each task is measured. With 15 all end within five minutes, with --against in ten.",
        ),
    ] = 15,
    against: Annotated[
        Rival | None, typer.Option(help="Measure this program too, on the same rows. It must be installed.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Rows at a time. Default: the recipe's, or fewer if they take long."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, max=256, help="Tokens of a reasoning.")] = 64,
    set_: SetOption = None,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Measure this machine: train, write reasonings, classify, each for a bounded time, with the recipe's model.

    Where the model is not here, random weights of its shape take its place: nothing is fetched but its config. One
    large product and one large copy show what the machine gives at most, and each task says what share of that it
    gets. The last line sums it up, to send in.
    """
    prepare(offline=offline)
    from rir_cli.console import ConsoleProgress, print_json
    from rir_mlx.interrupts import sigterm_as_ctrl_c
    from rir_mlx.recipe.loading import load_recipe
    from rir_mlx.speed.bench import TASKS, BenchOptions, bench_steps

    tasks = tuple(task for task in TASKS if not only or task in only)
    wanted = BenchOptions(tasks, seconds, backend, against, batch, tokens, offline)
    found = None
    steps = len(tasks) * (2 if against else 1)
    with sigterm_as_ctrl_c(), ConsoleProgress(quiet=quiet).task("bench", steps) as task:  # gigabytes may be temporary
        for found in bench_steps(load_recipe(DEFAULT_RECIPE if recipe is None else recipe, set_ or ()), wanted):
            if found.parts:
                task.advance(1)
    assert found is not None  # the limits come first
    if json:
        print_json(found.as_dict())
    else:
        print_bench(found)
    if any(part.failed and part.program == "rir-mlx" for part in found.parts):
        raise typer.Exit(1)


def print_bench(found: Bench) -> None:
    """The limits, a row for each part, what failed, and the line to send in."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from rir_mlx.speed.bench import TASKS
    from rir_mlx.speed.chips import usual

    limits, console = found.limits, Console(highlight=False, emoji=False)
    console.width = console.width if console.is_terminal else max(console.width, 120)
    random = ", random weights of its shape" if found.random_weights else ""
    console.print(escape(f"{found.device} ({found.machine}); {found.model}{random}, {limits.dtype}"))
    product = f"a product {limits.width:,} wide: {limits.flops / 1e12:.3g} TFLOP/s"
    copy = f"a copy of {limits.copied / 2**20:,.0f} MB: {limits.bandwidth / 1e9:.3g} GB/s"
    console.print(escape(f"The limits, measured now: {product}; {copy}. {usual(found.device)}".strip()))
    table = Table()
    heads = {"task": False, "program": False, "rows/s": True, "tokens/s": True, "memory": True, "limit": True}
    for name, right in heads.items():
        table.add_column(name, justify="right" if right else "left")
    for part in found.parts:
        table.add_row(TASKS[part.task], part.program, *_figures(part, found))
    console.print(table)
    for part in found.parts:
        if part.failed:
            console.print(escape(f"{TASKS[part.task]}, {part.program}: not measured: {part.failed}"))
    typer.echo(found.line())


def _figures(part: Part, found: Bench) -> tuple[str, ...]:
    if part.failed:
        return ("not measured", "", "", "")
    low, high = part.rows_range
    rows = f"{part.rows_per_s:.3g} ({low:.3g} – {high:.3g}, {part.rounds} × {part.rows} rows)"
    share = "" if part.share is None else f"{part.share:.0%} of {part.limit}"
    if part.program != "rir-mlx" and part.task in found.faster:
        share = f"rir-mlx is {found.faster[part.task]:.2f} × as fast"
    return rows, f"{part.tokens_per_s:,.0f}", f"{part.memory:.2f} GB", share
