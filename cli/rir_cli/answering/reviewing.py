"""The command `review`: what was decided about a run's rows, as new tables."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rir_cli.context import own_name, prepare, set_words, tell
from rir_cli.options import JsonOption, OfflineOption, RunsOption
from rir_mlx.types import RUNS

if TYPE_CHECKING:  # a table's reader is not needed to print help
    from rir_mlx.recipe.schema import Recipe
    from rir_mlx.review.decisions import Decision
    from rir_mlx.review.new_tables import NewTables
    from rir_mlx.storage.layout import RunDir

_SHOWN = 5

RunArgument = Annotated[str | None, typer.Argument(help="A run's folder. Default: the newest run.")]
ApplyOption = Annotated[bool, typer.Option("--apply", help="Write new tables; the table that was reviewed stays.")]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The new table. Validation and test rows go beside it; no file is replaced."),
]


def review(
    run: RunArgument = None,
    apply: ApplyOption = False,
    output: OutputOption = None,
    runs: RunsOption = RUNS,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Say what was decided about a run's rows on the page of `rir-mlx serve`, or write it into new tables.

    With --apply, corrected labels and reviewed reasonings go into the file that --output names. The next run learns
    from these reasonings: the command that is printed names their column.
    """
    from rir_mlx.errors import UserError

    if apply != (output is not None):
        raise UserError(
            "--apply and --output go together." if apply else "--output names what --apply writes.",
            hint="rir-mlx review --apply -o NEW.csv",
        )
    prepare(offline=offline)
    found, recipe = _run(run, runs)
    if output is None:
        from rir_mlx.review.decisions import ReviewLog

        log = ReviewLog(found.review)
        _say(found, log.current(), log.unreadable, json=json)
        return
    from rir_mlx.review.new_tables import write_new_tables

    written = write_new_tables(found, recipe, output)
    _print_json(written) if json else _print_written(written)
    tell(f"Next: {own_name()} run {_next_run(found, recipe, written)}", err=True)


def _run(name: str | None, runs: Path) -> tuple[RunDir, Recipe]:
    from rir_mlx.errors import UserError
    from rir_mlx.stages.opening import OpenOptions, find_run

    run, recipe = find_run(name, OpenOptions(runs=runs))
    if not run.recipe_file.is_file():
        raise UserError(
            f"{name or runs} holds no run.",
            hint="`rir-mlx demo` makes one in about a minute; `rir-mlx run RECIPE` makes yours.",
        )
    return run, recipe


def _say(run: RunDir, decisions: list[Decision], unreadable: int, *, json: bool) -> None:
    counts = Counter(decision.action for decision in decisions)
    labels = sum(decision.changes and decision.label != decision.was for decision in decisions)
    if json:
        from rir_cli.console import print_json

        print_json({"accepted": counts["accept"], "edited": counts["edit"], "skipped": counts["skip"],
                    "labels": labels, "unreadable": unreadable})  # fmt: skip
        return
    tell(
        f"{len(decisions):,} rows of {run.folder} are decided: {counts['accept']:,} accepted, {counts['edit']:,} "
        f"edited, {counts['skip']:,} skipped; {labels:,} get another label."
    )
    if unreadable:
        tell(f"warning: {unreadable:,} lines of {run.review} cannot be read.", err=True)
    command = f"review {shlex.quote(str(run.folder))} --apply -o NEW.csv"
    if not any(decision.changes for decision in decisions):
        command = f"serve {shlex.quote(str(run.folder))} --open"
    tell(f"Next: {own_name()} {command}", err=True)


def _print_json(written: NewTables) -> None:
    from rir_cli.console import print_json

    values = {name: value for name, value in vars(written).items() if name not in ("files", "lost", "settings")}
    files = {part: str(path) for part, path in written.files.items()}
    print_json({"files": files, **values, "lost": [vars(decision) for decision in written.lost]})


def _print_written(written: NewTables) -> None:
    tell(
        f"{written.labels:,} rows have another label, and {written.reasonings:,} a reviewed reasoning"
        + (f" (column {written.reasoning_column})." if written.reasonings else ".")
    )
    for part, path in written.files.items():
        tell(f"{part}: {path}")
    if written.moved:
        tell(f"note: {written.moved:,} rows stand elsewhere in the table now; found by their text.", err=True)
    if written.cleared:
        tell(f"{written.cleared:,} rows no longer have a reasoning of their own.")
    if written.unused:
        tell(
            f"note: {written.unused:,} rows that the run does not use are left out, so that the next run has the same.",
            err=True,
        )
    if written.gone:
        names = ", ".join(map(repr, written.gone))
        tell(f"note: no row has the label {names} any more: the command below names the other labels.", err=True)
    if written.test_reasonings:
        tell(
            f"note: {written.test_reasonings:,} reasonings of test rows are left out: nothing is trained on test rows.",
            err=True,
        )
    if written.lost:
        tell(
            f"warning: {len(written.lost):,} decisions are not applied: the table no longer has their row, or it has "
            "another label there. They stay in review.jsonl.",
            err=True,
        )
        for decision in written.lost[:_SHOWN]:
            tell(f"  {decision.row}: {decision.text[:60]!r}", err=True)


def _next_run(run: RunDir, recipe: Recipe, written: NewTables) -> str:
    """The arguments of a run on the new tables, beside the present one."""
    settings = [f"name={recipe.name}-reviewed", *(f"{key}={value}" for key, value in written.settings.items())]
    return shlex.join([str(run.recipe_file), *set_words(settings)])
