"""Rows and triples from the cells of a table: which rows are usable, and what is wrong with the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from rir_mlx.data.cells import checked_text
from rir_mlx.data.labels import Spellings, label_of, spelling_of
from rir_mlx.data.tables.table import RECIPE_DATA, Fault, Table, advice, refuse
from rir_mlx.errors import did_you_mean
from rir_mlx.types import OnBadRows


@dataclass(frozen=True, slots=True)
class Row:
    """A text and its label, and the reasoning that the user gave with them, if any.

    `file` and `number` say where the row stands, counted as the user finds it. `id` names the row within a run, the
    same on every load: `<source part>:<number>`, or `<source part>:<file>:<number>` where the source is several files,
    counted from 1. The source part is the recipe key that the row was read from, also when the row was carved into
    another part."""

    text: str
    label: str
    reasoning: str | None = None
    file: str = field(default="", compare=False, repr=False)
    number: int = field(default=0, compare=False, repr=False)
    id: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Triple:
    """A question, its answer, and the reasoning between them."""

    question: str
    answer: str
    reasoning: str


_MOST_LABELS = 100_000

Item = TypeVar("Item")
Reader = Callable[[int, Sequence[Any]], Item]
"""Makes a row from its number and cells. Raises ValueError if it cannot be used."""


class _UnknownLabelError(ValueError):
    """A label that the recipe does not name: always a fault, also in a published data set."""

    def __init__(self, label: str, known: int, hint: str) -> None:
        self.kind = f"the label {label!r} is not one of the {known} labels"
        super().__init__(f"{self.kind}.{hint}")


def _optional(value: Any) -> str | None:
    """A reasoning, or None if the cell is empty: R-Gen then writes one."""
    return None if value is None or not str(value).strip() else checked_text(value, "reasoning")


@dataclass(frozen=True)
class RowRules:
    """How rows are read. `known` are the labels that there may be, if any; another one is a fault unless `lenient`.
    `spellings` collects how each label is spelled."""

    known: Mapping[str, str]
    spellings: Spellings
    lenient: bool = False


def row_readers(tables: Sequence[Table], part: str, rules: RowRules) -> list[tuple[Table, Reader[Row]]]:
    """Each table of a source with the reader of its rows. `part` is the source's key, with which row ids start."""
    prefixes = [part] if len(tables) == 1 else [f"{part}:{number}" for number in range(1, len(tables) + 1)]
    return [(table, _row_reader(table, prefix, rules)) for table, prefix in zip(tables, prefixes, strict=True)]


def _row_reader(table: Table, prefix: str, rules: RowRules) -> Reader[Row]:
    """Rows from the cells of text, label and perhaps reasoning."""
    known, hints = rules.known, dict[str, str]()
    labels = dict[Any, str]()  # of each cell that was seen; a label comes again and again

    def read(number: int, cells: Sequence[Any]) -> Row:
        cell = cells[1]
        key = (type(cell), cell)
        try:
            label = labels.get(key)
        except TypeError:  # a list or an object
            label = None
        if label is None:
            label = label_of(cell, known, table.class_names[1])
            if len(labels) < _MOST_LABELS:
                labels[key] = label
        text, reasoning = checked_text(cells[0], "text"), _optional(cells[2]) if len(cells) > 2 else None
        if known and not rules.lenient and label not in known:
            if label not in hints:
                hints[label] = did_you_mean(label, known)
            raise _UnknownLabelError(label, len(known), hints[label])
        if label not in rules.spellings:
            rules.spellings[label] = Counter()
        rules.spellings[label][label if table.class_names[1] else spelling_of(cell)] += 1
        return Row(text, label, reasoning, table.name, number, f"{prefix}:{number}")

    return read


def _answer(value: Any, classes: tuple[str, ...] | None) -> str:
    """An answer: a text as it is, other values as a label would be."""
    return checked_text(value, "answer") if isinstance(value, str) or value is None else label_of(value, (), classes)


def triple_reader(table: Table) -> Reader[Triple]:
    classes = table.class_names[1]

    def read(_: int, cells: Sequence[Any]) -> Triple:
        return Triple(
            checked_text(cells[0], "question"), _answer(cells[1], classes), checked_text(cells[2], "reasoning")
        )

    return read


class Sifted(NamedTuple, Generic[Item]):
    """The usable rows of a table, and the faults of the others. `unknown`: whether some labels are not named."""

    rows: list[Item]
    faults: list[Fault]
    unknown: bool


def sift(table: Table, read: Reader[Item], notes: list[str], on_bad_rows: OnBadRows = "stop") -> Sifted[Item]:
    """Read the rows of a table, in order. Faulty rows that the user cannot correct, or wants to skip, are left out and
    noted."""
    rows, faults, passed_over = list[Item](), list[Fault](), Counter[str]()
    notes += table.notes
    unknown, skip = False, on_bad_rows == "skip"
    if skip:
        passed_over.update(fault.what for fault in table.faults)
    else:
        faults += table.faults
    for number, *cells in zip(table.rows, *table.cells, strict=True):
        try:
            rows.append(read(number, cells))
        except ValueError as error:
            meant = isinstance(error, _UnknownLabelError)
            unknown |= meant
            if (table.editable or meant) and not skip:
                faults.append(Fault(number, str(error), table.sheet_row(number)))
            else:
                passed_over[error.kind if isinstance(error, _UnknownLabelError) else str(error)] += 1
    if passed_over:
        shown = passed_over.most_common(3)
        others = passed_over.total() - sum(times for _, times in shown)
        why = ", ".join(f"{what} ({times:,})" for what, times in [*shown, *([("others", others)] if others else [])])
        by = " (data.on_bad_rows)" if skip else ""
        notes.append(f"{table.name}: {passed_over.total():,} of {table.total:,} rows left out{by}: {why}")
    return Sifted(rows, faults, unknown)


def collect(
    tables: Iterable[tuple[Table, Reader[Item]]], notes: list[str], on_bad_rows: OnBadRows = "stop"
) -> list[Item]:
    """The rows of all tables, in order. Raises DataError with all faults, unless bad rows are skipped."""
    results = [(table, sift(table, read, notes, on_bad_rows)) for table, read in tables]
    unknown = any(sifted.unknown for _, sifted in results)
    refuse([(table.name, table.total, sifted.faults) for table, sifted in results], _hint_for(results, unknown=unknown))
    return [row for _, sifted in results for row in sifted.rows]


def _hint_for(results: Sequence[tuple[Table, Sifted[Any]]], *, unknown: bool) -> str:
    """What to do about the faults of some tables."""
    faults = [fault.what for _, sifted in results for fault in sifted.faults]
    settings = results[0][0].settings if results else RECIPE_DATA
    return advice(faults, settings) + (" Labels that are meant go into data.labels." if unknown else "")
