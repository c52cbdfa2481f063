"""A column for each label, or for each person who labelled: what a row's cells say together.

A column for each label holds marks (1 and 0, `x` and nothing), or with soft labels its votes or probability. With soft
labels a column may also be a person's, whose cells hold labels: each is a vote.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rir_mlx.data.labels.spelling import is_missing, label_of
from rir_mlx.errors import DataError

_TRUE = frozenset(("true", "wahr", "vrai", "verdadero", "verdadeiro", "vero", "waar"))
_FALSE = frozenset(("false", "falsch", "faux", "falso", "onwaar"))
"""Truth values as spreadsheets write them, in small letters."""
_YES = _TRUE | {"1", "yes", "y", "x", "+", "✓", "✔", "☑", "✅", "ja", "oui", "sí", "si", "sim", "sì"}
_NO = _FALSE | {"0", "no", "n", "-", "–", "—", "☐", "nein", "non", "não", "nao", "nee"}
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:e[+-]?\d+)?(\s?%)?", re.IGNORECASE)
_KNOWN = 10_000


class LabelCells(NamedTuple):
    """The cells of a row's label columns, beside the columns' names."""

    names: tuple[str, ...]
    cells: tuple[Any, ...]

    def filled(self) -> list[tuple[str, Any]]:
        """The columns in which something stands, with it."""
        return [pair for pair in zip(self.names, self.cells, strict=True) if not _is_blank(pair[1])]

    def marked(self) -> list[str]:
        """The names of the columns that are marked. Raises ValueError for a cell that holds no mark."""
        found = []
        for name, cell in self.filled():
            mark = _mark(cell)
            if mark == name.casefold() or mark in _YES:
                found.append(name)
            elif mark not in _NO:
                raise ValueError(f"the label column {name!r} holds {str(cell)[:30]!r}, which is no mark")
        return found

    def numbers(self) -> dict[str, float]:
        """The votes or probability of each label. Raises ValueError for a cell that holds no number."""
        found = {}
        for name, cell in self.filled():
            if (number := _number(cell)) is None:
                raise ValueError(f"the label column {name!r} holds {str(cell)[:30]!r}, which is no number")
            found[name] = number
        return found

    def choices(self, known: Collection[str]) -> dict[str, float]:
        """How many people chose each label. `known` are labels that are kept as they are named."""
        return {label: float(count) for label, count in Counter(label_of(c, known) for _, c in self.filled()).items()}


@dataclass
class ColumnStyle:
    """How the label columns of a recipe are filled, as far as its tables were seen. `says_no`: what does not hold is
    marked as well, so that a row without any mark was not looked at. `people`: the cells hold labels, and not votes."""

    says_no: bool = False
    people: bool | None = None

    def see(self, cells: Sequence[Any], known: Collection[str] = ()) -> None:
        """Look at a table's cells of the label. `known` are the labels that the recipe names."""
        if not cells or not isinstance(cells[0], LabelCells):
            return
        rows = {id(row): row for row in cells}.values()
        held = [(name, cell) for row in rows for name, cell in row.filled()]
        marks = {(name.casefold(), _mark(cell)) for name, cell in held}
        self.says_no |= any(mark in _NO and mark != name for name, mark in marks)
        if self.people is None and held:
            numbers = sum(_number(cell) is not None for _, cell in held)
            self.people = 2 * numbers < len(held) or (bool(known) and {_mark(c) for _, c in held} <= _small(known))


def _small(names: Iterable[str]) -> set[str]:
    return {name.casefold() for name in names}


def joined_labels(
    names: Sequence[str], rows: Iterable[Sequence[Any]], classes: Sequence[tuple[str, ...] | None]
) -> Iterator[LabelCells]:
    """The cells of each row. Rows that say the same share one object. `classes` are the names of a column's class ids,
    if it has some. Raises DataError for two columns of one name."""
    own, known = tuple(" ".join(name.split()) for name in names), dict[Any, LabelCells]()
    if len(set(own)) < len(own):
        twice = next(name for name in own if own.count(name) > 1)
        raise DataError(f"Two label columns are called {twice!r}.", hint="Give each a name of its own.")
    for row in rows:
        cells = tuple(
            cell if ids is None or not isinstance(cell, int) or not 0 <= cell < len(ids) else ids[cell]
            for cell, ids in zip(row, classes, strict=True)
        )
        key = tuple((type(cell), cell) for cell in cells)
        try:
            found = known.get(key)
        except TypeError:  # a list
            yield LabelCells(own, cells)
            continue
        found = found or LabelCells(own, cells)
        if len(known) < _KNOWN:
            known[key] = found
        yield found


def is_mark(text: str, name: str) -> bool:
    """Whether a cell with this text may be a mark in the column of this name."""
    return (mark := _mark(text)) in _YES | _NO or mark == name.casefold()


def _is_blank(cell: Any) -> bool:
    if isinstance(cell, str):
        return not cell.strip() or is_missing(" ".join(cell.split()))
    return cell is None or cell != cell


def _mark(cell: Any) -> str:
    """The cell in small letters, whole numbers by their digits."""
    try:
        return label_of(cell).casefold()
    except ValueError:
        return ""


def _number(cell: Any) -> float | None:
    """The number in a cell, if it is one: also a truth value, a percentage, and one with a decimal comma."""
    if isinstance(cell, str):
        text = cell.strip()
        if text.casefold() in _TRUE | _FALSE:
            return float(text.casefold() in _TRUE)
        if (found := _NUMBER.fullmatch(text)) is None:
            return None
        number = float(text.removesuffix(found[1] or "").replace(",", "."))
        return number / 100 if found[1] else number
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None
