"""A comparison prepared for the page: charts drawn, shades chosen. Knows no HTML except charts.

Anything not measured (the cost curve of a baseline) stays None, and the template leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from markupsafe import Markup

from rir_mlx.evaluation.report import formats
from rir_mlx.evaluation.report.charts import (
    Chart,
    Estimate,
    Point,
    Series,
    axis,
    draw,
    intervals,
    scale_for,
)
from rir_mlx.evaluation.report.selection import Bin, few_ways, filled_bins, worst_first
from rir_mlx.evaluation.schema import Comparison, CostPoint, EntryResult, LearningCurve, Reliability
from rir_mlx.progress import counted
from rir_mlx.statistics.intervals import wilson_interval
from rir_mlx.statistics.metrics import CoveragePoint
from rir_mlx.statistics.paired_tests import MIN_SEEDS
from rir_mlx.types import Finding

CROWDED = 16
"""With more classes than this the confusion matrix has small cells and upright names, and is left out on paper."""
SIGNS: dict[Finding, str] = {"helped": "+", "hurt": "−", "unclear": "?", "failed": "!"}
_PAIRS = 6
_FEW_ROWS = 5
_MOST_RARE = 0.4
"""From this share of labels with fewer than so many test rows on, the interval of macro-F1 is said to be too narrow."""
_PLACES = 150
_SHADES = 10

T = TypeVar("T")


def page(comparison: Comparison) -> dict[str, Any]:
    """The template's variables, except for the examples."""
    labels, entries = list(comparison.labels), comparison.entries
    estimates = [estimate(entry) for entry in entries]
    scale = scale_for(estimates)
    baselines = [entry.name for entry in entries if entry.kind == "baseline"]
    shown = [
        {
            **vars(entry),
            **_charts(entry, labels, comparison.rows.test),
            "id": f"entry-{index}",
            "who": _who(entry),
            "fails": [name for name in baselines if name not in entry.beats],
        }
        for index, entry in enumerate(entries)
    ]
    kinds = [(kind, [entry for entry in shown if entry["kind"] == kind]) for kind in ("arm", "control", "baseline")]
    return {
        "run": comparison.run,
        "rows": comparison.rows,
        "headline": comparison.headline,
        "sign": SIGNS[comparison.headline.finding] if comparison.headline else "",
        "verdict": comparison.verdict or "",
        "recommendation": comparison.recommendation or "",
        "chosen": comparison.chosen,
        "warnings": comparison.warnings,
        "labels": labels,
        "entries": shown,
        "kinds": [(kind, those) for kind, those in kinds if those],
        "first_arm": next((entry.against.first for entry in entries if entry.against), None),
        "accuracy_charts": accuracy_charts(estimates) if estimates else (),
        "has": _columns(entries),
        "rare": rare_labels(entries),
        "curve": comparison.learning_curve,
        "curve_chart": curve_chart(comparison.learning_curve) if comparison.learning_curve else None,
        "few_seeds": counted(seeds, "seed") if 0 < (seeds := len(comparison.run.seeds)) < MIN_SEEDS else "",
        "off_scale": any(found.value < scale.low for found in estimates),
        "augmentation": comparison.augmentation,
        "crowded": len(labels) > CROWDED,
    }


def _who(entry: EntryResult) -> str:
    """What is better than a baseline: with few seeds it is these classifiers, from three on the way of training."""
    seeds = len(entry.seeds)
    return "" if seeds >= MIN_SEEDS else "this classifier is " if seeds == 1 else f"these {seeds} classifiers are "


def _columns(entries: Sequence[EntryResult]) -> dict[str, bool]:
    """Which columns of the tables have any value."""
    return {
        "seeds": any(len(entry.by_seed.accuracy) > 1 for entry in entries),
        "cleaned": any(entry.cleaned for entry in entries),
        "against": any(entry.against for entry in entries),
        "baselines": any(entry.kind == "baseline" for entry in entries),
        "cost": any(entry.training or entry.cost for entry in entries),
        "several": any(entry.several for entry in entries),
        "answered": any(entry.calibration and entry.calibration.answered for entry in entries),
        "no_log_loss": any(entry.metrics.brier and not entry.metrics.log_loss for entry in entries),
    }


def rare_labels(entries: Sequence[EntryResult]) -> tuple[int, int] | None:
    """How many labels have fewer than five test rows, and of how many, where these are so many that the interval of
    macro-F1 is too narrow; else None. In simulations (benchmarks/verdict.py) it covered the truth in 92 to 96 % with up
    to 35 % of such labels, and in 84 to 89 % with 53 to 67 %."""
    supports = [label.support for label in next((entry.per_class for entry in entries if entry.per_class), ())]
    rare = sum(support < _FEW_ROWS for support in supports)
    return (rare, len(supports)) if rare > _MOST_RARE * len(supports) else None


def estimate(entry: EntryResult) -> Estimate:
    """An entry's accuracy with its interval, and the accuracy of each seed where there are several."""
    accuracy = entry.metrics.accuracy
    seeds = [(str(seed), value) for seed, value in zip(entry.seeds, entry.by_seed.accuracy, strict=False)]
    return Estimate(
        entry.name, entry.kind, accuracy.value, accuracy.low, accuracy.high, seeds if len(seeds) > 1 else ()
    )


def accuracy_charts(estimates: Sequence[Estimate]) -> tuple[Markup, Markup]:
    """For a wide page and for a phone; the style sheet shows one of them."""
    title = f"Accuracy with its interval: {', '.join(row.name for row in estimates)}"
    label = "accuracy on the test rows"
    return intervals(title, label, estimates), intervals(title, label, estimates, width=340)


def _charts(entry: EntryResult, labels: Sequence[str], test_rows: int) -> dict[str, Any]:
    """The charts and tables of an entry's panel; `detailed` tells whether it holds anything."""
    ways = few_ways(entry.cost_curve or ())
    found = {
        "matrix": _matrix(entry.confusion, labels) if entry.confusion else None,
        "pairs": confused_pairs(entry.confusion, labels) if entry.confusion else [],
        "reliability_chart": reliability_chart(entry, entry.reliability) if entry.reliability else None,
        "risk_chart": risk_chart(entry.name, entry.risk_coverage, test_rows) if entry.risk_coverage else None,
        "ways": ways,
        "cost_chart": cost_chart(entry.name, ways) if len(ways) > 1 else None,
        "worst": worst_first(entry.per_class) if entry.per_class else [],
        "worse_calibrated": _worse_calibrated(entry),
    }
    facts = (entry.calibration, entry.faithfulness, entry.changes, entry.label_mass, entry.per_class, entry.against)
    return {**found, "detailed": any(found.values()) or any(facts)}


# Confusion


def _matrix(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[tuple[str, list[tuple[int, int]]]]:
    """For every true label the (count, shade) of each predicted label. The shade, 0 to 10, is the share of the true
    label's rows, rounded up, so that a single row among thousands is still visible."""
    rows = []
    for label, row in zip(labels, counts, strict=True):
        total = sum(row) or 1
        rows.append((label, [(count, math.ceil(_SHADES * count / total - 1e-9)) for count in row]))
    return rows


@dataclass(frozen=True)
class Pair:
    """`count` rows of the label `truth`, a `share` of them, were predicted as `predicted`."""

    truth: str
    predicted: str
    count: int
    share: float


def confused_pairs(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[Pair]:
    """The six most frequently confused pairs, most frequent first."""
    pairs = [
        Pair(truth, predicted, count, count / sum(row))
        for truth, row in zip(labels, counts, strict=True)
        for predicted, count in zip(labels, row, strict=True)
        if count and truth != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.share, pair.truth))[:_PAIRS]


# Charts of one entry


def reliability_chart(entry: EntryResult, reliability: Reliability) -> Markup:
    """Accuracy against confidence in bins of 40 test rows or more, after calibration with intervals. A point's area
    grows with its bin's share of the rows."""
    seeds = max(1, len(entry.seeds))
    before, after = filled_bins(reliability.before, seeds), filled_bins(reliability.after, seeds)
    series = [
        Series("before calibration", _bin_points(before, intervals=False), 2),
        Series("after", _bin_points(after, intervals=True), 1),
    ]
    confidence, accuracy = axis("confidence", (0.0, 1.0), share=True), axis("accuracy", (0.0, 1.0), share=True)
    return draw(Chart(f"Reliability of {entry.name}", confidence, accuracy, series, diagonal=True))


def _bin_points(bins: Sequence[Bin], *, intervals: bool) -> list[Point]:
    most = max((found.rows for found in bins), default=1)
    return [
        Point(
            found.confidence,
            found.accuracy.value,
            f"confidence {formats.percent(found.confidence)}, accuracy {formats.percent(found.accuracy.value)} "
            f"({formats.percent(found.accuracy.low)} to {formats.percent(found.accuracy.high)}), "
            f"{formats.whole(found.rows)} rows",
            low=found.accuracy.low if intervals else None,
            high=found.accuracy.high if intervals else None,
            radius=2 + 4 * math.sqrt(found.rows / most),
        )
        for found in bins
    ]


def _worse_calibrated(entry: EntryResult) -> list[tuple[str, float, float]]:
    """The measures that calibration made worse on the test rows, with their values before and after."""
    if entry.calibration is None:
        return []
    before, after = entry.calibration.before, entry.calibration.after
    measures = {"log-loss": "log_loss", "Brier score": "brier", "calibration error": "calibration_error"}
    values = [(said, getattr(before, name), getattr(after, name)) for said, name in measures.items()]
    return [(said, first, last) for said, first, last in values if last > first]


def risk_chart(name: str, risk_coverage: Sequence[CoveragePoint], test_rows: int) -> Markup:
    """Accuracy on the most confident share of the rows, with a band of Wilson's intervals."""
    points = []
    for found in thinned(risk_coverage):
        known = wilson_interval(found.accuracy, max(1, round(found.coverage * test_rows)))
        points.append(Point(found.coverage, found.accuracy, low=known.low, high=known.high))
    heights = [height for point in points for height in (point.y, point.low, point.high) if height is not None]
    y = axis("accuracy on these", heights, share=True)
    x = axis("share of rows answered, most confident first", (0.0, 1.0), share=True)
    return draw(Chart(f"Accuracy against coverage of {name}", x, y, [Series(name, points, dots=False, band=True)]))


def curve_chart(curve: LearningCurve) -> Markup:
    """Accuracy against training rows, with intervals."""
    points = [
        Point(
            found.rows,
            found.accuracy.value,
            f"{formats.whole(found.rows)} training rows: {formats.percent(found.accuracy.value)} "
            f"({formats.percent(found.accuracy.low)} to {formats.percent(found.accuracy.high)})",
            low=found.accuracy.low,
            high=found.accuracy.high,
        )
        for found in curve.points
    ]
    heights = [height for point in points for height in (point.low, point.high) if height is not None]
    x, y = axis("training rows", [0.0, *(point.x for point in points)]), axis("accuracy", heights, share=True)
    return draw(Chart(f"Learning curve of {curve.arm}", x, y, [Series(curve.arm, points)]))


def thinned(places: Sequence[T]) -> list[T]:
    """At most 150 of them, evenly spaced, including the first and the last."""
    if len(places) <= _PLACES:
        return list(places)
    last = len(places) - 1
    return [places[round(index * last / (_PLACES - 1))] for index in range(_PLACES)]


def cost_chart(name: str, cost_curve: Sequence[CostPoint]) -> Markup:
    """Accuracy against tokens generated. A point shows its row's number in the table beside it."""
    points = []
    for row, found in enumerate(cost_curve, start=1):
        accuracy, tokens = found.accuracy, found.tokens_generated
        tip = f"{row}: {formats.percent(accuracy.value)} with {formats.number(tokens, 1)} tokens"
        points.append(Point(tokens, accuracy.value, tip, low=accuracy.low, high=accuracy.high, radius=7, mark=str(row)))
    heights = [height for point in points for height in (point.y, point.low, point.high) if height is not None]
    x = axis("tokens generated per row", [0.0, *(point.x for point in points)])
    y = axis("accuracy", heights, share=True)
    return draw(Chart(f"Cost and accuracy of {name}", x, y, [Series(name, points, line=False)]))
