"""Cleaned test rows: no copies of training or validation rows, and no texts with two labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rir_mlx.data.same_text import normalised


def cleaned(seen_texts: Sequence[str], test_texts: Sequence[str], test_labels: Sequence[str]) -> NDArray[np.bool_]:
    """[test rows]: False for texts that are also in `seen_texts`, those of the training and validation rows, whatever
    their label, and for texts that occur among the test rows with two labels. Texts are compared by
    `same_text.normalised`."""
    seen = {normalised(text) for text in seen_texts}
    texts = [normalised(text) for text in test_texts]
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for text, label in zip(texts, test_labels, strict=True):
        labels[text].add(label)
    return np.array([text not in seen and len(labels[text]) == 1 for text in texts], dtype=np.bool_)
