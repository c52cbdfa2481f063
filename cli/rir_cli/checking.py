"""`rir-mlx check`: an audit of labelled rows before anything is trained on them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from rir_cli.context import open_options, own_name, say_next, set_words, stage_options
from rir_cli.options import JsonOption, OfflineOption, QuietOption, RunsOption, SetOption
from rir_mlx.progress import counted
from rir_mlx.types import RUNS, Severity

if TYPE_CHECKING:
    from rir_mlx.data.audit.findings import Audit, Example, Finding
    from rir_mlx.recipe.schema import Recipe
    from rir_mlx.stages.opening import OpenOptions

_SEVERITIES: tuple[Severity, ...] = get_args(Severity)
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
_MAX_LABELS = 30
_EXAMPLES = 3
"""Examples printed for a finding; `--json` has more."""
_REFUSED = 100
"""Rows that cannot be used, of which all are printed up to this number."""


def check(
    data: Annotated[
        str | None,
        typer.Argument(
            help="A data file, a pattern of files, a Hugging Face data set (owner/name), builtin:NAME, a recipe, or a "
            "run's folder. Default: the newest run, or the default recipe if there is none.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 2 if there is a warning too.")] = False,
    write: Annotated[
        Path | None, typer.Option(help="Write the rows that can be used here; the file itself is not touched.")
    ] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="With --write: write the other rows here, with what is wrong with each.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of --write and --rejects.")] = False,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Audit labelled rows before training: leaks, contradictions, duplicates, rare labels, texts too long.

    The exit code is 2 if training would refuse the rows.
    """
    given = stage_options(quiet=quiet, runs=runs, overrides=set_ or (), offline=offline)
    from rir_cli.console import print_json
    from rir_mlx import stages
    from rir_mlx.errors import UserError

    if rejects is not None and write is None:
        raise UserError("--rejects goes with --write.", hint="Add --write clean.csv.")
    options = open_options(given)
    recipe, reading, said = _recipe(data, options)
    audit = stages.check(recipe, options.progress)
    audit = replace(audit, notes=(*said, *audit.notes))
    if json:
        print_json(_as_json(recipe, audit))
    else:
        print_audit(recipe.data.train.path, audit)
    if write is not None:
        sorted_out = stages.sort_out(recipe, audit, write, rejects, force=force)
        options.progress.say(f"{sorted_out.kept:,} rows → {write}")
        if rejects is not None:
            options.progress.say(f"{sorted_out.rejected:,} rows, each behind its line and what is wrong → {rejects}")
    following = _next_command(data, recipe, write, (*reading, *options.overrides))
    if findings := audit.of("error", "warning") if strict else audit.of("error"):
        names = ", ".join(finding.name for finding in findings)
        raise UserError(
            f"{'--strict: ' if strict else ''}{counted(len(findings), 'finding')} to fix: {names}.",
            hint=f"Go on with {write}: {own_name()} {following}" if write else "",
        )
    say_next(given, following)


def _recipe(data: str | None, options: OpenOptions) -> tuple[Recipe, list[str], list[str]]:
    """The recipe whose rows are audited. A table without a recipe is read as `init` would read it, and the files of a
    pattern as the first of them; with the overrides for that where no `init` follows, and what is said of them."""
    import json

    from rir_mlx import stages
    from rir_mlx.data.tables.sources import files_of, place_of
    from rir_mlx.guide.first_recipe import reading_keys

    recipe = stages.recipe_of_rows(data, options)
    table = recipe.data.train.path
    files = files_of(recipe.data.train) if data == table and not place_of(table).is_dir() else []
    if not files:
        return recipe, [], []
    keys, said = reading_keys(files[0], options.overrides)
    found = [f"data.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]
    read = stages.recipe_of_rows(data, replace(options, overrides=(*found, *options.overrides)))
    return read, [] if Path(table).is_file() else found, said


def _next_command(data: str | None, recipe: Recipe, clean: Path | None, overrides: Sequence[str]) -> str:
    """What follows upon a check, behind the program's name: a recipe for a table; else a run, on the rows that can be
    used if they were written. `overrides` are the keys that rows are read with."""
    overrides = [text for text in overrides if clean is None or not text.startswith("data.encoding=")]  # it is UTF-8
    of_rows = data == recipe.data.train.path  # and not of a recipe or a run
    if of_rows and (table := clean or Path(recipe.data.train.path)).is_file():
        return shlex.join(["init", str(table), *set_words(overrides)])
    settings = [f"data.train={clean or data}"] if clean or of_rows else []
    settings += [text for text in overrides if not (settings and text.startswith("data.train="))]
    if clean and recipe.data.encoding is not None:
        settings.append("data.encoding=null")  # it is written as UTF-8
    named = [data] if data is not None and not of_rows else []
    return shlex.join(["run", *named, *set_words(settings)])


def _as_json(recipe: Recipe, audit: Audit) -> dict[str, Any]:
    section = recipe.data.model_dump(mode="json", include={"train", "validation", "test"})
    counts = {severity: len(audit.of(severity)) for severity in _SEVERITIES}
    return {"version": 2, "data": section, "counts": counts} | asdict(audit)


def print_audit(name: str, audit: Audit) -> None:
    """Print the rows and labels, the findings (worst first), and their number."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, emoji=False)
    split = ", ".join(f"{count:,} {part}" for part, count in audit.rows.items())
    console.print(f"{escape(name)}: {sum(audit.rows.values()):,} rows ({split})", soft_wrap=not console.is_terminal)
    for note in audit.notes:
        console.print(f"[dim]{escape(note)}[/dim]", soft_wrap=not console.is_terminal)
    print_labels(console, audit)
    for line in _measures(audit):
        console.print(escape(line), soft_wrap=not console.is_terminal)
    for finding in audit.findings:
        console.print()
        for line in _finding_lines(finding):
            console.print(line, soft_wrap=not console.is_terminal)
    console.print(f"\n{_verdict(audit)}", soft_wrap=not console.is_terminal)


def print_labels(console: Any, audit: Audit) -> None:
    """Print how many rows of each label every part has."""
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    table.add_column("label")
    for part in audit.rows:
        table.add_column(part, justify="right")
    table.add_column("of train", justify="right")
    by_rows = sorted(audit.labels.items(), key=lambda pair: -sum(pair[1].values()))
    for label, counts in by_rows[:_MAX_LABELS]:
        share = counts["train"] / max(1, audit.rows["train"])
        table.add_row(escape(label), *(f"{count:,}" for count in counts.values()), f"{share:.1%}")
    if len(by_rows) > _MAX_LABELS:
        table.add_row(f"and {len(by_rows) - _MAX_LABELS:,} more")
    if by_rows:
        console.print(table)


def _measures(audit: Audit) -> Iterator[str]:
    if (balance := audit.balance) is not None:
        alone = f"; always answering {balance.largest} is correct in {balance.majority:.1%}" if balance.majority else ""
        yield (
            f"Balance: {balance.largest} has {balance.ratio:.1f} times the rows of {balance.smallest}; entropy "
            f"{balance.entropy:.0%} of even labels{alone}."
        )
    if (lengths := audit.lengths) is not None:
        room = ", ".join(f"{arm} has room for {tokens:,}" for arm, tokens in lengths.room.items())
        yield (
            f"Tokens per text: {lengths.p50:.0f} (5 to 95 %: {lengths.p5:.0f} to {lengths.p95:.0f}; 99 %: "
            f"{lengths.p99:.0f}; longest {lengths.max:,}); {room}."
        )
    if audit.unmeasured:
        yield f"Token lengths were not counted: {audit.unmeasured}"


def _finding_lines(finding: Finding) -> Iterator[str]:
    from rich.markup import escape

    colour = _COLOURS[finding.severity]
    yield f"[{colour}]{finding.severity}[/{colour}] {escape(finding.what)}"
    for row in finding.refused[:_REFUSED]:
        sheet = "" if row.sheet_row is None else f" (row {row.sheet_row} in a spreadsheet)"
        yield f"    {escape(f'{Path(row.file).name}:{row.number}{sheet}: {row.what}')}"
    if len(finding.refused) > _REFUSED:
        yield f"    and {len(finding.refused) - _REFUSED:,} more; --write FILE --rejects FILE and --json have all"
    for example in () if finding.refused else finding.examples[:_EXAMPLES]:
        yield f"    {escape(_example_line(example))}"
    if finding.hint:
        yield f"  {escape(finding.hint)}"


def _example_line(example: Example) -> str:
    places = "; ".join(
        f"{Path(place.file).name}:{place.row}" + (f" ({place.part}, {place.label})" if place.label else "")
        for place in example.places
    )
    return f"{' '.join(example.text.split())!r}  {places}" if example.places[0].label else f"{places}: {example.text}"


def _verdict(audit: Audit) -> str:
    if not audit.findings:
        return "No problems found."
    numbers = [counted(len(findings), severity) for severity in _SEVERITIES if (findings := audit.of(severity))]
    refused = " Training would refuse this data." if audit.of("error") else ""
    return f"{', '.join(numbers)}.{refused}"
