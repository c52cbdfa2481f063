"""A few reasonings to look at: kept ones of different labels, and rejected ones with the reason."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import chain, islice, zip_longest
from typing import Any, Generic, TypeVar

from rir_mlx.augmentation.job import AugmentedRow
from rir_mlx.progress import shortened

_EACH, _SHOWN, _LONGEST = 3, 5, 100

Item = TypeVar("Item")


class _FewOfEach(Generic[Item]):
    """A uniform sample of three items of each kind."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._seen: dict[Hashable, int] = defaultdict(int)
        self._items: dict[Hashable, list[Item]] = defaultdict(list)

    def add(self, kind: Hashable, item: Item) -> None:
        self._seen[kind] += 1
        if len(self._items[kind]) < _EACH:
            self._items[kind].append(item)
        elif (place := self._random.randrange(self._seen[kind])) < _EACH:
            self._items[kind][place] = item

    def in_turn(self) -> list[Item]:
        """One of each kind, then the next of each."""
        turns = chain.from_iterable(zip_longest(*(self._items[kind] for kind in sorted(self._items, key=str))))
        return [item for item in turns if item is not None]


class ReasoningExamples:
    """Draws examples while rows pass by: three of each label that were kept, three of each reason to reject."""

    def __init__(self, seed: int) -> None:
        self._kept = _FewOfEach[dict[str, Any]](seed)
        self._rejected = _FewOfEach[dict[str, Any]](seed)

    def add(self, row: AugmentedRow) -> None:
        place = {"id": row.row.id, "text": row.row.text, "label": row.row.label}
        if row.kept is not None:
            self._kept.add(row.row.label, place | {"reasoning": row.kept["reasoning"]})
        for candidate in row.rejected:
            found = place | {"reasoning": candidate.reasoning, "rejected": candidate.rejected}
            self._rejected.add(candidate.rejected, found)

    def values(self) -> dict[str, list[dict[str, Any]]]:
        """`kept` and `rejected` rows; labels and reasons take turns."""
        return {"kept": self._kept.in_turn(), "rejected": self._rejected.in_turn()}


def example_lines(examples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Five kept reasonings of different labels and five rejected ones, a line each."""
    if examples["kept"]:
        yield "Kept, for example:"
    for row in islice(examples["kept"], _SHOWN):
        yield f"  {row['label']}: {_short(row['text'])!r} → {_short(row['reasoning'])}"
    if examples["rejected"]:
        yield "Rejected, for example:"
    for row in islice(examples["rejected"], _SHOWN):
        yield f"  {row['label']}, {row['rejected']}: {_short(row['text'])!r} → {_short(row['reasoning']) or 'nothing'}"


def _short(text: str) -> str:
    return shortened(" ".join(text.split()), _LONGEST)
