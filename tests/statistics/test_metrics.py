from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from rir_mlx.statistics.calibration_error import calibration_error
from rir_mlx.statistics.intervals import FloatArray, Interval
from rir_mlx.statistics.metrics import (
    METRICS,
    IndexArray,
    ReliabilityBin,
    accuracy,
    confusion,
    majority,
    metric_intervals,
    metrics_by_seed,
    per_class,
    reliability,
    risk_coverage,
)


def made(seeds: int = 1, rows: int = 200, labels: int = 4, seed: int = 0) -> tuple[IndexArray, FloatArray]:
    """Labels of unequal frequency, and probabilities that are right more often than not."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(labels, size=rows, p=np.arange(1, labels + 1) / np.arange(1, labels + 1).sum())
    scores = rng.normal(size=(seeds, rows, labels))
    scores[:, np.arange(rows), truth] += 1.5
    powers = np.exp(scores)
    return truth, powers / powers.sum(-1, keepdims=True)


def one_hot(predicted: list[int], labels: int) -> FloatArray:
    return np.eye(labels)[predicted][None]


def value(found: dict[str, Interval | None], name: str) -> Interval:
    interval = found[name]
    assert interval is not None
    return interval


def test_majority_is_the_commonest_training_label() -> None:
    assert majority(["b", "a", "b", "c"]) == "b"


def test_of_equally_common_labels_the_first_in_the_alphabet_wins() -> None:
    assert majority(["b", "a", "b", "a", "c"]) == "a"
    assert majority(["a", "b"]) == majority(["b", "a"])


def test_no_rows_have_no_accuracy() -> None:
    assert all(math.isnan(value) for value in (accuracy([], []).value, accuracy([], []).low, accuracy([], []).high))
    found = metric_intervals(np.zeros(0, dtype=int), np.zeros((2, 0, 3)))
    assert all(math.isnan(value(found, name).value) for name in METRICS)
    assert all(
        np.isnan(metric or []).all() for metric in metrics_by_seed(np.zeros(0, dtype=int), np.zeros((2, 0, 3))).values()
    )


def test_accuracy_counts_equal_labels() -> None:
    assert accuracy(["a", "b", "a", "c"], ["a", "b", "b", "a"]).value == 0.5


def test_lists_of_different_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        accuracy(["a", "b"], ["a"])


def test_the_metrics_are_those_of_scikit_learn() -> None:
    truth, probabilities = made(seeds=3)
    found, apart = metric_intervals(truth, probabilities), metrics_by_seed(truth, probabilities)
    predicted = probabilities.argmax(-1)
    theirs = {
        "accuracy": [sklearn_metrics.accuracy_score(truth, seed_labels) for seed_labels in predicted],
        "balanced_accuracy": [sklearn_metrics.balanced_accuracy_score(truth, seed_labels) for seed_labels in predicted],
        "macro_f1": [sklearn_metrics.f1_score(truth, seed_labels, average="macro") for seed_labels in predicted],
        "mcc": [sklearn_metrics.matthews_corrcoef(truth, seed_labels) for seed_labels in predicted],
        "log_loss": [sklearn_metrics.log_loss(truth, seed_probabilities) for seed_probabilities in probabilities],
        "brier": [((seed_probabilities - np.eye(4)[truth]) ** 2).sum(1).mean() for seed_probabilities in probabilities],
    }
    for name, values in theirs.items():
        assert apart[name] == pytest.approx(values), name
        interval = value(found, name)
        assert interval.value == pytest.approx(np.mean(values)), name
        assert interval.low < interval.value < interval.high, name


def test_labels_absent_from_the_truth_have_no_part_in_the_averages() -> None:
    """Label 3 occurs nowhere, but is predicted: its rows are lost to recall, and the averages stay over 0 to 2."""
    truth, predicted = np.array([0, 0, 1, 1, 2, 2]), [0, 3, 1, 1, 0, 3]
    found = metric_intervals(truth, one_hot(predicted, 5))
    theirs = sklearn_metrics.f1_score(truth, predicted, average="macro", labels=[0, 1, 2], zero_division=0)
    assert value(found, "macro_f1").value == pytest.approx(theirs)
    with warnings.catch_warnings():  # it warns of the predicted label without rows
        warnings.simplefilter("ignore")
        balanced = sklearn_metrics.balanced_accuracy_score(truth, predicted)
    assert value(found, "balanced_accuracy").value == pytest.approx(balanced)
    assert value(found, "mcc").value == pytest.approx(sklearn_metrics.matthews_corrcoef(truth, predicted))


def test_macro_f1_weighs_labels_alike_and_counts_those_never_predicted() -> None:
    """a: precision 2/4, recall 1, F1 2/3. b: precision 1, recall 1/2, F1 2/3. c: there once, never predicted, F1 0."""
    found = metric_intervals(np.array([0, 0, 1, 1, 2]), one_hot([0, 0, 0, 1, 0], 3))
    assert value(found, "macro_f1").value == pytest.approx((2 / 3 + 2 / 3) / 3)


def test_a_classifier_that_knows_one_label_has_no_correlation() -> None:
    found = metric_intervals(np.array([0, 1, 1, 0]), one_hot([1, 1, 1, 1], 2), probabilistic=False)
    assert found["mcc"] == Interval(0.0, 0.0, 0.0)


def test_an_entry_without_probabilities_has_no_metrics_of_them() -> None:
    truth = np.array([0, 1, 1])
    for found in (
        metric_intervals(truth, one_hot([1, 1, 1], 2), probabilistic=False),
        metrics_by_seed(truth, one_hot([1, 1, 1], 2), probabilistic=False),
    ):
        assert tuple(found) == METRICS
        assert [name for name in METRICS if found[name] is None] == ["log_loss", "brier", "calibration_error"]


def test_a_probability_of_zero_costs_no_more_than_one_in_a_million_millions() -> None:
    found = metric_intervals(np.array([0, 0]), one_hot([0, 1], 2))
    assert value(found, "log_loss").value == pytest.approx(-math.log(1e-12) / 2)
    assert value(found, "brier").value == pytest.approx(1.0)


def test_the_calibration_error_by_hand() -> None:
    """Two groups of two rows. Confidence 0.8: both wrong, the gap is -0.8 without variance, its square 0.64. Confidence
    0.9: one of two is right, so the gap is -0.4, whose variance is 0.25: an estimate of 0.16 - 0.25."""
    top = np.array([0.9, 0.8, 0.9, 0.8])
    truth, probabilities = np.array([0, 1, 1, 1]), np.stack([top, 1 - top], axis=-1)[None]
    found = value(metric_intervals(truth, probabilities), "calibration_error")
    assert found.value == pytest.approx(math.sqrt((0.64 - 0.09) / 2))
    assert metrics_by_seed(truth, probabilities)["calibration_error"] == [found.value]
    low, high = reliability(truth, np.array([[[0.81, 0.19], [0.85, 0.15], [0.01, 0.99], [0.01, 0.99]]]))
    assert low == ReliabilityBin(
        low=pytest.approx(0.8), high=pytest.approx(13 / 15), confidence=pytest.approx(0.83), accuracy=0.5, count=2
    )
    assert (high.low, high.high, high.accuracy, high.count) == (pytest.approx(14 / 15), 1.0, 1.0, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "rows", "seeds"), [(0.0, 300, 1), (0.0, 1000, 3), (0.1, 1000, 1), (0.2, 300, 3)])
def test_the_interval_covers_the_true_calibration_error(gap: float, rows: int, seeds: int) -> None:
    """Labels are drawn with the confidence minus a gap that is the same everywhere: the error is that gap. At 0, where
    the interval ends, it covers nearly always."""
    covered, values = 0, []
    for repeat in range(400):
        rng = np.random.default_rng(repeat)
        top, luck = rng.uniform(0.6, 1.0, rows), rng.random(rows)
        interval, _ = calibration_error(np.tile(luck < top - gap, (seeds, 1)), np.tile(top, (seeds, 1)))
        covered += interval.low <= gap <= interval.high
        values.append(interval.value**2)
    assert 0.92 <= covered / 400 <= (0.99 if gap else 1.0)
    assert math.sqrt(np.mean(values)) == pytest.approx(gap, abs=0.035)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("confidence", "accuracy", "rows"),
    [(0.95, 0.99, 30), (0.95, 0.99, 200), (0.95, 0.98, 1000), (0.8, 0.98, 30), (0.8, 0.98, 200), (0.3, 0.02, 60)],
)
def test_the_interval_covers_where_nearly_all_rows_are_right_or_wrong(
    confidence: float, accuracy: float, rows: int
) -> None:
    """Groups without a wrong row had no variance: of 30 rows that were 99 % right at a confidence of 95 %, one interval
    in four held the true error, and all rows right gave one of no width."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        top = rng.uniform(confidence - 0.02, confidence + 0.02, (1, rows))
        interval, _ = calibration_error(rng.random((1, rows)) < accuracy, top)
        covered += interval.low <= math.sqrt(np.mean((top - accuracy) ** 2)) <= interval.high
    assert covered / 400 >= 0.92


def test_the_calibration_error_of_rows_that_are_all_right_is_not_certain() -> None:
    interval, _ = calibration_error(np.ones((1, 30), dtype=bool), np.full((1, 30), 0.8))
    assert interval.value == pytest.approx(0.2)
    assert interval.low < 0.15
    assert interval.high > 0.25


def test_a_bin_of_confidence_holds_its_upper_edge() -> None:
    probabilities = np.array([[[0.75, 0.25], [0.76, 0.24], [1.0, 0.0]]])
    bins = reliability(np.array([0, 0, 0]), probabilities, bins=4)
    assert [(bin_.low, bin_.high, bin_.count) for bin_ in bins] == [(0.5, 0.75, 1), (0.75, 1.0, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accuracy", "macro_f1"])
def test_the_intervals_are_those_of_scipy(name: str) -> None:
    """Of macro-F1 where one label is rare, for there resamples lie lower than the estimate, and the mirror tells."""
    from scipy.stats import bootstrap

    truth, probabilities = made(rows=300)
    if name == "macro_f1":
        truth, probabilities = np.repeat([0, 1], [288, 12]), one_hot([0] * 291 + [1] * 9, 2)

    def theirs(rows: IndexArray, axis: int = -1) -> float:
        chosen, predicted = truth[rows], probabilities[0].argmax(-1)[rows]
        if name == "accuracy":
            return float(np.mean(chosen == predicted))
        counts = np.bincount(2 * chosen + predicted, minlength=4).reshape(2, 2)
        return float((2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))).mean())

    method = "basic" if name == "macro_f1" else "percentile"
    drawn = bootstrap((np.arange(300),), theirs, vectorized=False, n_resamples=500, method=method, rng=0)
    ours = value(metric_intervals(truth, probabilities), name)
    # The 2.5 % quantile of 500 resamples has a deviation of 0.12 of theirs, that of 2000 of 0.06: 0.4 is three of both.
    tolerance = 0.4 * drawn.standard_error
    assert ours.low == pytest.approx(drawn.confidence_interval.low, abs=tolerance)
    assert ours.high == pytest.approx(min(1.0, drawn.confidence_interval.high), abs=tolerance)


def test_seeds_that_disagree_widen_the_interval_and_copies_of_one_seed_do_not() -> None:
    truth, good = made(rows=500)
    poor = np.roll(good, 1, axis=-1)
    single, copies = metric_intervals(truth, good), metric_intervals(truth, np.concatenate([good] * 3))
    mixed = metric_intervals(truth, np.concatenate([good, good, poor]))
    for name in METRICS:
        own, copied, wide = value(single, name), value(copies, name), value(mixed, name)
        assert [copied.low, copied.high] == pytest.approx([own.low, own.high], rel=0.02)
        assert wide.high - wide.low > 2 * (own.high - own.low)
    assert (value(mixed, "accuracy").low, value(mixed, "accuracy").high) == (0.0, 1.0)  # three seeds do not say more


def test_the_confusion_is_that_of_scikit_learn_summed_over_seeds() -> None:
    truth, probabilities = made(seeds=2)
    theirs = sum(sklearn_metrics.confusion_matrix(truth, seed_labels) for seed_labels in probabilities.argmax(-1))
    assert confusion(truth, probabilities) == theirs.tolist()


def test_the_metrics_per_label_are_those_of_scikit_learn_averaged_over_seeds() -> None:
    truth, probabilities = made(seeds=2, rows=40)
    truth[truth == 3] = 0  # a label that is predicted but does not occur
    parts = [
        sklearn_metrics.precision_recall_fscore_support(truth, seed_labels, labels=range(4), zero_division=0)
        for seed_labels in probabilities.argmax(-1)
    ]
    found = per_class(truth, probabilities, ["a", "b", "c", "d"])
    assert [row.label for row in found] == ["a", "b", "c", "d"]
    for place, name in enumerate(("precision", "recall", "f1")):
        assert [getattr(row, name) for row in found] == pytest.approx((parts[0][place] + parts[1][place]) / 2), name
    assert [row.support for row in found] == parts[0][3].tolist()


def test_reliability_has_every_row_of_every_seed_once() -> None:
    truth, probabilities = made(seeds=3)
    bins = reliability(truth, probabilities, bins=10)
    assert sum(bin_.count for bin_ in bins) == 3 * len(truth)
    for bin_ in bins:
        assert bin_.low < bin_.confidence <= bin_.high
    whole = sum(bin_.accuracy * bin_.count for bin_ in bins) / (3 * len(truth))
    assert whole == pytest.approx(value(metric_intervals(truth, probabilities), "accuracy").value)


def test_the_surest_rows_come_first_and_rows_of_equal_probability_together() -> None:
    top = np.array([0.9, 0.8, 0.8, 0.7, 0.6])
    truth = np.array([0, 0, 1, 1, 0])
    points = risk_coverage(truth, np.stack([top, 1 - top], axis=-1)[None])
    assert [(point.coverage, point.threshold) for point in points] == [(0.2, 0.9), (0.6, 0.8), (0.8, 0.7), (1.0, 0.6)]
    assert [point.accuracy for point in points] == pytest.approx([1, 2 / 3, 1 / 2, 3 / 5])


def test_the_curve_of_coverage_ends_with_all_rows_and_has_no_more_points_than_asked() -> None:
    truth, probabilities = made(seeds=2)
    points = risk_coverage(truth, probabilities, points=7)
    assert len(points) == 7
    assert points[-1].coverage == 1.0
    assert points[-1].accuracy == pytest.approx(value(metric_intervals(truth, probabilities), "accuracy").value)
    assert risk_coverage(np.zeros(0, dtype=int), np.zeros((1, 0, 2))) == []


@pytest.mark.parametrize(
    ("truth", "probabilities", "said"),
    [
        (np.array([0, 1]), np.full((2, 3), 0.5), "expected .n. and .seeds, n, labels."),
        (np.array([0, 1, 0]), np.full((1, 2, 2), 0.5), "shape"),
        (np.array([0, 2]), np.full((1, 2, 2), 0.5), "outside 0 to 1"),
        (np.array([0, -1]), np.full((1, 2, 2), 0.5), "outside 0 to 1"),
        (np.array([0, 1]), np.full((1, 2, 2), -0.7), "negative"),
        (np.array([0, 1]), np.full((1, 2, 2), np.nan), "not a number"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(truth: IndexArray, probabilities: FloatArray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        metric_intervals(truth, probabilities)


def test_rows_that_are_all_right_do_not_make_every_metric_certain() -> None:
    """Their resamples are all alike: a report said 100 to 100 % of the macro-F1, beside 72 to 100 % of the accuracy."""
    truth = np.array([0, 1] * 5)
    right, wrong = (np.eye(2)[answers][None] * 0.9 + 0.05 for answers in (truth, 1 - truth))
    found, low = metric_intervals(truth, right), pytest.approx(0.7224672)
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert (found[name].value, found[name].low, found[name].high) == (1, low, 1)
    assert (found["mcc"].value, found["mcc"].low) == (1, pytest.approx(2 * 0.7224672 - 1)), "half of it is by chance"
    assert metric_intervals(truth, wrong)["macro_f1"].high == pytest.approx(1 - 0.7224672)
    assert metric_intervals(np.zeros(5, dtype=int), right[:, ::2])["mcc"].value == 0
