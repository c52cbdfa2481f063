"""`rir-mlx init`: a look at a table, a few questions, and a commented recipe."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rir_cli.checking import print_labels
from rir_cli.context import own_name, stage_options, tell
from rir_cli.options import OfflineOption, SetOption

if TYPE_CHECKING:
    from rir_mlx.data.audit.findings import Audit
    from rir_mlx.guide.draft import Draft
    from rir_mlx.guide.first_recipe import ModelChoice, ScannedTable, TableLook


_TIME = "8h"


def init(
    file: Annotated[
        str | None,
        typer.Argument(help="A table of labelled texts: CSV, TSV, JSONL, Excel, Parquet. Default: the only one."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The recipe to write. Default: named after the table.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: take every guess. The default without a terminal.")
    ] = False,
    time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long training may take: 30m, 2h, 1d. If a model needs longer, it gets fewer arms, passes, rows. "
            f"Default: {_TIME}.",
        ),
    ] = None,
    set_: SetOption = None,
    offline: OfflineOption = False,
) -> None:
    """Look at a table and write a first recipe for it, with a reason for each choice.

    At a terminal it asks what it cannot know. It never overwrites a file.
    """
    stage_options(quiet=False, offline=offline)
    from rir_mlx.guide import first_recipe
    from rir_mlx.guide.planning import seconds_of

    overrides = tuple(set_ or ())
    table = first_recipe.find_table(file, overrides)
    target = output or Path(f"{Path(file or table).stem}.yaml")
    _refuse_to_overwrite(target)
    asks = not yes and sys.stdin.isatty() and sys.stderr.isatty()
    limit = seconds_of(time) if time else None
    look = first_recipe.look_at(table, overrides)
    draft, audit = _draft(look, target, limit, asks=asks)
    head = [
        f"A recipe for {draft.recipe().data.train.path}, written by `rir-mlx init`. Change what you like, then:",
        f"  rir-mlx run {shlex.quote(str(target))}",
        f"Every other key has its default: rir-mlx recipe {shlex.quote(str(target))} --all",
        *draft.remarks,
    ]
    _write(target, draft.checked_text(head))
    tell(f"\nThe recipe, with a reason for each choice → {target}")
    if not asks and not yes:
        tell("note: not at a terminal, so nothing was asked and every guess stands, as with --yes.", err=True)
    if audit.of("error"):
        tell("warning: training would refuse these rows. `check` lists them and says what helps.", err=True)
    if target.resolve().parent != Path.cwd():
        tell("note: the paths in it are read from the folder in which rir-mlx runs.", err=True)
    following = "check" if audit.of("error") else "run"
    tell(f"Next: {own_name()} {following} {shlex.quote(str(target))}", err=True)


def _write(target: Path, text: str) -> None:
    """Write the recipe, unless a file has its name by now: questions take a while to answer."""
    from rir_mlx.storage.atomic import creating, make_folder

    make_folder(target.parent)
    try:
        with creating([target]) as [written]:
            written.write_text(text, encoding="utf-8")
    except FileExistsError as error:
        raise _exists(target) from error


def _refuse_to_overwrite(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise _exists(target)


def _exists(target: Path) -> Exception:
    from rir_mlx.errors import UserError

    run = f"Run it: rir-mlx run {shlex.quote(str(target))}\nOr write another one: --output NAME.yaml"
    hint = run if target.suffix in (".yaml", ".yml") else "Name the recipe to write: --output NAME.yaml"
    return UserError(f"{target} exists, and init overwrites nothing.", hint=hint)


def _draft(look: TableLook, target: Path, limit: float | None, *, asks: bool) -> tuple[Draft, Audit]:
    """The recipe and the audit of its rows, printed step by step as its choices are made. `limit` are the seconds that
    training may take."""
    from rir_cli.starting import questions
    from rir_mlx.guide import drafting, first_recipe
    from rir_mlx.guide.machine import physical_memory
    from rir_mlx.guide.table.texts import describe_texts
    from rir_mlx.stages import check

    _say(f"{look.path}: {look.table.counted_rows}, columns {', '.join(look.table.names)}")
    _say_guesses(look, asks=asks)
    text, label = questions.ask_columns(look) if asks else ((), ())
    table = drafting.as_split(_labels_settled(first_recipe.scan(look, text, label), asks=asks))
    descriptions = questions.ask_descriptions(table.facts) if asks else {}
    choices = first_recipe.model_choices(physical_memory(), look.overrides)
    choice = questions.ask_model(choices) if asks else choices[0]
    draft = drafting.draft_recipe(table, choice, descriptions)
    time = _time_settled(draft, table, choice, limit, asks=asks)
    if asks:
        draft.set("data.instruction", questions.ask("The question that the labels answer", _instruction(draft)))
    audit = check(draft.recipe())  # as the recipe reads the rows
    if drafting.widen(draft, audit):
        audit = check(draft.recipe())
    _say(f"Texts: {describe_texts([row.text for row in table.rows])}.")
    _print_rows(audit, target)
    _say(f"Model: {choice.model.name}, because {choice.reason}.")
    _say(time)
    _say(f"R-Gen learns from: {_source(draft)}.")
    return draft, audit


def _time_settled(draft: Draft, table: ScannedTable, choice: ModelChoice, limit: float | None, *, asks: bool) -> str:
    """Make the recipe fit into the time that there is. What that is matters only for a model that takes long: the
    embedded one trains in minutes, and nothing is known of one that is not here."""
    from rir_cli.starting import questions
    from rir_mlx.guide import drafting, planning

    if choice.tiny or not choice.model.size:
        return ""
    limit = limit or (questions.ask_time(_TIME) if asks else planning.seconds_of(_TIME))
    fixed = {text.partition("=")[0].strip() for text in table.overrides}
    said = f"Time: {planning.fit_into(draft, drafting.sizes(table, choice), limit, fixed)}"
    draft.remarks.append(said)
    return said


def _labels_settled(table: ScannedTable, *, asks: bool) -> ScannedTable:
    """The table with the labels that are meant. Those that look misspelt are left out only if the user says so."""
    from rir_cli.starting.questions import agrees
    from rir_mlx.guide import drafting, first_recipe
    from rir_mlx.guide.table.reading import how_labels_are_read

    if table.labels_are:
        _say(f"{how_labels_are_read(table.label, table.labels_are)}.")
    if not table.facts.strays:
        return table
    strays = drafting.strays_text(table.facts)
    if asks and agrees(f"Probably misspelt: {strays}. Leave these rows out?", default=True):
        _say(f"Misspelt labels, left out: {strays}. Correct the table to use these rows.")
        return table
    if not asks:
        tell(f"warning: probably misspelt, and kept as labels: {strays}. Correct the table if so.", err=True)
    return first_recipe.with_all_labels(table)


def _source(draft: Draft) -> str:
    """Where R-Gen's examples come from, with the reason."""
    source = draft.recipe().reasoning.source
    reason = draft.reasons.get("reasoning.source", "You set it.").rstrip(".")
    return f"{source.path}: {reason}" if source is not None else reason


def _instruction(draft: Draft) -> str:
    return draft.recipe().data.instruction


def _say_guesses(look: TableLook, *, asks: bool) -> None:
    from rir_mlx.guide.first_recipe import ENCODING

    if look.encoding:
        _say(f"Encoding: {look.encoding}, because {ENCODING}.")
    if look.text is not None:
        _say(f"Text: {look.text.shown}, because {look.text.reason}.")
    if look.headline and look.text is not None and not asks:
        both = shlex.quote(f"data.text_column=[{look.headline}, {look.text.column}]")
        _say(f"{look.headline} is left out. For texts that have both: -s {both}")
    if look.texts and look.text is not None and not asks:
        used = (*look.text.columns, *look.texts)
        every = shlex.quote(f"data.text_column=[{', '.join(name for name in look.table.names if name in used)}]")
        what = "holds texts, too, and is" if len(look.texts) == 1 else "hold texts, too, and are"
        _say(f"{', '.join(look.texts)} {what} left out. For texts that have all: -s {every}")
    if look.parts:
        what = f"{look.parts} seems to say which rows are for testing, and is not read: rows are split at random."
        how = "To keep these parts, save each as a table: data.train, data.validation, data.test."
        tell(f"warning: {what} {how}", err=True)
    for guess in look.labels:
        _say(f"Label{'?' if len(look.labels) > 1 else ''}: {guess.shown}, because {guess.reason}.")
    if look.reasoning is not None:
        _say(f"Reasonings of your own: {look.reasoning.column}, because {look.reasoning.reason}.")


def _print_rows(audit: Audit, target: Path) -> None:
    """The labels, and what the audit found, in a line each."""
    from rich.console import Console

    print_labels(Console(highlight=False, emoji=False), audit)
    for note in audit.notes:
        _say(f"note: {note}")
    for finding in audit.findings:
        _say(f"{finding.severity}: {finding.what}")
    if audit.findings:
        _say(f"These rows and what helps: {own_name()} check {shlex.quote(str(target))}")


def _say(text: str) -> None:
    if text:
        tell(text)
