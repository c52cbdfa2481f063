"""A table in memory, the faults of its rows, and the error that names all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rir_mlx.data.columns import Column
from rir_mlx.data.labels.printed_arrays import ARRAY, NUMBERS
from rir_mlx.errors import DataError, did_you_mean
from rir_mlx.progress import counted
from rir_mlx.types import TABLE_SUFFIXES

ACCEPTED = (
    f"Accepted: files ending in {', '.join(TABLE_SUFFIXES)}, a pattern of such files (data/*.jsonl), "
    "the id of a Hugging Face data set, or a folder in its format (data/train-*.parquet)."
)
TEXT_FILES = (*TABLE_SUFFIXES, ".txt")
"""What is classified as a file: a table, or a text a line."""
_TAKEN_APART = (".csv", ".tsv", ".jsonl", ".ndjson")
"""The files that `check --write` takes apart."""
ACCEPTED_TEXT_FILES = f"Accepted: files ending in {', '.join(TEXT_FILES)}."
FAULTS_SHOWN = 20


class Fault(NamedTuple):
    """What keeps a row from being used. `row` is its first line in a text file, else counted from 1; `sheet_row` is its
    number in a spreadsheet, if that is another one."""

    row: int
    what: str
    sheet_row: int | None = None

    @property
    def where(self) -> str:
        """`row 7`, or both numbers where rows before it hold line breaks."""
        if self.sheet_row is None:
            return f"row {self.row}"
        return f"line {self.row} (row {self.sheet_row} in a spreadsheet)"


@dataclass(frozen=True)
class TableFormat:
    """How CSV, TSV and text files are written, as far as the user says so. What is None is detected from the file; an
    encoding of None is UTF-8."""

    delimiter: str | None = None
    encoding: str | None = None
    quotes: bool | None = None


ANY_FORMAT = TableFormat()


@dataclass(frozen=True)
class Settings:
    """Where the user says what to read and how it is written: in a `section` of the recipe, or, if that is None, with
    the options of `classify`."""

    section: str | None = "data"

    def text(self, key: str, value: str = "") -> str:
        """What the user writes: `data.encoding=cp1252` or `--encoding cp1252`."""
        if self.section is not None:
            return f"{self.section}.{key}" + (f"={value}" if value else "")
        if key == "quotes":
            return "--no-quotes" if value == "false" else "--quotes"
        return f"--{key.replace('_', '-')}" + (f" {value}" if value else "")

    @property
    def accepted(self) -> str:
        """Which files are read."""
        return ACCEPTED_TEXT_FILES if self.section is None else ACCEPTED


RECIPE_DATA, CLASSIFY = Settings(), Settings(None)


NONE_MARKED = "no label: none of the label columns is marked"
MARKS = "the labels are a list of marks, and not of names"


@dataclass(frozen=True)
class Wanted:
    """What is read from a file: the columns, how the file is written as far as the user says so, its name in messages,
    and where to set what they name."""

    columns: Sequence[Column]
    shown: str
    form: TableFormat = ANY_FORMAT
    settings: Settings = RECIPE_DATA


def wanted_text(path: Path, text_column: str | Sequence[str] | None, form: TableFormat = ANY_FORMAT) -> Wanted:
    """The wish for the text column of a file to classify, or for several that are one text together."""
    return Wanted([Column.of("text", CLASSIFY.text("text_column"), text_column)], str(path), form, CLASSIFY)


@dataclass(frozen=True)
class Table:
    """The wanted columns of one file or data set."""

    name: str
    rows: Sequence[int]
    """The number of each row: its line in a text file, else counted from 1."""
    cells: tuple[Sequence[Any], ...]
    """One sequence a wanted column, in the order in which they were asked for."""
    class_names: tuple[tuple[str, ...] | None, ...]
    """For a column of class ids: the name of each id."""
    faults: tuple[Fault, ...] = ()
    editable: bool = True
    """Whether the user can correct a row: not in a data set that others published."""
    notes: tuple[str, ...] = ()
    """What the user should know about how the table was read."""
    settings: Settings = RECIPE_DATA
    sheet_row: Callable[[int], int | None] = lambda line: None
    """The number that a spreadsheet gives to the row at a line of the file, if it is another one."""

    @property
    def total(self) -> int:
        return len(self.rows) + len({fault.row for fault in self.faults})


def unreadable_kind(path: Path, wanted: Wanted) -> DataError:
    """The error for a file of a kind that is not read, with what to do about it."""
    suffix = path.suffix.lower()
    hint = {
        ".gz": f"Unpack it: gunzip -k {path.name}",
        ".zip": f"Unpack it: unzip {path.name}",
        ".xls": "Save it as .xlsx, or the sheet as CSV (UTF-8).",
        ".ods": "Save it as .xlsx, or the sheet as CSV (UTF-8).",
        ".json": as_lines_of_json(path),
    }.get(suffix, wanted.settings.accepted)
    return DataError(f"{wanted.shown}: files ending in {suffix or 'nothing'} cannot be read.", hint=hint)


def as_lines_of_json(path: Path) -> str:
    """What to do with a JSON array."""
    return f"Turn it into lines, for example: jq -c '.[]' {path.name} > new.jsonl"


def missing_file(path: Path, key: str = "") -> DataError:
    """The error for a file that is not there, with the closest name in its folder. `key` is the recipe's, if it names
    the file."""
    where, accepted = (f"{key}: ", ACCEPTED) if key else ("", ACCEPTED_TEXT_FILES)
    if not path.parent.is_dir():
        return DataError(f"{where}there is no file {path}: there is no folder {path.parent}.", hint=accepted)
    if path.is_dir():
        return DataError(f"{where}{path} is a folder.", hint=accepted)
    if path.exists():
        what = f"{where}{path} is no plain file: it cannot be read more than once."
        return DataError(what, hint="Write it to a file, and name that.")
    near = [file.name for file in path.parent.iterdir() if file.is_file()]
    return DataError(f"{where}there is no file {path}.{did_you_mean(path.name, near)}", hint=accepted)


def advice(faults: Iterable[str], settings: Settings = RECIPE_DATA, files: Iterable[str] = ()) -> str:
    """What to do about faults of these kinds in these files."""
    hint, faults = "Correct these rows or take them out.", list(faults)
    if settings.section == "data":
        apart = all(Path(file).suffix.lower() in _TAKEN_APART for file in files)
        write = "`rir-mlx check FILE --write clean.csv --rejects bad.csv` or " if apart else ""
        hint = f"Correct these rows; {write}data.on_bad_rows=skip leaves them out."
    return hint + advice_on(faults, settings)


def advice_on(faults: Sequence[str], settings: Settings = RECIPE_DATA) -> str:
    """What to do about faults of these kinds in particular, behind a blank; nothing if that is not known."""
    hint = ""
    if any("quotation" in what or "not valid CSV" in what for what in faults):
        hint += f" If quotation marks are part of the texts, set {settings.text('quotes', 'false')}."
    if any(what.startswith("the label is missing") for what in faults):
        hint += " If that is the name of a label, name it in data.labels."
    if any(what.startswith("the label is not a string but [") for what in faults):
        hint += " If a text may have several labels, set data.label_separator to any mark: lists are then read, too."
    if any(what.startswith("the label is not a string but {") for what in faults):
        hint += " If these are votes or probabilities of labels, set data.soft_labels to true."
    if {ARRAY, NUMBERS}.intersection(faults):
        hint += (
            ' Write the labels of an array with a mark between them, in pandas ";".join(map(str, array)), and set '
            "data.label_separator to it; or write it as JSON."
        )
    if NUMBERS in faults:
        hint += " If it has a 1 or 0 for each label, write a column for each, and name them in data.label_column."
    elif MARKS in faults:
        hint += " Write a column for each label, and name them in data.label_column."
    if odd := [what for what in faults if what.startswith("the label column ") and what.endswith("no mark")]:
        hint += " Marks are 1 and 0, true and false, yes and no, x and nothing, or the column's name."
        if not any("'-" in what for what in odd):
            hint += " If these are votes or probabilities, or people's choices, set data.soft_labels to true."
    if NONE_MARKED in faults:
        hint += " If no label holds there, name the label of such rows: data.no_label=none."
    return hint


def empty_rows(shown: str, count: int) -> str:
    """The note on rows of a table in which nothing stands."""
    return f"{shown}: {counted(count, 'empty row')} left out"


def fault_lines(faults: Iterable[Fault]) -> list[str]:
    """A line for each fault: its row, and what is wrong with it."""
    return list(dict.fromkeys(f"{fault.where}: {fault.what}" for fault in sorted(faults)))


def first_lines(lines: Sequence[str]) -> str:
    """The first lines, and how many more there are, each below what is said of them."""
    more = [f"and {len(lines) - FAULTS_SHOWN:,} more"] if len(lines) > FAULTS_SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:FAULTS_SHOWN], *more])


def refuse(tables: Iterable[tuple[str, int, Sequence[Fault]]], hint: str = "Correct these lines.") -> None:
    """Raise one DataError for all faults of all files, given as (file, rows in all, faults), if there are any."""
    blocks, lines = [], []
    for name, total, faults in tables:
        if not faults:
            continue
        own = fault_lines(faults)
        count = len({fault.row for fault in faults})
        numbering = "" if Path(name).suffix.lower() in (*TABLE_SUFFIXES[:-1], ".txt") else " (counted from 1)"
        blocks.append(f"{name}: {count:,} of {total:,} rows cannot be used{numbering}:{first_lines(own)}")
        lines += [f"{name}, {line}" for line in own]
    if len(blocks) == 1:
        lines = [line.removeprefix(f"{name}, ") for line in lines]
    if blocks:
        raise DataError("\n".join(blocks), faults=lines, hint=hint)


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
