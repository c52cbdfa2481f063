"""Rows and triples from the cells of a table: which cells make a usable row, and what is wrong with the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from rir_mlx.data.tables.table import Fault, Table, refuse
from rir_mlx.errors import did_you_mean


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


Item = TypeVar("Item")
Reader = Callable[[int, Sequence[Any]], Item]
"""Makes a row of its number and cells. Raises ValueError where it cannot be used."""


class _UnknownLabelError(ValueError):
    """A fault of the recipe or the row, never one to pass over."""


def checked_text(value: Any, what: str) -> str:
    """The value, where it is a text that a model can be given. Raises ValueError, saying why not."""
    if value is None:
        raise ValueError(f"no {what}")
    if not isinstance(value, str):
        raise ValueError(f"the {what} is not a string but {repr(value)[:60]}")
    if not value.strip():
        raise ValueError(f"the {what} is empty")
    if "\0" in value:
        raise ValueError(f"the {what} holds a NUL byte")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"the {what} holds half a character (a lone surrogate) at {error.start}") from None
    return value


def _optional(value: Any) -> str | None:
    """A reasoning, or None where the cell is empty: R-Gen then writes one."""
    return None if value is None or not str(value).strip() else checked_text(value, "reasoning")


def _name(value: Any, classes: tuple[str, ...] | None, what: str) -> str:
    """A label or answer as text: class ids by their names, other whole numbers by their digits."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if math.isnan(value):
            value = None
        elif value.is_integer():  # a column of whole numbers with gaps
            value = int(value)
    if isinstance(value, int):
        if classes is None:
            return str(value)
        if value == -1:  # how data sets mark rows whose labels are withheld
            value = None
        elif 0 <= value < len(classes):
            return classes[value]
        else:
            raise ValueError(f"class id {value} has no name among {len(classes)}")
    return checked_text(value, what)


def row_readers(tables: Sequence[Table], part: str, known: Mapping[str, str]) -> list[tuple[Table, Reader[Row]]]:
    """Each table of a source with the reader of its rows. `part` is the source's key, with which row ids start."""
    prefixes = [part] if len(tables) == 1 else [f"{part}:{number}" for number in range(1, len(tables) + 1)]
    return [(table, _row_reader(table, prefix, known)) for table, prefix in zip(tables, prefixes, strict=True)]


def _row_reader(table: Table, prefix: str, known: Mapping[str, str]) -> Reader[Row]:
    """Rows from the cells of text, label and perhaps reasoning; of the labels `known`, where there are any."""
    classes, hints = table.class_names[1], dict[str, str]()
    interned = dict[str, str]()

    def read(number: int, cells: Sequence[Any]) -> Row:
        label = _name(cells[1], classes, "label")
        label = interned.setdefault(label, label)
        text, reasoning = checked_text(cells[0], "text"), _optional(cells[2]) if len(cells) > 2 else None
        if known and label not in known:
            if label not in hints:
                hints[label] = did_you_mean(label, known)
            raise _UnknownLabelError(f"the label {label!r} is not one of the {len(known)} labels.{hints[label]}")
        return Row(text, label, reasoning, table.name, number, f"{prefix}:{number}")

    return read


def _triple_reader(table: Table) -> Reader[Triple]:
    classes = table.class_names[1]

    def read(_: int, cells: Sequence[Any]) -> Triple:
        return Triple(
            checked_text(cells[0], "question"), _name(cells[1], classes, "answer"), checked_text(cells[2], "reasoning")
        )

    return read


class Sifted(NamedTuple, Generic[Item]):
    """A table's rows that can be used, and the faults of the others. `unknown`: among them are labels not asked for."""

    rows: list[Item]
    faults: list[Fault]
    unknown: bool


def sift(table: Table, read: Reader[Item], notes: list[str]) -> Sifted[Item]:
    """Read the rows of a table, in order. Those that are at fault and that nobody here can mend are noted alone."""
    rows, faults, passed_over = list[Item](), list(table.faults), Counter[str]()
    unknown = False
    for number, *cells in zip(table.rows, *table.cells, strict=True):
        try:
            rows.append(read(number, cells))
        except ValueError as error:
            meant = isinstance(error, _UnknownLabelError)
            unknown |= meant
            if table.editable or meant:
                faults.append(Fault(number, str(error)))
            else:
                passed_over[str(error)] += 1
    if passed_over:
        why = ", ".join(f"{what} ({times:,})" for what, times in passed_over.most_common(3))
        notes.append(f"{table.name}: {passed_over.total():,} of {table.total:,} rows left out: {why}")
    return Sifted(rows, faults, unknown)


def _collect(tables: Iterable[tuple[Table, Reader[Item]]], notes: list[str]) -> list[Item]:
    """The rows of all tables, in order. Raises DataError with all faults."""
    sifted = [(table, sift(table, read, notes)) for table, read in tables]
    hint = "Mend these rows or take them out."
    if any(one.unknown for _, one in sifted):
        hint += " Labels that are meant go into data.labels."
    refuse([(table.name, table.total, one.faults) for table, one in sifted], hint)
    return [row for _, one in sifted for row in one.rows]
