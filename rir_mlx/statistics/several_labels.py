"""Texts with several labels: single labels' probabilities and thresholds, and how well whole sets are found.

`members` [answers, labels] says which labels each answer holds, `truth` and `answered` [.., n, labels] those of each
text. Knows arrays alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rir_mlx.statistics.intervals import FloatArray, Interval, resampled_sums, share_interval
from rir_mlx.statistics.metrics import LabelMetrics, metric_interval, share_of

SET_METRICS = ("micro_f1", "macro_f1", "jaccard")
EVEN = 0.5
"""The threshold of a label for which none is fitted: it is given where it is likelier than not."""
FEWEST_TO_FIT = 10
"""Validation rows with a label; with fewer, its threshold is not fitted."""

BoolArray = NDArray[np.bool_]


def label_probabilities(probabilities: FloatArray, members: BoolArray) -> FloatArray:
    """[.., labels] from [.., answers]: the probability of each label is that of all answers which hold it."""
    return np.minimum(probabilities @ members.astype(np.float64), 1.0)


def fit_thresholds(probabilities: FloatArray, truth: BoolArray) -> FloatArray:
    """For each label the threshold from which on it is given, from `probabilities` and `truth` [n, labels] of the
    validation rows: of those whose F1 there is less than a row's worth below the highest, the one nearest to 0.5. What
    a single row decides is chance. (The best threshold is half the highest F1, so at most 0.5: Lipton et al. 2014,
    arXiv:1402.1892.) It lies halfway between two probabilities.

    A label with fewer than ten rows keeps 0.5."""
    return np.array([_threshold(own, has) for own, has in zip(probabilities.T, truth.T, strict=True)])


def _threshold(probability: FloatArray, has: BoolArray) -> float:
    if has.sum() < FEWEST_TO_FIT:
        return EVEN
    values, group = np.unique(probability, return_inverse=True)
    given = np.cumsum(np.bincount(group)[::-1])[::-1]
    hits = np.cumsum(np.bincount(group, has)[::-1])[::-1]
    scores = 2 * hits / (given + has.sum())
    below = np.concatenate([[0.0], values[:-1]])
    between = np.where((below < EVEN) & (values >= EVEN), EVEN, (below + values) / 2)
    best = np.flatnonzero(scores > scores.max() - 1 / has.sum() + 1e-12)
    return float(between[best][np.abs(between[best] - EVEN).argmin()])


def answered_sets(
    probabilities: FloatArray, members: BoolArray, thresholds: FloatArray, alone: int | None = None
) -> BoolArray:
    """[n, labels] from the probabilities [n, answers]: the labels at or above their `thresholds` [labels]; where none
    is, those of the likeliest answer. The label at the place `alone` says that no other holds: where others are at
    their thresholds, too, it is given instead of them if it is likelier than not, and else left out."""
    chances = label_probabilities(probabilities, members)
    given = chances >= thresholds
    if alone is not None:
        only = given[:, alone] & (chances[:, alone] >= EVEN)
        only |= given[:, alone] & (given.sum(-1) == 1)
        given &= ~only[:, None]
        given[:, alone] = only
    return np.where(given.any(-1, keepdims=True), given, members[probabilities.argmax(-1)])


def set_intervals(truth: BoolArray, answered: BoolArray, seed: int = 0) -> dict[str, Interval]:
    """Each of `SET_METRICS` with a 95 % interval over rows and seeds, from `truth` [n, labels] and `answered` [seeds,
    n, labels]; one row at least.

    micro_f1  F1 over all labels of all rows together
    macro_f1  mean F1 of the labels that occur in `truth`
    jaccard   mean over rows of the share of labels found, of all that the row has or was given

    Intervals are those of `metrics.metric_intervals`; where all labels are right, or none, as wide as that of a share.
    That of macro-F1 is not mirrored: with rare labels and few rows, mirrored ones were seen to cover 79 to 91 %."""
    if (answered == truth).all() or not (answered & truth).any():
        return dict.fromkeys(SET_METRICS, share_interval((answered == truth).all(-1)))
    seeds, rows, labels = answered.shape
    columns = _columns(truth, answered)
    exact = _set_scores(columns @ np.ones((rows, 1)), seeds, labels)
    drawn = _set_scores(resampled_sums(columns, seed).T, seeds, labels)
    return {name: metric_interval(exact[name][0], drawn[name], (0.0, 1.0)) for name in SET_METRICS}


def per_label(truth: BoolArray, answered: BoolArray, labels: Sequence[str]) -> list[LabelMetrics]:
    """Precision, recall, F1 and support of each label: means over the seeds of `answered` [seeds, n, labels]."""
    hits, given, own = (truth & answered).sum(1), answered.sum(1), truth.sum(0)
    pairs = ((hits, given), (hits, own), (2 * hits, given + own))
    precision, recall, f1 = (share_of(part, whole).mean(0) for part, whole in pairs)
    return [
        LabelMetrics(label, float(precision[place]), float(recall[place]), float(f1[place]), int(own[place]))
        for place, label in enumerate(labels)
    ]


def _columns(truth: BoolArray, answered: BoolArray) -> FloatArray:
    """What the metrics sum over rows, [columns, n]: the rows themselves and their labels; then for each seed the labels
    given, those rightly given, and the rows' Jaccard index."""
    hits = answered & truth
    overlap = share_of(hits.sum(-1), (answered | truth).sum(-1))
    blocks = [np.ones((1, len(truth))), truth.T, *(part.T for part in answered), *(part.T for part in hits), overlap]
    return np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks])


def _set_scores(sums: FloatArray, seeds: int, labels: int) -> dict[str, FloatArray]:
    """Each metric [draws, seeds] from sums [columns, draws] of `_columns`."""
    widths = [1, labels, seeds * labels, seeds * labels, seeds]
    rows, own, given, hits, overlap = np.split(sums.T, np.cumsum(widths)[:-1], axis=1)
    own = own[:, None]
    given, hits = (part.reshape(len(part), seeds, labels) for part in (given, hits))
    each = np.where(own > 0, share_of(2 * hits, given + own), 0.0)
    return {
        "micro_f1": share_of(2 * hits.sum(-1), given.sum(-1) + own.sum(-1)),
        "macro_f1": each.sum(-1) / (own > 0).sum(-1),
        "jaccard": overlap / rows,
    }
