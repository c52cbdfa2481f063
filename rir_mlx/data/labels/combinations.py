"""Several labels of one text. A row's labels become one name, in alphabetical order: its combination.

A combination is learned and scored as one answer (a label powerset: Tsoumakas and Katakis 2007), so that labels that go
together are learned together. A single label's probability is the sum over the combinations that hold it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rir_mlx.data.labels.printed_arrays import refuse_printed
from rir_mlx.data.labels.spelling import is_missing
from rir_mlx.json_text import RepeatedKeyError, literal_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BETWEEN = ", "
"""Stands between the labels of a combination, as a model writes them."""
MOST_COMBINATIONS = 1000
"""Every one of them is scored for every text."""
_OPENING = ("[", "(", "{")
_OFTEN = 10
"""A combination with so many rows is drawn in proportion to them."""


def combination(labels: Iterable[str]) -> str:
    """The name of a set of labels."""
    return BETWEEN.join(sorted(set(labels)))


def parts_of(name: str) -> list[str]:
    """The labels of a combination."""
    return name.split(BETWEEN)


def combinations_of(rows: Iterable[str], labels: Iterable[str]) -> tuple[str, ...]:
    """Every label by itself, then the combinations that rows have: those of few labels first, then in the order of the
    labels."""
    places = {label: place for place, label in enumerate(labels)}
    last = len(places)  # of a label that is not known
    together = {name: sorted(places.get(part, last) for part in parts_of(name)) for name in set(rows) - places.keys()}
    return (*places, *sorted(together, key=lambda name: (len(together[name]), together[name])))


def strata(names: Mapping[str, int]) -> dict[str, str]:
    """With what rare combinations are drawn, of all `names` with their rows: with the rarest of their labels. Drawn by
    themselves, those of one row would all stay in one part."""
    single = Counter[str]()
    for name, rows in names.items():
        single.update(dict.fromkeys(parts_of(name), rows))
    rare = {name: parts_of(name) for name, rows in names.items() if rows < _OFTEN and BETWEEN in name}
    return {name: min(parts, key=lambda part: (single[part], part)) for name, parts in rare.items()}


def holds(names: Iterable[str], labels: Sequence[str]) -> NDArray[np.bool_]:
    """[names, labels]: whether each combination holds each label."""
    import numpy as np

    each = [set(parts_of(name)) for name in names]
    return np.array([[label in parts for label in labels] for parts in each], dtype=np.bool_)


def place_of(no_label: str | None, labels: Sequence[str]) -> int | None:
    """Where the label of texts that have none stands among `labels`, if it does."""
    return None if no_label is None or no_label not in labels else labels.index(no_label)


def cells_in(cell: Any, separator: str | None) -> Iterator[Any]:
    """The labels in a cell, each as a cell of its own: the values of a list, also of one that is written as JSON or
    Python writes it; of a text what stands between the separators, without white space, where that is anything.
    Without a separator a text is one label."""
    listed = _listed(cell)
    if listed is not None:
        yield from listed
    elif not isinstance(cell, str):
        yield cell
    else:
        pieces = [cell] if separator is None else cell.split(separator)
        yield from (part for piece in pieces if (part := piece.strip()))


def says_nothing(cell: Any, *, soft: bool = False, known: Collection[str] = ()) -> bool:
    """Whether a cell holds no label: it is empty or missing, or a list without anything in it; a `soft` one has no
    share. `known` are labels, though they may read like a missing value."""
    if isinstance(cell, str) and cell.strip() in known:
        return False
    if cell is None or cell != cell or (isinstance(cell, str) and (not cell.strip() or is_missing(cell.strip()))):
        return True
    try:
        found = literal_of(cell) if isinstance(cell, str) and cell.strip()[:1] in _OPENING else cell
    except ValueError:
        return False
    if isinstance(found, Mapping):
        return soft and not any(found.values())
    return isinstance(found, list | tuple | set) and all(says_nothing(part, known=known) for part in found)


def _listed(cell: Any) -> Sequence[Any] | None:
    """The values of a list, or of a text that is one. Raises ValueError for an array as it is printed, and for an
    object with a key that comes twice."""
    if hasattr(cell, "tolist") and getattr(cell, "ndim", 0) == 1:
        cell = cell.tolist()
    if isinstance(cell, str):
        refuse_printed(cell)
    if isinstance(cell, str) and cell.strip()[:1] in _OPENING:
        try:
            cell = literal_of(cell)
        except RepeatedKeyError:
            raise
        except ValueError:
            return None
    return list(cell) if isinstance(cell, list | tuple | set) else None
