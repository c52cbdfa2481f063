"""What a table's rows become: labelled rows, held by column and made as they are asked for, and triples."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby, repeat
from typing import Any, TypeVar, overload

from rir_mlx.data.cells import optional_text
from rir_mlx.data.labels.distributions import Shares
from rir_mlx.data.packed_cells import cells_at
from rir_mlx.data.tables.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """A text and its label, and the reasoning that the user gave with them, if any.

    `file` and `number` say where the row stands, counted as the user finds it. `id` names the row within a run, the
    same on every load: `<source part>:<number>`, or `<source part>:<file>:<number>` where the source is several files,
    counted from 1. The source part is the recipe key that the row was read from, also when the row was carved into
    another part. `shares` is how the label is divided among several, if it is: `label` has the largest."""

    text: str
    label: str
    reasoning: str | None = None
    file: str = field(default="", compare=False, repr=False)
    number: int = field(default=0, compare=False, repr=False)
    id: str = field(default="", compare=False, repr=False)
    shares: Shares = ()

    @property
    def divided(self) -> Shares:
        """The row's labels with their shares: where the label is not divided, the label with all."""
        return self.shares or ((self.label, 1.0),)


@dataclass(frozen=True, slots=True)
class Triple:
    """A question, its answer, and the reasoning between them."""

    question: str
    answer: str
    reasoning: str


class RowColumns:
    """The usable rows of a table, by column. Texts and reasonings stay in the table's cells; a row's own are its place
    there, the number of its label, and those of the labels that it is divided among, with their shares. Row ids start
    with `prefix`."""

    def __init__(self, table: Table, prefix: str) -> None:
        self.file, self.prefix, self.numbers = table.name, prefix, table.rows
        self.texts: Sequence[Any] = table.cells[0]
        self.reasonings: Sequence[Any] | None = table.cells[2] if len(table.cells) > 2 else None
        self.places = array("I")
        self._labels = array("I")  # of each place of the table, as far as rows were added
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._divided, self._shares = array("I"), array("d")
        self._ends = array("Q")  # of each place's shares, up to the last row that has any

    def add(self, place: int, row: Row) -> None:
        """Add the row that was read at a place of the table. Its text and reasoning are the cells."""
        self._labels.extend([0] * (place - len(self._labels)))
        self._labels.append(self._number(row.label))
        self.places.append(place)
        if row.shares:
            self._ends.extend([len(self._shares)] * (place - len(self._ends)))
            self._divided.extend(self._number(label) for label, _ in row.shares)
            self._shares.extend(share for _, share in row.shares)
            self._ends.append(len(self._shares))

    def _number(self, label: str) -> int:
        number = self._numbers.setdefault(label, len(self._names))
        if number == len(self._names):
            self._names.append(label)
        return number

    def shares(self, place: int) -> Shares:
        """How the label of the row at a place is divided."""
        if place >= len(self._ends):
            return ()
        own = slice(self._ends[place - 1] if place else 0, self._ends[place])
        return tuple(zip(map(self._names.__getitem__, self._divided[own]), self._shares[own], strict=True))

    def rows(self, places: Sequence[int]) -> Iterator[Row]:
        """The rows at these places, in that order."""
        given = repeat(None, len(places)) if self.reasonings is None else cells_at(self.reasonings, places)
        for place, text, reasoning in zip(places, cells_at(self.texts, places), given, strict=True):
            label, number = self.label(place), self.numbers[place]
            own = optional_text(reasoning, "reasoning")
            yield Row(text, label, own, self.file, number, f"{self.prefix}:{number}", self.shares(place))

    def label(self, place: int) -> str:
        return self._names[self._labels[place]]


class Rows(Sequence[Row]):
    """Rows that are held by column, some tens of bytes each, and made as they are asked for. Slices, sums and choices
    share the columns."""

    def __init__(self, *pieces: tuple[RowColumns, Sequence[int]]) -> None:
        self._pieces = [piece for piece in pieces if len(piece[1])]
        self._ends = list(accumulate(len(places) for _, places in self._pieces))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return self.chosen(range(len(self))[index])
        index = range(len(self))[index]
        piece = bisect_right(self._ends, index)
        columns, places = self._pieces[piece]
        return next(columns.rows([places[index - self._start(piece)]]))

    def __iter__(self) -> Iterator[Row]:
        for columns, places in self._pieces:
            yield from columns.rows(places)

    def __add__(self, other: Rows) -> Rows:
        return Rows(*self._pieces, *other._pieces)

    def __eq__(self, other: object) -> bool:
        """Whether the other holds equal rows, also as a tuple or list."""
        if not isinstance(other, Rows | tuple | list):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Rows({', '.join(map(repr, self[:3]))}{', …' if len(self) > 3 else ''}; {len(self):,} rows)"

    def _start(self, piece: int) -> int:
        return self._ends[piece - 1] if piece else 0

    def chosen(self, indices: Iterable[int]) -> Rows:
        """The rows at these indices, in that order."""
        pieces = []
        for piece, found in groupby(indices, lambda index: bisect_right(self._ends, index)):
            (columns, places), start = self._pieces[piece], self._start(piece)
            pieces.append((columns, array("I", (places[index - start] for index in found))))
        return Rows(*pieces)

    def labels(self) -> Iterator[str]:
        """The label of each row, without making the row."""
        for columns, places in self._pieces:
            yield from map(columns.label, places)


AnyRows = TypeVar("AnyRows", Rows, Sequence[Row])


def chosen(rows: AnyRows, indices: Iterable[int]) -> AnyRows:
    """The rows at these indices, in that order; held by column if the given ones are."""
    return rows.chosen(indices) if isinstance(rows, Rows) else [rows[index] for index in indices]


def labels_of(rows: Sequence[Row]) -> Iterator[str]:
    """The label of each row."""
    return rows.labels() if isinstance(rows, Rows) else (row.label for row in rows)
