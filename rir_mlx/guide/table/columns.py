"""What the columns of a table hold: facts about each, and which is probably the text, the label or the reasoning.

A guess has its reason. Knows cells and names; what the rows are like is the audit's business.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rir_mlx.data.columns import usually_named
from rir_mlx.data.labels.columns_of_labels import is_blank, is_mark, is_no_vote, people_labelled, shown_marks, stem_of
from rir_mlx.data.tables.row_streams import Record, open_stream
from rir_mlx.data.tables.table import ANY_FORMAT, TableFormat, Wanted
from rir_mlx.errors import DataError
from rir_mlx.progress import counted, shortened

_READ = 20_000
"""Rows that a guess is made from."""
_SHORT = 60
"""The longest mean of a column of labels, in characters."""
_MOST_LABELS = 200
_REASONS = ("why", "reason", "rationale", "explanation", "reasoning")
_HEADLINES = ("subject", "title", "headline", "betreff", "titel", "objet", "asunto", "oggetto", "onderwerp", "assunto")
"""Names of a column whose text belongs above that of a longer one."""
_TRAIN = ("train", "training")
_PARTS = frozenset(
    (
        *_TRAIN,
        *("test", "testing", "val", "valid", "validation", "dev", "development", "eval", "evaluation"),
        *("holdout", "unused", "none"),
    )
)
"""What a cell says of the part that its row is for."""
_FEW_WORDS = 3.0
_SELDOM = 2.0
_LEAST_MARKED, _MOST_MARKS = 3, 4
"""Two columns of yes and no are rather two questions than labels of one."""
_TELLS_OF_A_ROW = re.compile(
    r"^(?i:is|has|was|had|contains|with)(?=[\W_]|[A-Z])|^(?i:train|valid|validation|dev|split|fold|(?:re)?tweeted)$"
    r"|(?<![A-Za-z])(?i:test|verified|truncated|favou?rited|deleted|member|active|read|starred|archived|reply)(?![A-Za-z])"
)
"""Names of columns that are true of a row or not, and are probably no labels."""


@dataclass(frozen=True)
class Guess:
    """A column, and why it is probably the one that is looked for. A text may stand in several."""

    column: str
    reason: str
    more: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column, *self.more)

    @property
    def shown(self) -> str:
        """The columns in words."""
        *first, last = self.columns
        return f"{', '.join(first)} and {last}" if first else last

    @property
    def value(self) -> str | list[str]:
        """What a recipe says."""
        return list(self.columns) if self.more else self.column


@dataclass
class ColumnFacts:
    """A column of the rows that were read: how many cells are filled, the different values, and the length of a value
    in characters and words (means). Of lists and objects, their number alone."""

    name: str
    filled: int = 0
    characters: float = 0.0
    words: float = 0.0
    values: dict[str, int] = field(default_factory=dict)
    structured: int = 0

    def add(self, cell: Any) -> None:
        self.structured += isinstance(cell, list | dict) and bool(cell)
        if cell is None or isinstance(cell, (list, dict, bytes)) or not (text := str(cell).strip()):
            return
        self.filled += 1
        self.characters += (len(text) - self.characters) / self.filled
        self.words += (len(text.split()) - self.words) / self.filled
        self.values[text] = self.values.get(text, 0) + 1

    @property
    def is_empty(self) -> bool:
        return not self.filled and not self.structured

    @property
    def is_number(self) -> bool:
        return all(_is_number(value) for value in islice(self.values, 100))

    @property
    def repeats(self) -> float:
        """How often a value occurs, on average."""
        return self.filled / max(1, len(self.values))


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table in their order, from its first rows; `rows` of them were read, all if not `partly`, and
    `unread` ones beside them could not be."""

    columns: tuple[ColumnFacts, ...]
    rows: int
    partly: bool
    unread: int = 0

    @property
    def counted_rows(self) -> str:
        """How many rows there are, in words."""
        unread = f" ({self.unread:,} cannot be read)" if self.unread else ""
        return f"{'more than ' if self.partly else ''}{counted(self.rows + self.unread, 'row')}{unread}"

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def named(self, name: str) -> ColumnFacts | None:
        return next((column for column in self.columns if column.name == name), None)


def read_columns(path: Path, form: TableFormat = ANY_FORMAT) -> TableColumns:
    """The columns of a table. Raises DataError if the file is missing, of another kind or empty."""
    stream = open_stream(path, Wanted([], str(path), form))
    found: dict[str, ColumnFacts] = {}
    rows = unread = 0
    records = stream.scan()
    for record in islice(records, _READ):
        if not isinstance(record, Record):
            unread += 1
            continue
        rows += 1
        for name, cell in record.cells.items():
            found.setdefault(name, ColumnFacts(name)).add(cell)
    if not rows:
        raise DataError(f"{path} has no rows.", hint="It needs a row for each text, below a line of column names.")
    return TableColumns(tuple(found.values()), rows, next(records, None) is not None, unread)


def guess_text(table: TableColumns) -> Guess | None:
    """The column of the text: the one with a usual name, else the one with the longest texts."""
    usual = [column for name in usually_named(table.names, "text") if (column := table.named(name)) and column.filled]
    if len(usual) == 1:
        return Guess(usual[0].name, "its name is usual for texts")
    longest = max(usual or table.columns, key=lambda column: column.characters)
    if longest.words >= _FEW_WORDS and not longest.is_number:
        return Guess(longest.name, f"its texts are the longest: {longest.characters:.0f} characters on average")
    return None


def headline_of(table: TableColumns, text: str) -> str | None:
    """The column whose short text belongs above that of the column `text`, by its name."""
    body = table.named(text)
    for column in table.columns:
        headline = column.name.strip().casefold() in _HEADLINES and column.name != text
        if headline and body and 0 < column.characters < body.characters and not column.is_number:
            return column.name
    return None


def other_texts(table: TableColumns, taken: Collection[str]) -> list[str]:
    """The columns that hold texts, too: several words, and hardly the same ones twice."""
    columns = [column for column in table.columns if column.name not in taken and not column.is_number]
    return [column.name for column in columns if column.words >= _FEW_WORDS and column.repeats < _SELDOM]


def column_of_parts(table: TableColumns, taken: Collection[str]) -> str | None:
    """The column that says of each row whether it is for training or for testing."""
    for column in table.columns:
        values = {value.casefold() for value in column.values}
        if column.name not in taken and len(values) > 1 and values <= _PARTS and values & set(_TRAIN):
            return column.name
    return None


def label_columns(table: TableColumns, taken: Collection[str]) -> list[Guess]:
    """The columns that may hold the label, the likeliest first: the one with a usual name, else all with few, short
    values that come again and again."""
    usual = [column for name in usually_named(table.names, "label") if (column := table.named(name))]
    if len(usual) == 1 and usual[0].name not in taken and (len(usual[0].values) > 1 or usual[0].structured):
        return [Guess(usual[0].name, "its name is usual for labels")]
    fitting = [column for column in usual or table.columns if column.name not in taken and _may_be_label(column)]
    fitting.sort(key=lambda column: (column.is_number, len(column.values)))
    return [
        Guess(
            column.name,
            f"{len(column.values)} different values come again and again, {column.repeats:.0f} times each on average",
        )
        for column in fitting
    ]


def columns_of_labels(table: TableColumns, taken: Collection[str]) -> Guess | None:
    """Columns that say a row's label together: three or more with marks (1 and 0, `x` and nothing), beside each other
    and no other with marks; or those of people who labelled, by their names. None where that is not sure."""
    people = _columns_of_people(table, taken)
    if people:
        first, *more = people
        return Guess(first, "by their names, people labelled there", tuple(more))
    marked = marked_columns(table, taken)
    places = [place for place, column in enumerate(table.columns) if column.name in marked]
    if len(places) < _LEAST_MARKED or any(map(_TELLS_OF_A_ROW.search, marked)) or people_labelled(marked):
        return None
    run = table.columns[places[0] : places[-1] + 1]
    empty = [column.name for column in table.columns if column.is_empty and column.name not in taken]
    if any(column.name not in (*marked, *empty) for column in run) or (empty and table.partly):
        return None
    first, *more = (column.name for column in run)
    shown = shown_marks([value for name in marked for value in _values(table, name)])
    return Guess(first, f"each has marks, such as {shown}", tuple(more))


def _values(table: TableColumns, name: str) -> Collection[str]:
    column = table.named(name)
    return column.values if column else ()


def marked_columns(table: TableColumns, taken: Collection[str]) -> list[str]:
    """The columns that hold nothing but marks, and not the same one in every row."""
    return [column.name for column in table.columns if column.name not in taken and _has_marks(column, table.rows)]


def _has_marks(column: ColumnFacts, rows: int) -> bool:
    marks = column.filled and len(column.values) <= _MOST_MARKS and not column.structured
    same = len(column.values) == 1 and column.filled == rows
    values = [value for value in column.values if not is_blank(value)]
    own = values == [column.name.strip()]
    return bool(marks and not same and values and (own or all(map(is_mark, values))))


def _columns_of_people(table: TableColumns, taken: Collection[str]) -> list[str]:
    """The columns that are named after people who label, such as `rater_1` and `rater_2`, where all hold labels."""
    for stem in dict.fromkeys(stem_of(column.name) for column in table.columns):
        columns = [column for column in table.columns if stem_of(column.name) == stem and column.name not in taken]
        values = {value for column in columns for value in column.values if not is_no_vote(value)}
        labels = 2 <= len(values) <= _MOST_LABELS and all(column.filled and not column.structured for column in columns)
        short = all(column.characters <= _SHORT for column in columns)
        plain = not any(is_mark(value) or _is_number(value) for value in values)
        names = [column.name for column in columns]
        if len(names) > 1 and people_labelled(names) and labels and short and plain:
            return names
    return []


def guess_reasoning(table: TableColumns, taken: Collection[str]) -> Guess | None:
    """A column of reasonings by its name, if it holds sentences."""
    for name in _REASONS:
        for column in table.columns:
            if column.name.strip().lower() == name and column.name not in taken and column.words >= _FEW_WORDS:
                return Guess(column.name, f"its name is {column.name!r}, and {column.filled:,} rows have a text there")
    return None


def _may_be_label(column: ColumnFacts) -> bool:
    few = 2 <= len(column.values) <= min(_MOST_LABELS, column.filled / 2)
    return few and column.characters <= _SHORT


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def shown_values(column: ColumnFacts, most: int = 6) -> str:
    """The most frequent values of a column; of a column of texts, two."""
    best = sorted(column.values, key=lambda value: -column.values[value])
    shown = best[: most if column.characters <= _SHORT / 2 else 2]
    parts = [shortened(" ".join(value.split()), _SHORT) for value in shown]
    return " | ".join([*parts, *(["…"] if len(best) > len(parts) else [])])
