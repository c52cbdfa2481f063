"""Cleaned test rows: no copies of training or validation rows, and no texts with two labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rir_mlx.data.same_text import normalised


@dataclass(frozen=True)
class RowFaults:
    """[test rows] each: whether a text is also in a training or validation row, whatever their labels, and whether it
    occurs among the test rows with two labels."""

    leaked: NDArray[np.bool_]
    conflicting: NDArray[np.bool_]

    @property
    def clean(self) -> NDArray[np.bool_]:
        return ~(self.leaked | self.conflicting)


def row_faults(seen_texts: Sequence[str], test_texts: Sequence[str], test_labels: Sequence[str]) -> RowFaults:
    """`seen_texts` are those of the training and validation rows. Texts are compared by `same_text.normalised`."""
    seen = {normalised(text) for text in seen_texts}
    texts = [normalised(text) for text in test_texts]
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for text, label in zip(texts, test_labels, strict=True):
        labels[text].add(label)
    return RowFaults(
        np.array([text in seen for text in texts], dtype=np.bool_),
        np.array([len(labels[text]) > 1 for text in texts], dtype=np.bool_),
    )
