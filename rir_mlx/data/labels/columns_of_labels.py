"""A column for each label, or for each person who labelled: what a row's cells say together.

A column for each label holds marks (1 and 0, `x` and nothing), or with soft labels its votes or probability. With soft
labels a column may also be a person's, whose cells hold labels: each is a vote.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rir_mlx.data.labels.spelling import is_missing, label_of
from rir_mlx.errors import DataError

_TRUE = frozenset(("true", "wahr", "vrai", "verdadero", "verdadeiro", "vero", "waar"))
_FALSE = frozenset(("false", "falsch", "faux", "falso", "onwaar"))
"""Truth values as spreadsheets write them, in small letters."""
_YES = _TRUE | {"1", "yes", "y", "x", "+", "✓", "✔", "☑", "✅", "ja", "oui", "sí", "si", "sim", "sì"}
_NO = _FALSE | {"0", "no", "n", "-", "–", "—", "☐", "nein", "non", "não", "nao", "nee"}
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:e[+-]?\d+)?(\s?%)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")
"""A comma between thousands, or a decimal one."""
_DASHES = ("-", "–", "—")
_PERSON = re.compile(r"(?<![a-z])(?:annotator|rater|coder|label+er|judge|assessor|worker|participant)(?![a-z])")
_KNOWN = 10_000


class LabelCells(NamedTuple):
    """The cells of a row's label columns, beside the columns' names."""

    names: tuple[str, ...]
    cells: tuple[Any, ...]

    def filled(self, known: Collection[str] = ()) -> list[tuple[str, Any]]:
        """The columns in which something stands, with it. What reads like a missing value is something where it is the
        column's name, or a label that is `known`."""
        return [
            (name, cell)
            for name, cell in zip(self.names, self.cells, strict=True)
            if not is_blank(cell)
            or (isinstance(cell, str) and " ".join(cell.split()) in (name, *known) and cell.strip())
        ]

    def marked(self, own: Collection[str] = ()) -> list[str]:
        """The names of the columns that are marked: the `own` ones with their names. Raises ValueError for a cell that
        holds no mark."""
        found = []
        for name, cell in self.filled():
            mark = _mark(cell)
            if name in own or mark in _YES:
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
        chosen = Counter(label_of(cell, known) for _, cell in self.filled(known) if not _is_dash(cell))
        return {label: float(count) for label, count in chosen.items()}


@dataclass
class ColumnStyle:
    """How the label columns of a recipe are filled, as far as its tables were seen. `says_no`: what does not hold is
    marked as well, so that a row without any mark was not looked at. `people`: the cells hold labels, and not votes.
    `marks` are those of each column."""

    says_no: bool = False
    people: bool | None = None
    marks: dict[str, set[str]] = field(default_factory=dict)

    @property
    def own(self) -> frozenset[str]:
        """The columns that are marked with their own name, and with nothing else. A column called `0` that holds just
        that says no, where another column has such marks too."""
        own = {name for name, marks in self.marks.items() if marks == {_mark(name)}}
        marked = any(marks & (_YES | _NO) for name, marks in self.marks.items() if name not in own)
        return frozenset(name for name in own if not (marked and _mark(name) in _NO))

    def see(self, cells: Sequence[Any], known: Collection[str] = ()) -> None:
        """Look at a table's cells of the label. `known` are the labels that the recipe names."""
        if not cells or not isinstance(cells[0], LabelCells):
            return
        rows = {id(row): row for row in cells}.values()
        held = [(name, cell) for row in rows for name, cell in row.filled()]
        for name, cell in held:
            self.marks.setdefault(name, set()).add(_mark(cell))
        self.says_no = any(marks & _NO for name, marks in self.marks.items() if name not in self.own)
        if self.people is None and held:
            names = {name for name, _ in held}
            numbers = sum(_number(cell) is not None for _, cell in held)
            small = {label.casefold() for label in known}
            named = sum(_mark(cell) in small for _, cell in held)
            of_labels = names <= set(known)
            self.people = 2 * numbers < len(held) or (
                not of_labels and (2 * named > len(held) or people_labelled(sorted(names)))
            )


def people_labelled(names: Sequence[str]) -> bool:
    """Whether columns are named after people who label, such as `rater_1` and `rater_2`."""
    return len({stem_of(name) for name in names}) == 1 < len(names) and _PERSON.search(stem_of(names[0])) is not None


def stem_of(name: str) -> str:
    """A name in small letters, without the number or letter at its end."""
    return re.sub(r"[\W_]*(?:\d+|(?<=[\W_\d])[A-Za-z])$", "", name.strip()).casefold()


def joined_labels(
    names: Sequence[str], rows: Iterable[Sequence[Any]], classes: Sequence[tuple[str, ...] | None]
) -> Iterator[LabelCells]:
    """The cells of each row. Rows that say the same share one object. `classes` are the names of a column's class ids,
    if it has some. Raises DataError for two columns of one name, and for a class id without a name."""
    own, known = tuple(" ".join(name.split()) for name in names), dict[Any, LabelCells]()
    if len(set(own)) < len(own):
        twice = next(name for name in own if own.count(name) > 1)
        raise DataError(f"Two label columns are called {twice!r}.", hint="Give each a name of its own.")
    for row in rows:
        cells = tuple(
            cell if ids is None else _class_of(cell, ids, name)
            for name, cell, ids in zip(own, row, classes, strict=True)
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


def _class_of(cell: Any, ids: tuple[str, ...], column: str) -> Any:
    """The name of a class id; nothing for -1, with which data sets mark what is withheld."""
    if isinstance(cell, int) and cell != -1 and not 0 <= cell < len(ids):
        raise DataError(f"The label column {column!r} has the class id {cell}, which has no name among {len(ids)}.")
    return cell if not isinstance(cell, int) else None if cell == -1 else ids[cell]


def is_mark(text: str) -> bool:
    """Whether a cell with this text may be a mark."""
    return _mark(text) in _YES | _NO


def shown_marks(cells: Collection[str]) -> str:
    """Marks among these cells in words: one that says yes, and one that says no or nothing."""
    filled = sorted(cell.strip() for cell in cells if not is_blank(cell))
    yes = next((cell for cell in filled if _mark(cell) not in _NO), None)
    no = next((cell for cell in filled if _mark(cell) in _NO), "nothing")
    return no if yes is None else f"{yes} and {no}"


def is_no_vote(cell: Any) -> bool:
    """Whether somebody who labelled left a cell out: nothing stands there, or a dash."""
    return is_blank(cell) or _is_dash(cell)


def _is_dash(cell: Any) -> bool:
    return isinstance(cell, str) and cell.strip() in _DASHES


def is_blank(cell: Any) -> bool:
    """Whether a cell holds nothing, or what programs write for that."""
    if isinstance(cell, str):
        return not cell.strip() or is_missing(" ".join(cell.split()))
    return cell is None or cell != cell


def _mark(cell: Any) -> str:
    """The cell in small letters, whole numbers by their digits."""
    try:
        return label_of(cell).casefold()
    except ValueError:
        return " ".join(str(cell).split()).casefold()


def _number(cell: Any) -> float | None:
    """The number in a cell, if it is one: also a truth value, a percentage, and one with a decimal comma."""
    if isinstance(cell, str):
        text = cell.strip()
        if text.casefold() in _TRUE | _FALSE:
            return float(text.casefold() in _TRUE)
        if (found := _NUMBER.fullmatch(text)) is None:
            return None
        if _THOUSANDS.fullmatch(text):
            return None
        number = float(text.removesuffix(found[1] or "").replace(",", "."))
        return number / 100 if found[1] else number
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None
