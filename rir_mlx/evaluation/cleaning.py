"""Cleaned rows: test rows that are no copies of training or validation rows and have no two labels, and validation rows
that are no copies of training rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rir_mlx.data.same_text import normalised
from rir_mlx.progress import counted


@dataclass(frozen=True)
class RowFaults:
    """[test rows] each: whether a text is also in a training or validation row, whatever their labels, and whether it
    occurs among the test rows with two labels."""

    leaked: NDArray[np.bool_]
    conflicting: NDArray[np.bool_]

    @property
    def clean(self) -> NDArray[np.bool_]:
        return ~(self.leaked | self.conflicting)


def copies(texts: Sequence[str], of: Iterable[str]) -> NDArray[np.bool_]:
    """[texts] whether each is also among the others. Texts are compared by `same_text.normalised`."""
    return _among([normalised(text) for text in texts], of)


def _among(normal: Sequence[str], of: Iterable[str]) -> NDArray[np.bool_]:
    sought = set(normal)
    found = sought.intersection(map(normalised, of))  # of a million training rows, only those that are found are held
    return np.array([text in found for text in normal], dtype=np.bool_)


def copies_note(copied: int, rows: int) -> str:
    """That so many of the validation rows are copies of training rows."""
    return (
        f"{copied:,} of {counted(rows, 'validation row')} {'is' if copied == 1 else 'are'} also in training rows: left "
        "out where weights, temperatures, thresholds and an arm are chosen, for a classifier may know them by heart. "
        "`rir-mlx check` lists them."
    )


def row_faults(seen_texts: Iterable[str], test_texts: Sequence[str], test_labels: Sequence[str]) -> RowFaults:
    """`seen_texts` are those of the training and validation rows. Texts are compared by `same_text.normalised`."""
    texts = [normalised(text) for text in test_texts]
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for text, label in zip(texts, test_labels, strict=True):
        labels[text].add(label)
    return RowFaults(
        _among(texts, seen_texts),
        np.array([len(labels[text]) > 1 for text in texts], dtype=np.bool_),
    )
