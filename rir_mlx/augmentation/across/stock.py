"""Stock reasonings: those that many rows share, and that say nothing about any of them ("joy is a happy emotion", row
after row). No row shows that by itself, so they are found when all reasonings are there."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from typing import Any

import numpy as np

from rir_mlx.augmentation.filters import ReasoningFilters, words_of
from rir_mlx.augmentation.job import AugmentedRow

SHARED_BY = 5
"""From so many different texts on, a reasoning is shared by many."""
_EXAMPLES = 3


class StockReasonings:
    """Tells stock reasonings: at least five different texts share one, word for word, and no word of it occurs in the
    row's text, apart from empty words and those of labels and instruction. A reasoning that takes up something of each
    text ("the writer waits for the parcel") is none, however many rows share it."""

    def __init__(self, filters: ReasoningFilters) -> None:
        self._filters = filters
        self._reasonings, self._texts = array("Q"), array("Q")  # a short hash of each that was added
        self._stock: frozenset[int] | None = None
        self._found: dict[str, Counter[str]] = {}
        self._rows = Counter[str]()

    def add(self, text: str, reasoning: str) -> None:
        """Count that a text has a reasoning."""
        self._reasonings.append(_key(reasoning))
        self._texts.append(_key(text))

    def is_stock(self, text: str, reasoning: str) -> bool:
        """Whether the reasoning of a text is a stock one. All must have been added before."""
        if self._stock is None:
            self._stock = self._shared()
        return _key(reasoning) in self._stock and not self._filters.is_grounded(text, reasoning)

    def _shared(self) -> frozenset[int]:
        """The reasonings that many different texts share."""
        pairs = np.stack([np.frombuffer(found, np.uint64) for found in (self._reasonings, self._texts)], axis=1)
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        new = np.ones(len(pairs), dtype=bool)
        new[1:] = np.any(pairs[1:] != pairs[:-1], axis=1)
        reasonings, texts = np.unique(pairs[new, 0], return_counts=True)
        del self._reasonings[:], self._texts[:]
        return frozenset(reasonings[texts >= SHARED_BY].tolist())

    def count(self, outcome: AugmentedRow) -> None:
        """Count the stock reasonings of a row for `values`."""
        found = {candidate.reasoning for candidate in outcome.rejected if candidate.rejected == "stock"}
        if found:
            self._rows[outcome.row.label] += 1
            self._found.setdefault(outcome.row.label, Counter()).update(found)

    def values(self) -> dict[str, Any]:
        """For each label: how many `rows` had a stock reasoning, and the most frequent ones as [reasoning, rows]."""
        return {
            label: {"rows": self._rows[label], "examples": [list(pair) for pair in found.most_common(_EXAMPLES)]}
            for label, found in sorted(self._found.items())
        }


def _key(text: str) -> int:
    """A short hash of the words of a text."""
    return int.from_bytes(hashlib.blake2b(" ".join(words_of(text)).encode(), digest_size=8).digest())
