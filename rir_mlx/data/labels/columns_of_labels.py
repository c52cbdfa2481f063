"""A column for each label, or for each person who labelled: what a row's cells say together.

A column for each label holds marks (1 and 0, `x` and nothing), or with soft labels its votes or probability. With soft
labels a column may also be a person's, whose cells hold labels: each is a vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rir_mlx.data.labels.spelling import is_missing, label_of

_YES = frozenset(("1", "true", "yes", "y", "x", "+", "✓", "✔", "✗", "✘", "☑", "☒"))
_NO = frozenset(("0", "false", "no", "n", "-", "–", "—", "☐"))
_TRUE = frozenset(("wahr", "ja", "vrai", "oui", "verdadero", "sí", "si", "verdadeiro", "sim", "vero", "sì", "waar"))
_FALSE = frozenset(("falsch", "nein", "faux", "non", "falso", "não", "nao", "onwaar", "nee"))
_MARKS, _NO_MARKS = _YES | _TRUE, _NO | _FALSE
"""Marks, in small letters; spreadsheets write truth values in the user's language."""
_KNOWN = 10_000


class LabelCells(NamedTuple):
    """The cells of a row's label columns, beside the columns' names."""

    names: tuple[str, ...]
    cells: tuple[Any, ...]

    @property
    def is_blank(self) -> bool:
        """Whether nothing stands in any of them."""
        return all(map(_is_blank, self.cells))

    @property
    def says_no(self) -> bool:
        """Whether a mark stands there for a label that does not hold, so that nothing is no mark."""
        return any(_mark(cell) in _NO_MARKS for cell in self.cells if not _is_blank(cell))

    def marked(self) -> list[str]:
        """The names of the columns that are marked. Raises ValueError for a cell that holds no mark."""
        found = []
        for name, cell in zip(self.names, self.cells, strict=True):
            if _is_blank(cell) or (mark := _mark(cell)) in _NO_MARKS:
                continue
            if mark not in _MARKS and mark != " ".join(name.casefold().split()):
                raise ValueError(f"the label column {name!r} holds {str(cell)[:30]!r}, which is no mark such as 1 or 0")
            found.append(name)
        return found

    def votes(self, known: Collection[str] = ()) -> dict[str, float]:
        """The columns' numbers by their names; where the cells hold labels, how many hold each. `known` are the labels
        that the recipe names. Raises ValueError where some are numbers and others are not."""
        filled = [(name, cell) for name, cell in zip(self.names, self.cells, strict=True) if not _is_blank(cell)]
        numbers = {name: number for name, cell in filled if (number := _number(cell)) is not None}
        if numbers and len(numbers) < len(filled):
            odd = next(name for name, _ in filled if name not in numbers)
            raise ValueError(f"the label column {odd!r} holds no number, and {next(iter(numbers))!r} holds one")
        return numbers or {name: float(count) for name, count in Counter(label_of(c, known) for _, c in filled).items()}


def joined_labels(
    names: Sequence[str], rows: Iterable[Sequence[Any]], classes: Sequence[tuple[str, ...] | None]
) -> Iterator[LabelCells]:
    """The cells of each row. Rows that say the same share one object. `classes` are the names of a column's class ids,
    if it has some."""
    own, known = tuple(names), dict[Any, LabelCells]()
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


def is_mark(text: str) -> bool:
    """Whether a cell with this text may be a mark."""
    return _mark(text) in _MARKS | _NO_MARKS


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
    """The number in a cell, if it is one."""
    if isinstance(cell, bool):
        return float(cell)
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None
