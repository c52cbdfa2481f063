"""`runs`, `compare` and `report`: what was trained and measured."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rir_cli.context import tell
from rir_cli.options import JsonOption, RunsOption
from rir_mlx.types import RUNS

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from rir_mlx.guide.runs.listing import RunSummary
    from rir_mlx.guide.runs.pairing import EntryPair, RunPair
    from rir_mlx.statistics.intervals import Interval
    from rir_mlx.storage.layout import RunDir

_CHANGES = 12


def runs(runs: RunsOption = RUNS, json: JsonOption = False) -> None:
    """List the runs: their arms with accuracies, when they were written, and how large they are."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from rir_cli.console import print_json
    from rir_mlx.errors import UserError
    from rir_mlx.guide.runs.listing import list_runs
    from rir_mlx.training.cost import memory_size

    if not runs.is_dir() and (runs.exists() or runs != RUNS):
        what = "no folder" if runs.exists() else "not there"
        raise UserError(f"{runs} is {what}.", hint="--runs names the folder that holds the runs.")
    found = list_runs(runs)
    if json:
        print_json([asdict(run) | {"folder": str(run.folder)} for run in found])
        return
    if not found:
        tell(f"There are no runs in {runs}/. `rir-mlx demo` makes one in about a minute.", err=True)
        return
    table = Table()
    for name in ("run", "accuracy", "written", "size"):
        justify: JustifyMethod = "right" if name == "size" else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name == "run")
    for run in found:
        written = run.written[:16].replace("T", " ")
        table.add_row(escape(run.name), escape(_arms(run)), written, memory_size(run.size))
    console = Console(highlight=False, emoji=False)
    console.width = console.width if console.is_terminal else max(console.width, 100)
    console.print(table)


def _arms(run: RunSummary) -> str:
    """`qa 91.2 %, qra 93.0 % (chosen), qar not measured`."""
    if run.problem:
        return run.problem
    return (
        ", ".join(
            f"{arm} {'not measured' if accuracy is None else f'{accuracy:.1%}'}{' (chosen)' * (arm == run.chosen)}"
            f"{' (trained again since)' * (arm in run.since)}"
            for arm, accuracy in run.arms.items()
        )
        or "nothing is trained yet"
    )


def compare(
    first: Annotated[str, typer.Argument(help="A run: its name or folder.")],
    second: Annotated[str, typer.Argument(help="The run that is compared with it.")],
    runs: RunsOption = RUNS,
    json: JsonOption = False,
) -> None:
    """Put two runs side by side: each arm's accuracy in both, and the difference on the test rows that both have.

    A difference is paired, with a 95 % interval; * marks one that is more than chance.
    """
    from rir_cli.console import print_json
    from rir_mlx.guide.runs.listing import find_existing
    from rir_mlx.guide.runs.pairing import compare_runs

    pair = compare_runs(*(find_existing(name, runs, _evaluated, "an evaluation") for name in (first, second)))
    print_json(asdict(pair)) if json else _print_pair(pair)


def _evaluated(run: RunDir) -> bool:
    return run.comparison.is_file()


def _print_pair(pair: RunPair) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, emoji=False)
    table = Table(title=f"{pair.shared:,} test rows in both")
    for name in ("", f"1: {pair.first}", f"2: {pair.second}", "2 - 1, points"):
        table.add_column(escape(name), justify="left" if name == "" else "right", overflow="fold", no_wrap=name == "")
    for entry in pair.entries:
        table.add_row(escape(entry.name), _share(entry.first), _share(entry.second), _difference(entry))
    console.print(table)
    for line in _pair_lines(pair):
        console.print(escape(line), soft_wrap=not console.is_terminal)


def _pair_lines(pair: RunPair) -> list[str]:
    lines = [f"note: {note}" for note in pair.notes]
    if any(entry.significant for entry in pair.entries):
        lines.append("* more than chance, given these rows" + _seeds(pair))
    if pair.recipe:
        more = f"; and {len(pair.recipe) - _CHANGES} more" if len(pair.recipe) > _CHANGES else ""
        lines.append(f"In the second recipe: {'; '.join(pair.recipe[:_CHANGES])}{more}.")
    else:
        lines.append("The recipes are the same.")
    return lines


def _seeds(pair: RunPair) -> str:
    """What a difference is about: classifiers, or ways of training."""
    from rir_mlx.statistics.paired_tests import MIN_SEEDS

    judged = [entry.difference.judges_training for entry in pair.entries if entry.difference is not None]
    if any(judged):
        return " and seeds."
    return f"; about these classifiers, not about ways of training (fewer than {MIN_SEEDS} seeds)."


def _share(value: Interval | None) -> str:
    return "" if value is None else f"{100 * value.value:.1f} % ({100 * value.low:.1f} – {100 * value.high:.1f})"


def _difference(entry: EntryPair) -> str:
    if entry.difference is None:
        return ""
    value: Any = entry.difference.difference
    shown = f"{100 * value.value:+.1f} ({100 * value.low:+.1f} to {100 * value.high:+.1f})"
    return shown + (" *" if entry.significant else "  ")


def report(
    run: Annotated[
        str | None, typer.Argument(help="A run: its name or folder. Default: the newest with a report.")
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print where the report is.")] = False,
    runs: RunsOption = RUNS,
) -> None:
    """Open a run's report in the browser. Where there is no terminal, its path is printed."""
    from rir_mlx.errors import RirError
    from rir_mlx.evaluation.schema import read_comparison
    from rir_mlx.guide.runs.listing import find_existing
    from rir_mlx.guide.runs.pairing import since_measured

    of_run = find_existing(run, runs, lambda run: run.report.is_file(), "a report")
    found: Path = of_run.report
    with suppress(RirError):  # of another version, which its page is as well
        if of_run.comparison.is_file() and (since := since_measured(of_run, read_comparison(of_run.comparison))):
            tell(f"note: {since}", err=True)
    typer.echo(str(found))
    if not no_open and sys.stdout.isatty():
        typer.launch(found.resolve().as_uri())
