"""Rows and triples from the cells of a table: which rows are usable, and what is wrong with the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from rir_mlx.data.cells import checked_text, optional_text
from rir_mlx.data.labels.columns_of_labels import ColumnStyle, LabelCells
from rir_mlx.data.labels.combinations import BETWEEN, cells_in, combination, says_nothing
from rir_mlx.data.labels.distributions import Shares, main_label, shares_of
from rir_mlx.data.labels.spelling import Spellings, label_of, spelling_of
from rir_mlx.data.rows import Row, RowColumns, Rows, Triple
from rir_mlx.data.tables.table import MARKS, NONE_MARKED, RECIPE_DATA, Fault, Table, advice, refuse
from rir_mlx.errors import did_you_mean
from rir_mlx.types import OnBadRows

_MOST_LABELS = 100_000

Item = TypeVar("Item")
Reader = Callable[[int, Sequence[Any]], Item]
"""Makes a row from its number and cells. Raises ValueError if it cannot be used."""


class _UnknownLabelError(ValueError):
    """A label that the recipe does not name: always a fault, also in a published data set."""

    def __init__(self, label: str, known: int, hint: str) -> None:
        self.kind = f"the label {label!r} is not one of the {known} labels"
        super().__init__(f"{self.kind}.{hint}")


@dataclass(frozen=True)
class RowRules:
    """How rows are read. `known` are the labels that there may be, if any; another one is a fault unless `lenient`.
    `spellings` collects how each label is spelled. `several`: a text may have several labels, in one cell with
    `separator` between them, or in columns. `soft`: a label may be a distribution. `no_label` is the label of a text
    that has none, if such rows are used. `names` are kept as they are named: `known`, those of label columns, and
    `no_label`. `style` is shared by all parts of a recipe."""

    known: Mapping[str, str]
    spellings: Spellings
    lenient: bool = False
    several: bool = False
    separator: str | None = None
    soft: bool = False
    no_label: str | None = None
    names: Collection[str] = ()
    style: ColumnStyle = field(default_factory=ColumnStyle)


def _prefixes(tables: Sequence[Table], part: str) -> list[str]:
    """What the row ids of each table of a source start with. `part` is the source's key."""
    return [part] if len(tables) == 1 else [f"{part}:{number}" for number in range(1, len(tables) + 1)]


def _row_reader(table: Table, prefix: str, rules: RowRules) -> Reader[Row]:
    """Rows from the cells of text, label and perhaps reasoning."""
    known, hints, classes = rules.known, dict[str, str](), table.class_names[1]
    seen = dict[Any, _Cell]()  # a label comes again and again

    def cell_of(value: Any) -> _Cell:
        columns = isinstance(value, LabelCells)
        # Rows that say the same in label columns share an object, which the table keeps.
        key = id(value) if columns else (type(value), value) if isinstance(value, Hashable) else None
        if key is not None and (found := seen.get(key)) is not None:
            return found
        found = _read_cell(_of_columns(value, rules) if columns else value, rules, classes)
        if key is not None and len(seen) < _MOST_LABELS:
            seen[key] = found
        return found

    def read(number: int, cells: Sequence[Any]) -> Row:
        cell = cell_of(cells[1])
        text = checked_text(cells[0], "text")
        reasoning = optional_text(cells[2], "reasoning") if len(cells) > 2 else None
        for label in cell.spelled if known else ():
            if label not in known and not (rules.lenient and (label == cell.name or not cell.shares)):
                if label not in hints:
                    hints[label] = did_you_mean(label, known)
                raise _UnknownLabelError(label, len(known), hints[label])
        for label, spelling in cell.spelled.items():
            if label not in rules.spellings:
                rules.spellings[label] = Counter()
            rules.spellings[label][label if classes else spelling] += 1
        return Row(text, cell.name, reasoning, table.name, number, f"{prefix}:{number}", cell.shares)

    return read


_MARKS = frozenset(("0", "1", "true", "false"))
"""What several labels of a row are not called, where one of them comes twice."""


class _Cell(NamedTuple):
    """What a cell of the label's column says: the row's label or combination, its distribution, and how each label is
    spelled there."""

    name: str
    shares: Shares
    spelled: Mapping[str, str]


def _read_cell(value: Any, rules: RowRules, classes: tuple[str, ...] | None) -> _Cell:
    """Raises ValueError if the cell holds no label."""
    if rules.no_label is not None and says_nothing(value, soft=rules.soft, known=rules.names):
        return _Cell(rules.no_label, (), {rules.no_label: rules.no_label})
    if rules.soft and (shares := shares_of(value, rules.names)) is not None:
        certain = len(shares) == 1
        return _Cell(main_label(shares), () if certain else tuple(shares.items()), {label: label for label in shares})
    parts = _several(value, rules) if rules.several else [value]
    spelled = {label_of(part, rules.names, classes): spelling_of(part) for part in parts}
    if len(spelled) < len(parts) and spelled.keys() <= _MARKS.difference(rules.names):
        raise ValueError(MARKS)
    if rules.several and (odd := next((label for label in spelled if BETWEEN in label), None)):
        raise ValueError(f"the label {odd!r} holds a comma, which stands between labels")
    if len(spelled) > 1 and rules.no_label in spelled:
        raise ValueError(f"{rules.no_label!r} says that no label holds (data.no_label), and others stand beside it")
    return _Cell(next(iter(spelled)) if len(spelled) == 1 else combination(spelled), (), spelled)


def _of_columns(cells: LabelCells, rules: RowRules) -> Any:
    """What the label columns of a row say, as one cell would say it."""
    if not cells.filled(rules.names) and (rules.soft or rules.style.says_no):
        raise ValueError("no label: nothing stands in any of the label columns")
    if rules.soft:
        found: Any = cells.choices(rules.names) if rules.style.people else cells.numbers()
    else:
        found = cells.marked(rules.style.own)
    if says_nothing(found, soft=rules.soft) and rules.no_label is None:
        raise ValueError(NONE_MARKED)
    return found


def _several(cell: Any, rules: RowRules) -> Sequence[Any]:
    """The labels in a cell. Raises ValueError if there is none: none may hold, or none be known."""
    if parts := list(cells_in(cell, rules.separator)):
        return parts
    if rules.no_label is not None:
        return [rules.no_label]
    raise ValueError("no label (where none holds, write a word for that, such as `none`, or set data.no_label)")


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


class Faulty(NamedTuple):
    """The faults of a table's rows. `unknown`: whether some labels are not named."""

    table: Table
    faults: list[Fault]
    unknown: bool


def _sift(
    table: Table, read: Reader[Item], keep: Callable[[int, Item], object], notes: list[str], on_bad_rows: OnBadRows
) -> Faulty:
    """Read the rows of a table, in order, and `keep` each with its place. Faulty rows that the user cannot correct, or
    wants to skip, are left out and noted."""
    faults, passed_over = list[Fault](), Counter[str]()
    notes += table.notes
    unknown, skip = False, on_bad_rows == "skip"
    if skip:
        passed_over.update(fault.what for fault in table.faults)
    else:
        faults += table.faults
    for place, (number, *cells) in enumerate(zip(table.rows, *table.cells, strict=True)):
        try:
            keep(place, read(number, cells))
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
    return Faulty(table, faults, unknown)


def sift_rows(
    tables: Sequence[Table], part: str, rules: RowRules, notes: list[str], on_bad_rows: OnBadRows = "stop"
) -> tuple[Rows, list[Faulty]]:
    """The usable rows of a source's tables, in order, and the faults of the others. `part` is the source's key, with
    which row ids start."""
    kept, faulty = Rows(), list[Faulty]()
    for table, prefix in zip(tables, _prefixes(tables, part), strict=True):
        columns = RowColumns(table, prefix)
        faulty.append(_sift(table, _row_reader(table, prefix, rules), columns.add, notes, on_bad_rows))
        kept += Rows((columns, columns.places))
    return kept, faulty


def read_rows(
    tables: Sequence[Table], part: str, rules: RowRules, notes: list[str], on_bad_rows: OnBadRows = "stop"
) -> Rows:
    """The same; raises DataError with all faults, unless bad rows are skipped."""
    rows, faulty = sift_rows(tables, part, rules, notes, on_bad_rows)
    _refuse_faulty(faulty)
    return rows


def collect(tables: Iterable[tuple[Table, Reader[Item]]], notes: list[str]) -> list[Item]:
    """What is read from the rows of all tables, in order. Raises DataError with all faults."""
    items = list[Item]()
    _refuse_faulty([_sift(table, read, lambda _, item: items.append(item), notes, "stop") for table, read in tables])
    return items


def _refuse_faulty(results: Sequence[Faulty]) -> None:
    unknown = any(faulty.unknown for faulty in results)
    tables = [(faulty.table.name, faulty.table.total, faulty.faults) for faulty in results]
    refuse(tables, _hint_for(results, unknown=unknown))


def _hint_for(results: Sequence[Faulty], *, unknown: bool) -> str:
    """What to do about the faults of some tables."""
    faults = [fault.what for faulty in results for fault in faulty.faults]
    settings = results[0].table.settings if results else RECIPE_DATA
    files = [faulty.table.name for faulty in results if faulty.faults]
    return advice(faults, settings, files) + (" Labels that are meant go into data.labels." if unknown else "")
