"""Stock reasonings: those that many rows share, and that say nothing about any of them ("joy is a happy emotion", row
after row). No row shows that by itself, so they are found when all reasonings are there."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from rir_mlx.augmentation.filters import ReasoningFilters, words_of
from rir_mlx.augmentation.job import AugmentedRow, Candidate

SHARED_BY = 5
"""From so many different texts on, a reasoning is shared by many."""
_EXAMPLES = 3


class StockReasonings:
    """Finds the rows whose reasoning is a stock one: at least five different texts share it, word for word, and no word
    of it occurs in the row's text, apart from empty words and those of labels and instruction. A reasoning that takes
    up something of each text ("the writer waits for the parcel") is none, however many rows share it."""

    def __init__(self, filters: ReasoningFilters) -> None:
        self._filters = filters
        self._texts: dict[bytes, frozenset[bytes]] = {}
        self._found: dict[str, Counter[str]] = {}

    def read(self, rows: Iterable[AugmentedRow]) -> None:
        """Count how many texts share each kept reasoning."""
        for row in rows:
            if row.kept is not None:
                key, text = _key(row.kept["reasoning"]), _key(row.kept["text"])
                before = self._texts.get(key, frozenset())
                if len(before) < SHARED_BY:
                    self._texts[key] = before | {text}

    def judged(self, row: AugmentedRow) -> AugmentedRow:
        """The row, its reasoning rejected if it is a stock one."""
        if row.kept is None or not self._is_stock(row.kept["text"], row.kept["reasoning"]):
            return row
        self._found.setdefault(row.row.label, Counter())[row.kept["reasoning"]] += 1
        attempt = row.kept["provenance"].get("attempt", 0)
        rejected = Candidate("", 0, attempt, row.kept["reasoning"], row.kept["tokens"], "stock")
        return replace(row, kept=None, rejected=[*row.rejected, rejected])

    def values(self) -> dict[str, Any]:
        """For each label: how many `rows` had a stock reasoning, and the most frequent ones as [reasoning, rows]."""
        return {
            label: {"rows": found.total(), "examples": [list(pair) for pair in found.most_common(_EXAMPLES)]}
            for label, found in sorted(self._found.items())
        }

    def _is_stock(self, text: str, reasoning: str) -> bool:
        return len(self._texts.get(_key(reasoning), ())) >= SHARED_BY and not self._filters.is_grounded(text, reasoning)


def _key(text: str) -> bytes:
    """A short hash of the words of a text."""
    return hashlib.blake2b(" ".join(words_of(text)).encode(), digest_size=8).digest()
