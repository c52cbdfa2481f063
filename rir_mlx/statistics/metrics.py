"""How good a classifier is, over rows and seeds, with intervals that cover both.

Everything here takes `truth` [n], the place of each row's label in the list of labels, and `probabilities`
[seeds, n, labels] as float64. The predicted label is the most probable one; of equals, the first. Knows neither
models nor files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95
BINS = 15
_LEAST = 1e-12
_ROOM = 8_000_000  # numbers held at once while resampling: 64 MB
_COUNTED = 100_000  # drawn rows counted at once: a call of numpy for each sample would cost more than its work

FIGURES = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss", "brier", "ece")
OF_PROBABILITIES = ("log_loss", "brier", "ece")

Floats = NDArray[np.float64]
Indices = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % percentile-bootstrap interval."""

    value: float
    low: float
    high: float


def bootstrap_mean(values: Floats, seed: int = 0) -> Interval:
    """The mean of [n] values, and an interval from resampling them with replacement."""
    return bootstrap_means(values[None, None, :], seed)[0]


def bootstrap_means(values: Floats, seed: int = 0) -> list[Interval]:
    """The means of several quantities [quantities, seeds, n], each over seeds and rows, and intervals from resampling
    rows and seeds: the same rows and seeds for every quantity."""
    quantities, seeds, rows = values.shape
    if rows == 0:
        return [Interval(float("nan"), float("nan"), float("nan"))] * quantities
    sums = resampled_sums(values.reshape(-1, rows), seed).reshape(-1, quantities, seeds)
    weights = _seed_weights(seeds, seed)
    return [_interval(values[one].mean(), ((sums[:, one] / rows) * weights).sum(1)) for one in range(quantities)]


def accuracy(truth: Sequence[str], predicted: Sequence[str]) -> Interval:
    """The share of equal labels in two lists of names."""
    return bootstrap_mean(np.array([a == b for a, b in zip(truth, predicted, strict=True)], dtype=np.float64))


def majority(train_labels: Sequence[str]) -> str:
    """The label that the training rows hold most often; of equals, the first in the alphabet."""
    counts = Counter(train_labels)
    return min(counts, key=lambda label: (-counts[label], label))


def figures(
    truth: Indices, probabilities: Floats, *, probabilistic: bool = True, seed: int = 0
) -> dict[str, Interval | None]:
    """The figures of an entry: the mean over its seeds, with 95 % percentile-bootstrap intervals.

    accuracy            share of rows whose label is the predicted one
    balanced_accuracy   mean recall of the labels that occur in `truth`
    macro_f1            mean F1 of the labels that occur in `truth`: the same labels for every entry
    mcc                 Matthews' correlation coefficient for several labels (Gorodkin 2004); 0 where it is undefined
    log_loss            mean of -ln p(label) in nats, p at least 1e-12
    brier               mean over rows of the squared differences summed over labels, 0 to 2 (Brier 1950)
    ece                 expected calibration error of the top probability, in 15 bins of equal width (Guo et al. 2017)

    The last three are None for an entry without probabilities (`probabilistic=False`). An interval comes from 2000
    resamples of the rows, the same rows for every seed, and of the seeds where there are several (the two-way
    "pigeonhole" bootstrap, Owen 2007, which errs on the wide side). A label that a resample misses has no part in that
    resample's balanced accuracy and macro-F1. A resample always has a larger ECE than its sample, since noise adds to
    distances, so the ECE's resamples are moved to have the estimate as their mean.
    Raises ValueError where the shapes do not fit, or a probability is negative or not a number. No rows give NaN."""
    _check(truth, probabilities)
    if len(truth) == 0:
        nothing = Interval(float("nan"), float("nan"), float("nan"))
        return {name: nothing if probabilistic or name not in OF_PROBABILITIES else None for name in FIGURES}
    seeds, _, labels = probabilities.shape
    columns = _columns(truth, probabilities)
    exact = _scores(columns @ np.ones((len(truth), 1)), seeds, labels)
    drawn = _scores(resampled_sums(columns, seed).T, seeds, labels)
    weights = _seed_weights(seeds, seed)
    result: dict[str, Interval | None] = {}
    for name in FIGURES:
        value, draws = float(exact[name].mean()), (drawn[name] * weights).sum(1)
        if name == "ece":
            draws = np.maximum(0.0, draws + value - draws.mean())
        result[name] = _interval(value, draws) if probabilistic or name not in OF_PROBABILITIES else None
    return result


def by_seed(truth: Indices, probabilities: Floats, *, probabilistic: bool = True) -> dict[str, list[float] | None]:
    """The same figures for each seed apart."""
    _check(truth, probabilities)
    seeds, rows, labels = probabilities.shape
    if rows == 0:
        scores = {name: np.full((1, seeds), np.nan) for name in FIGURES}
    else:
        scores = _scores(_columns(truth, probabilities) @ np.ones((rows, 1)), seeds, labels)
    return {
        name: scores[name][0].tolist() if probabilistic or name not in OF_PROBABILITIES else None for name in FIGURES
    }


def right(truth: Indices, probabilities: Floats) -> NDArray[np.bool_]:
    """[seeds, n]: whether the most probable label is the row's."""
    _check(truth, probabilities)
    return np.asarray(probabilities.argmax(-1) == truth)


def confusion(truth: Indices, probabilities: Floats) -> list[list[int]]:
    """How often each label (row) was taken for each (column), summed over seeds."""
    _check(truth, probabilities)
    return [[int(count) for count in row] for row in _confusions(truth, probabilities).sum(0)]


def per_class(truth: Indices, probabilities: Floats, labels: Sequence[str]) -> list[dict[str, Any]]:
    """For each label its precision, recall and F1, means over seeds (0 where there is nothing to divide by), and its
    support: the rows that have it."""
    _check(truth, probabilities)
    counts = _confusions(truth, probabilities).astype(np.float64)
    hits, of_label, predicted = np.diagonal(counts, axis1=1, axis2=2), counts.sum(2), counts.sum(1)
    precision, recall = _share(hits, predicted).mean(0), _share(hits, of_label).mean(0)
    f1, support = _share(2 * hits, of_label + predicted).mean(0), of_label[0]
    return [
        {
            "label": label,
            "precision": float(precision[place]),
            "recall": float(recall[place]),
            "f1": float(f1[place]),
            "support": int(support[place]),
        }
        for place, label in enumerate(labels)
    ]


def reliability(truth: Indices, probabilities: Floats, bins: int = BINS) -> list[dict[str, float]]:
    """How often the predicted label is right where its probability is about so high: bins of equal width over the top
    probability, rows of all seeds pooled, empty bins left out. A bin holds its upper edge, not its lower one."""
    hit, top = right(truth, probabilities).ravel(), probabilities.max(-1).ravel()
    place = _bins(top, bins)
    count = np.bincount(place, minlength=bins)
    confidence = np.bincount(place, top, minlength=bins)
    accurate = np.bincount(place, hit, minlength=bins)
    return [
        {
            "low": one / bins,
            "high": (one + 1) / bins,
            "confidence": float(confidence[one] / count[one]),
            "accuracy": float(accurate[one] / count[one]),
            "count": int(count[one]),
        }
        for one in np.flatnonzero(count).tolist()
    ]


def risk_coverage(truth: Indices, probabilities: Floats, points: int = 50) -> list[dict[str, float]]:
    """Accuracy among the surest rows, from few of them to all: at most `points` cuts at about equal steps of coverage,
    rows of all seeds pooled. Rows are answered whose top probability is `threshold` or more, so rows of equal
    probability are answered together."""
    hit, top = right(truth, probabilities).ravel(), probabilities.max(-1).ravel()
    if len(top) == 0:
        return []
    order = np.argsort(-top, kind="stable")
    top, hits = top[order], np.cumsum(hit[order])
    ends = np.append(np.flatnonzero(np.diff(top)), len(top) - 1)  # the last row of each group of equals
    wanted = np.ceil(len(top) * np.arange(1, points + 1) / points).astype(int) - 1
    chosen = np.unique(ends[np.searchsorted(ends, wanted)])
    return [
        {
            "coverage": (place + 1) / len(top),
            "accuracy": float(hits[place] / (place + 1)),
            "threshold": float(top[place]),
        }
        for place in chosen.tolist()
    ]


def resampled_sums(columns: Any, seed: int = 0) -> Floats:
    """Sums of `columns` [columns, n], dense or sparse, over 2000 samples of n rows with replacement: [2000, columns].

    A sample is a vector of how often each row was drawn, so its sums are one product; few enough are drawn at a time
    that a hundred thousand rows take megabytes. The same seed draws the same rows for any columns."""
    count, rows = columns.shape
    draw = np.random.default_rng(seed)
    sums = np.empty((RESAMPLES, count))
    at_once = max(1, min(RESAMPLES, _ROOM // max(1, rows)))
    together = max(1, _COUNTED // max(1, rows))
    for start in range(0, RESAMPLES, at_once):
        drawn = np.empty((min(at_once, RESAMPLES - start), rows))
        for samples in np.split(drawn, range(together, len(drawn), together)):
            cells = draw.integers(0, rows, samples.shape, dtype=np.int32) + rows * np.arange(len(samples))[:, None]
            samples[:] = np.bincount(cells.ravel(), minlength=samples.size).reshape(samples.shape)
        sums[start : start + len(drawn)] = (columns @ np.ascontiguousarray(drawn.T)).T
    return sums


def _seed_weights(seeds: int, seed: int) -> Floats:
    """[2000, seeds]: the share each seed has in a resample of the seeds."""
    return np.random.default_rng([seed, 1]).multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds


def _interval(value: float, draws: Floats) -> Interval:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def _columns(truth: Indices, probabilities: Floats) -> Any:
    """What has to be summed over rows for every figure, as a sparse matrix [columns, n]. Columns: a row's label;
    then for each seed its label where it was predicted, the predicted label, right minus confidence in the bin of the
    confidence; then each seed's log loss and Brier score."""
    from scipy.sparse import csr_array, vstack

    seeds, rows, labels = probabilities.shape
    places, ones = np.arange(rows), np.ones(rows)
    predicted = probabilities.argmax(-1)
    top = probabilities.max(-1)

    def sorted_into(group: Indices, values: Floats, groups: int) -> Any:
        return csr_array((values, (group, places)), shape=(groups, rows))

    blocks = [sorted_into(truth, ones, labels)]
    blocks += [sorted_into(truth, (one == truth).astype(np.float64), labels) for one in predicted]
    blocks += [sorted_into(one, ones, labels) for one in predicted]
    blocks += [sorted_into(_bins(top[one], BINS), (predicted[one] == truth) - top[one], BINS) for one in range(seeds)]
    of_truth = probabilities[:, places, truth]
    squares = np.einsum("snl,snl->sn", probabilities, probabilities) - 2 * of_truth + 1
    return vstack([*blocks, csr_array(-np.log(np.clip(of_truth, _LEAST, None))), csr_array(squares)], format="csr")


def _scores(sums: Floats, seeds: int, labels: int) -> dict[str, Floats]:
    """The figures [draws, seeds] from sums [columns, draws] of `_columns`."""
    widths = [labels, seeds * labels, seeds * labels, seeds * BINS, seeds, seeds]
    of_label, hits, predicted, gaps, log_loss, brier = np.split(sums.T, np.cumsum(widths)[:-1], axis=1)
    of_label = of_label[:, None, :]
    hits, predicted, gaps = (one.reshape(len(one), seeds, -1) for one in (hits, predicted, gaps))
    rows, correct = of_label.sum(-1), hits.sum(-1)
    occurring = (of_label > 0).sum(-1)
    spread = (rows**2 - (predicted**2).sum(-1)) * (rows**2 - (of_label**2).sum(-1))
    return {
        "accuracy": correct / rows,
        "balanced_accuracy": _share(hits, of_label).sum(-1) / occurring,
        "macro_f1": _share(2 * hits, of_label + predicted).sum(-1) / occurring,
        "mcc": _share(correct * rows - (predicted * of_label).sum(-1), np.sqrt(spread)),
        "log_loss": log_loss / rows,
        "brier": brier / rows,
        "ece": np.abs(gaps).sum(-1) / rows,
    }


def _confusions(truth: Indices, probabilities: Floats) -> NDArray[np.int64]:
    seeds, _, labels = probabilities.shape
    cells = truth * labels + probabilities.argmax(-1)
    return np.stack([np.bincount(one, minlength=labels**2) for one in cells]).reshape(seeds, labels, labels)


def _bins(top: Floats, bins: int) -> NDArray[np.int64]:
    return np.clip(np.ceil(top * bins).astype(np.int64) - 1, 0, bins - 1)


def _share(part: Floats, whole: Floats) -> Floats:
    """part / whole, and 0 where the whole is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def _check(truth: Indices, probabilities: Floats) -> None:
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
