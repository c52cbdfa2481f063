"""Test rows that training cannot have seen, and whose label nobody disputes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rir_mlx.data.same_text import normalised


def cleaned(train_texts: Sequence[str], test_texts: Sequence[str], test_labels: Sequence[str]) -> NDArray[np.bool_]:
    """[test rows]: True for the rows of a test set that are fit to measure on. Left out are texts that stand in the
    training rows, with whatever label, and texts that the test rows hold with two labels. Texts are the same when
    they are after `texts.normalised`."""
    seen = {normalised(text) for text in train_texts}
    texts = [normalised(text) for text in test_texts]
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for text, label in zip(texts, test_labels, strict=True):
        labels[text].add(label)
    return np.array([text not in seen and len(labels[text]) == 1 for text in texts], dtype=np.bool_)
