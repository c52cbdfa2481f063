"""How good a classifier is: metrics with intervals over rows and seeds.

Everything here takes `truth` [n], each row's index into the list of labels, and `probabilities` [seeds, n, labels] as
float64. The predicted label is the most probable one; of ties, the first. Knows neither models nor files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rir_mlx.statistics.calibration_error import calibration_error
from rir_mlx.statistics.intervals import (
    LEVEL,
    UNDEFINED,
    FloatArray,
    Interval,
    crossed_interval,
    percentile_interval,
    resampled_sums,
    share_interval,
)

BINS = 15
_SMALLEST_PROBABILITY = 1e-12

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss", "brier", "calibration_error")
PROBABILITY_METRICS = ("log_loss", "brier", "calibration_error")
_BOUNDS = dict.fromkeys(METRICS, (0.0, 1.0)) | {
    "mcc": (-1.0, 1.0),
    "log_loss": (0.0, np.inf),
    "brier": (0.0, 2.0),
}

IndexArray = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class LabelMetrics:
    """How well one label is recognised: means over seeds, each from 0 to 1."""

    label: str
    precision: float
    """Share of the rows predicted as this label that have it; 0 where none is predicted."""
    recall: float
    """Share of the rows with this label that are predicted as it; 0 where no row has it."""
    f1: float
    """Harmonic mean of precision and recall."""
    support: int
    """Test rows with this label."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows whose top probability lies in (low, high]."""

    low: float
    high: float
    confidence: float
    """Mean top probability of these rows."""
    accuracy: float
    """Share of these rows whose predicted label is correct."""
    count: int
    """Rows of all seeds."""


@dataclass(frozen=True)
class CoveragePoint:
    """What a classifier reaches if it answers only where its top probability is `threshold` or more."""

    coverage: float
    """Share of rows answered."""
    accuracy: float
    """Share of the answered rows that are correct."""
    threshold: float


def accuracy(truth: Sequence[str], predicted: Sequence[str]) -> Interval:
    """The share of positions at which two lists hold the same label."""
    return share_interval(np.array([[a == b for a, b in zip(truth, predicted, strict=True)]], dtype=np.bool_))


def majority(train_labels: Sequence[str]) -> str:
    """The most frequent label of the training rows; of ties, the first in alphabetical order."""
    counts = Counter(train_labels)
    return min(counts, key=lambda label: (-counts[label], label))


def metric_intervals(
    truth: IndexArray,
    probabilities: FloatArray,
    *,
    probabilistic: bool = True,
    shares: FloatArray | None = None,
    level: float = LEVEL,
) -> dict[str, Interval | None]:
    """Each metric of `METRICS`: the mean over seeds, with an interval over rows and seeds, of 95 % unless `level` is
    another; that of the calibration error is always of 95 %.

    accuracy            share of rows whose predicted label is correct
    balanced_accuracy   mean recall of the labels that occur in `truth`
    macro_f1            mean F1 of the labels that occur in `truth`: the same labels for every classifier
    mcc                 Matthews' correlation coefficient for several labels (Gorodkin 2004); 0 where it is undefined
    log_loss            mean of -ln p(label) in nats, p at least 1e-12
    brier               mean over rows of the squared differences summed over labels, 0 to 2 (Brier 1950)
    calibration_error   root-mean-square gap between confidence and share of correct answers (`calibration_error`)

    With `shares` [n, labels], the distributions of which `truth` are the main labels, log-loss is the cross-entropy
    against them, -Σ share · ln p, and Brier's differences are from the shares.

    The last three are None for a classifier without probabilities (`probabilistic=False`). The accuracy's interval is
    `share_interval`. The others come from 2000 resamples of the rows: percentiles with one seed, `crossed_interval`
    with several; where every row is right, or none is, they are as wide as the accuracy's. A label missing from a
    resample does not count towards that resample's balanced accuracy and macro-F1. Few rows of a label make the
    macro-F1 too low, in the test rows and once more in their resamples: its interval is mirrored at the estimate (the
    basic bootstrap). With many labels it covers less than 95 %: simulated with 77 and 600 rows, some 92 % where the
    labels are about even (`benchmarks/verdict.py`), and 82 % where their shares fall as 1/rank.
    Raises ValueError if shapes do not match, or a probability is negative or not a number. Without rows every value
    is NaN."""
    _check(truth, probabilities)
    names = [name for name in METRICS if probabilistic or name not in PROBABILITY_METRICS]
    if len(truth) == 0:
        return {name: UNDEFINED if name in names else None for name in METRICS}
    seeds, _, labels = probabilities.shape
    columns = _columns(truth, probabilities, shares)
    exact = _scores(columns @ np.ones((len(truth), 1)), seeds, labels)
    drawn = _scores(resampled_sums(columns).T, seeds, labels)
    found: dict[str, Interval | None] = dict.fromkeys(METRICS)
    for name in set(names) & exact.keys():
        mirrored = name == "macro_f1"
        found[name] = metric_interval(exact[name][0], drawn[name], _BOUNDS[name], mirrored=mirrored, level=level)
    hits = correct(truth, probabilities)
    found["accuracy"] = share_interval(hits, level)
    if hits.all() or not hits.any():
        found |= _without_a_contrast(truth, found)
    if probabilistic:
        found["calibration_error"], _ = calibration_error(hits, probabilities.max(-1))
    return found


def _without_a_contrast(truth: IndexArray, found: Mapping[str, Interval | None]) -> dict[str, Interval]:
    """Intervals where every row is right, or every row wrong: their resamples are all alike, and tell nothing. They are
    as wide as that of the accuracy; of Matthews' coefficient, as that of the accuracy above chance (Cohen's kappa)."""
    accuracy, mcc = found["accuracy"], found["mcc"]
    assert accuracy is not None
    assert mcc is not None
    alike = dict.fromkeys(("balanced_accuracy", "macro_f1"), accuracy)
    chance = float(((np.bincount(truth) / len(truth)) ** 2).sum())
    if accuracy.value < 1 or chance == 1:
        return alike
    return alike | {"mcc": Interval(mcc.value, (accuracy.low - chance) / (1 - chance), mcc.value)}


def metric_interval(
    values: FloatArray, draws: FloatArray, bounds: tuple[float, float], *, mirrored: bool = False, level: float = LEVEL
) -> Interval:
    """A metric's mean with its interval, from its `values` [seeds] and its `draws` [2000, seeds] over resampled rows.
    `mirrored`: at the estimate, as the basic bootstrap is."""
    if mirrored:
        draws = np.clip(2 * values - draws, *bounds)
    if len(values) > 1 and np.ptp(values) > 0:
        around = crossed_interval(draws.mean(0) if mirrored else values, np.cov(draws.T), bounds, level)
        return replace(around, value=float(values.mean()))
    return percentile_interval(float(values.mean()), draws.mean(1), level)


def metrics_by_seed(
    truth: IndexArray, probabilities: FloatArray, *, probabilistic: bool = True, shares: FloatArray | None = None
) -> dict[str, list[float] | None]:
    """The value of each metric for each seed."""
    _check(truth, probabilities)
    seeds, rows, labels = probabilities.shape
    if rows == 0:
        scores = {name: np.full((1, seeds), np.nan) for name in METRICS}
    else:
        scores = _scores(_columns(truth, probabilities, shares) @ np.ones((rows, 1)), seeds, labels)
        errors = calibration_error(correct(truth, probabilities), probabilities.max(-1))[1]
        scores["calibration_error"] = np.array([errors])
    return {
        name: scores[name][0].tolist() if probabilistic or name not in PROBABILITY_METRICS else None for name in METRICS
    }


def correct(truth: IndexArray, probabilities: FloatArray) -> NDArray[np.bool_]:
    """[seeds, n]: whether the predicted label is the row's own."""
    _check(truth, probabilities)
    return np.asarray(probabilities.argmax(-1) == truth)


def confusion(truth: IndexArray, probabilities: FloatArray) -> list[list[int]]:
    """How often each true label (row) was predicted as each label (column), summed over seeds."""
    _check(truth, probabilities)
    return [[int(count) for count in row] for row in _confusions(truth, probabilities).sum(0)]


def per_class(truth: IndexArray, probabilities: FloatArray, labels: Sequence[str]) -> list[LabelMetrics]:
    """Precision, recall, F1 and support of each label."""
    _check(truth, probabilities)
    counts = _confusions(truth, probabilities).astype(np.float64)
    hits, of_label, predicted = np.diagonal(counts, axis1=1, axis2=2), counts.sum(2), counts.sum(1)
    precision, recall = share_of(hits, predicted).mean(0), share_of(hits, of_label).mean(0)
    f1, support = share_of(2 * hits, of_label + predicted).mean(0), of_label[0]
    return [
        LabelMetrics(label, float(precision[index]), float(recall[index]), float(f1[index]), int(support[index]))
        for index, label in enumerate(labels)
    ]


def reliability(truth: IndexArray, probabilities: FloatArray, bins: int = BINS) -> list[ReliabilityBin]:
    """Accuracy by confidence, in bins of equal width over the top probability: rows of all seeds pooled, empty bins
    left out."""
    hit, top = correct(truth, probabilities).ravel(), probabilities.max(-1).ravel()
    places = _bins(top, bins)
    counts = np.bincount(places, minlength=bins)
    confidence = np.bincount(places, top, minlength=bins)
    hits = np.bincount(places, hit, minlength=bins)
    return [
        ReliabilityBin(
            low=place / bins,
            high=(place + 1) / bins,
            confidence=float(confidence[place] / counts[place]),
            accuracy=float(hits[place] / counts[place]),
            count=int(counts[place]),
        )
        for place in np.flatnonzero(counts).tolist()
    ]


def risk_coverage(truth: IndexArray, probabilities: FloatArray, points: int = 50) -> list[CoveragePoint]:
    """Accuracy on the most confident rows, from few of them to all: at most `points` thresholds at about equal steps
    of coverage, rows of all seeds pooled. Rows of equal confidence are answered together."""
    hit, top = correct(truth, probabilities).ravel(), probabilities.max(-1).ravel()
    if len(top) == 0:
        return []
    order = np.argsort(-top, kind="stable")
    top, hits = top[order], np.cumsum(hit[order])
    ends = np.append(np.flatnonzero(np.diff(top)), len(top) - 1)  # the last row of each group of ties
    wanted = np.ceil(len(top) * np.arange(1, points + 1) / points).astype(int) - 1
    chosen = np.unique(ends[np.searchsorted(ends, wanted)])
    return [
        CoveragePoint((place + 1) / len(top), float(hits[place] / (place + 1)), float(top[place]))
        for place in chosen.tolist()
    ]


def _columns(truth: IndexArray, probabilities: FloatArray, shares: FloatArray | None = None) -> Any:
    """What every metric sums over rows, as a sparse matrix [columns, n]. Columns: the true label; then for each seed
    the true label where it is predicted, and the predicted label; then each seed's log loss and Brier score."""
    from scipy.sparse import csr_array, vstack

    _, rows, labels = probabilities.shape
    places, unweighted = np.arange(rows), np.ones(rows)
    predicted = probabilities.argmax(-1)

    def sorted_into(group: IndexArray, values: FloatArray, groups: int) -> Any:
        return csr_array((values, (group, places)), shape=(groups, rows))

    blocks = [sorted_into(truth, unweighted, labels)]
    blocks += [sorted_into(truth, (labels_of_seed == truth).astype(np.float64), labels) for labels_of_seed in predicted]
    blocks += [sorted_into(labels_of_seed, unweighted, labels) for labels_of_seed in predicted]
    if shares is None:
        of_truth = probabilities[:, places, truth]
        squares = np.einsum("snl,snl->sn", probabilities, probabilities) - 2 * of_truth + 1
        surprise = -np.log(np.clip(of_truth, _SMALLEST_PROBABILITY, None))
    else:
        squares = ((probabilities - shares) ** 2).sum(-1)
        surprise = -(shares * np.log(np.clip(probabilities, _SMALLEST_PROBABILITY, None))).sum(-1)
    return vstack([*blocks, csr_array(surprise), csr_array(squares)], format="csr")


def _scores(sums: FloatArray, seeds: int, labels: int) -> dict[str, FloatArray]:
    """Each metric [draws, seeds] from sums [columns, draws] of `_columns`."""
    widths = [labels, seeds * labels, seeds * labels, seeds, seeds]
    of_label, hits, predicted, log_loss, brier = np.split(sums.T, np.cumsum(widths)[:-1], axis=1)
    of_label = of_label[:, None, :]
    hits, predicted = (sums.reshape(len(sums), seeds, -1) for sums in (hits, predicted))
    rows, correct_rows = of_label.sum(-1), hits.sum(-1)
    occurring = (of_label > 0).sum(-1)
    spread = (rows**2 - (predicted**2).sum(-1)) * (rows**2 - (of_label**2).sum(-1))
    return {
        "accuracy": correct_rows / rows,
        "balanced_accuracy": share_of(hits, of_label).sum(-1) / occurring,
        "macro_f1": share_of(2 * hits, of_label + predicted).sum(-1) / occurring,
        "mcc": share_of(correct_rows * rows - (predicted * of_label).sum(-1), np.sqrt(spread)),
        "log_loss": log_loss / rows,
        "brier": brier / rows,
    }


def _confusions(truth: IndexArray, probabilities: FloatArray) -> NDArray[np.int64]:
    seeds, _, labels = probabilities.shape
    cells = truth * labels + probabilities.argmax(-1)
    return np.stack([np.bincount(cells_of_seed, minlength=labels**2) for cells_of_seed in cells]).reshape(
        seeds, labels, labels
    )


def _bins(top: FloatArray, bins: int) -> NDArray[np.int64]:
    return np.clip(np.ceil(top * bins).astype(np.int64) - 1, 0, bins - 1)


def share_of(part: NDArray[Any], whole: NDArray[Any]) -> FloatArray:
    """part / whole, and 0 where the whole is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.asarray(np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0))


def _check(truth: IndexArray, probabilities: FloatArray) -> None:
    if probabilities.ndim != 3 or truth.ndim != 1 or probabilities.shape[1] != len(truth) or len(probabilities) == 0:
        raise ValueError(
            f"truth has the shape {truth.shape} and probabilities {probabilities.shape}; expected [n] and "
            "[seeds, n, labels] with one seed or more"
        )
    if len(truth) == 0:
        return
    if truth.min() < 0 or truth.max() >= probabilities.shape[2]:
        raise ValueError(f"truth holds a label outside 0 to {probabilities.shape[2] - 1}")
    if not probabilities.min() >= 0 or not np.isfinite(probabilities.max()):
        raise ValueError("probabilities hold a number that is negative, infinite or not a number")
