"""How much of the label a reasoning gives away by itself.

R-Gen sees the label, so its reasoning may be little more than the label in other words. A classifier then learns to
guess early and to defend its guess (RORA, arXiv:2402.18678). How well the label can be read off the reasoning alone
measures that. Knows neither models nor files.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rir_mlx.augmentation.filters import LabelWords
from rir_mlx.statistics.metrics import accuracy
from rir_mlx.statistics.regression import one_against_rest
from rir_mlx.statistics.tfidf import word_features

_FOLDS = 5


@dataclass(frozen=True, slots=True)
class LabelledReasoning:
    """A label, and the reasoning that was kept for a text with it."""

    label: str
    reasoning: str


class ReservoirSample:
    """A uniform sample of at most `size` of the items added, drawn by the seed (Vitter's algorithm R)."""

    def __init__(self, size: int = 3000, seed: int = 0) -> None:
        self.size, self.seen = size, 0
        self.items: list[LabelledReasoning] = []
        self._random = random.Random(seed)

    def add(self, item: LabelledReasoning) -> None:
        self.seen += 1
        if len(self.items) < self.size:
            self.items.append(item)
        elif (place := self._random.randrange(self.seen)) < self.size:
            self.items[place] = item


def leakage(sample: ReservoirSample, words: LabelWords) -> dict[str, Any]:
    """What the reasonings of a sample reveal about their labels:

    majority              share of the most frequent label among the sampled rows
    label_from_reasoning  accuracy of TF-IDF (words and pairs) with logistic regression on the reasoning alone,
                          cross-validated over five folds, fewer where a label has fewer rows, with Wilson's 95 %
                          interval; None if fewer than two labels have two rows
    without_label_words   the same with the words of every label blanked out
    names_its_label       share of reasonings that name their own label
    first_named_at        where they first do, as a share of the reasoning's length: quartiles; None if none does
    """
    rows = sample.items
    counts = Counter(row.label for row in rows)
    frequent = [row for row in rows if counts[row.label] >= 2]
    found = [_first_named(row, words) for row in rows]
    places = [place for place in found if place is not None]
    return {
        "rows": sample.seen,
        "sampled": len(rows),
        "majority": max(counts.values(), default=0) / max(1, len(rows)),
        "label_from_reasoning": _readable(frequent, [row.reasoning for row in frequent]),
        "without_label_words": _readable(frequent, [words.masked(row.reasoning) for row in frequent]),
        "names_its_label": len(places) / max(1, len(rows)),
        "first_named_at": [round(float(share), 3) for share in np.quantile(places, [0.25, 0.5, 0.75])]
        if places
        else None,
    }


def _first_named(row: LabelledReasoning, words: LabelWords) -> float | None:
    own = words.own(row.label)
    for label, place, _ in words.named(row.reasoning):
        if label in own:
            return place / max(1, len(row.reasoning))
    return None


def _readable(rows: Sequence[LabelledReasoning], reasonings: Sequence[str]) -> dict[str, float] | None:
    labels = [row.label for row in rows]
    if len(set(labels)) < 2:
        return None
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    folds = min(_FOLDS, min(Counter(labels).values()))
    model = make_pipeline(word_features(), one_against_rest(10.0))
    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    try:
        predicted = cross_val_predict(model, reasonings, labels, cv=split)
    except ValueError:  # no words at all
        return None
    interval = accuracy(labels, predicted.tolist())
    return {"value": interval.value, "low": interval.low, "high": interval.high}
