"""A comparison as the page needs it: every key there, charts drawn, shades chosen. Knows nothing of HTML but charts.

What a comparison leaves out (an arm without a calibration, a baseline without a confusion matrix) stays None here, and
the template leaves its part out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rir_mlx.evaluation.report import formats
from rir_mlx.evaluation.report.charts import (
    Axis,
    Chart,
    Estimate,
    Point,
    Series,
    axis,
    bar,
    draw,
    intervals,
    scale_for,
)

CROWDED = 16
"""With more classes than this the confusion matrix has small cells and upright names, and is left out on paper."""
_PAIRS = 10
_PLACES = 150
_SHADES = 10

_ENTRY: dict[str, Any] = {
    "kind": "arm",
    "what": "",
    "seeds": (),
    "figures": {},
    "by_seed": {},
    "beats": (),
    **dict.fromkeys(("cleaned", "against", "validation_accuracy", "training", "cost", "calibration", "per_class")),
    **dict.fromkeys(("confusion", "reliability", "risk_coverage", "curve", "faithfulness", "mass")),
}
_RUN = dict.fromkeys(("name", "command", "finished", "backend", "device", "seed", "recipe"))


def page(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """What the template is filled with, but for the examples."""
    labels = list(comparison.get("labels") or ())
    entries = [{**_ENTRY, **_present(entry)} for entry in comparison.get("entries") or ()]
    estimates = [estimate(entry) for entry in entries]
    drawn = [one for one in estimates if one]
    scale = scale_for(drawn)
    baselines = [entry["name"] for entry in entries if entry["kind"] == "baseline"]
    shown = [
        {**entry, **_parts(entry, labels), "id": f"entry-{index}", "bar": _bar(entry, scale), "fails": fails}
        for index, entry in enumerate(entries)
        for fails in [[name for name in baselines if name not in entry["beats"]]]
    ]
    kinds = [(kind, [one for one in shown if one["kind"] == kind]) for kind in ("arm", "control", "baseline")]
    return {
        "run": {**_RUN, **_present(comparison.get("run") or {})},
        "rows": comparison.get("rows") or {},
        "verdict": comparison.get("verdict") or "",
        "chosen": comparison.get("chosen"),
        "warnings": list(comparison.get("warnings") or ()),
        "labels": labels,
        "entries": shown,
        "kinds": [(kind, those) for kind, those in kinds if those],
        "baselines": baselines,
        "first_arm": next((entry["against"]["first"] for entry in entries if entry["against"]), None),
        "accuracy_charts": accuracy_charts(drawn) if drawn else (),
        "has": _columns(entries),
        "off_scale": any(one.value < scale.low for one in drawn),
        "augmentation": comparison.get("augmentation"),
        "crowded": len(labels) > CROWDED,
    }


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _columns(entries: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Which columns of the tables have anything in them."""
    return {
        "seeds": any(len(entry["by_seed"].get("accuracy") or ()) > 1 for entry in entries),
        "cleaned": any(entry["cleaned"] for entry in entries),
        "against": any(entry["against"] for entry in entries),
        "baselines": any(entry["kind"] == "baseline" for entry in entries),
        "figures": any(value for entry in entries for key, value in entry["figures"].items() if key != "accuracy"),
        "cost": any(entry["training"] or entry["cost"] for entry in entries),
    }


def estimate(entry: Mapping[str, Any]) -> Estimate | None:
    """An entry's accuracy with its interval and the seeds, or None where it was not measured."""
    measured = (entry.get("figures") or {}).get("accuracy") or {}
    value, low, high = (formats.finite(measured.get(key)) for key in ("value", "low", "high"))
    if value is None:
        return None
    by_seed = (entry.get("by_seed") or {}).get("accuracy") or ()
    seeds = [(str(seed), one) for seed, one in zip(entry.get("seeds") or range(len(by_seed)), by_seed, strict=False)]
    kind = entry.get("kind", "arm")
    low, high = value if low is None else low, value if high is None else high
    return Estimate(str(entry["name"]), kind, value, low, high, seeds if len(seeds) > 1 else ())


def _bar(entry: Mapping[str, Any], scale: Axis) -> Markup | None:
    one = estimate(entry)
    return bar(one, scale) if one else None


def accuracy_charts(rows: Sequence[Estimate]) -> tuple[Markup, Markup]:
    """For a wide page and for a phone; the style sheet shows one of them."""
    title = f"Accuracy with its interval: {', '.join(row.name for row in rows)}"
    label = "accuracy on the test rows"
    return intervals(title, label, rows), intervals(title, label, rows, width=340)


def _parts(entry: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    name = entry["name"]
    parts = {
        "matrix": _matrix(entry["confusion"], labels) if entry["confusion"] else None,
        "pairs": confused_pairs(entry["confusion"], labels) if entry["confusion"] else [],
        "reliability_chart": reliability_chart(name, entry["reliability"]) if entry["reliability"] else None,
        "risk_chart": risk_chart(name, entry["risk_coverage"]) if entry["risk_coverage"] else None,
        "cost_chart": cost_chart(name, entry["curve"]) if entry["curve"] else None,
    }
    facts = ("calibration", "faithfulness", "mass", "per_class", "against")
    return {**parts, "detailed": any(parts.values()) or any(entry[key] for key in facts)}


# Confusion


def _matrix(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[tuple[str, list[tuple[int, int]]]]:
    """For every true label the (count, shade) of each predicted one. The shade, 0 to 10, is the share of the row
    rounded up, so that a single row among thousands is still seen."""
    rows = []
    for label, row in zip(labels, counts, strict=True):
        total = sum(row) or 1
        rows.append((label, [(count, math.ceil(_SHADES * count / total - 1e-9)) for count in row]))
    return rows


@dataclass(frozen=True)
class Pair:
    """`count` rows of `truth` were taken for `predicted`: a `share` of all rows of that truth."""

    truth: str
    predicted: str
    count: int
    share: float


def confused_pairs(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[Pair]:
    """The pairs that were confused most often, at most ten, most frequent first."""
    pairs = [
        Pair(truth, predicted, count, count / sum(row))
        for truth, row in zip(labels, counts, strict=True)
        for predicted, count in zip(labels, row, strict=True)
        if count and truth != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.share, pair.truth))[:_PAIRS]


# Charts of one entry


def reliability_chart(name: str, reliability: Mapping[str, Any]) -> Markup:
    """Accuracy against confidence in bins. A point's area grows with its bin's share of the rows."""
    series = []
    if before := reliability.get("before"):
        series.append(Series("before calibration", _bins(before), 2))
    if after := reliability.get("after"):
        series.append(Series("after", _bins(after), 1))
    whole = axis("confidence", (0.0, 1.0), share=True)
    return draw(Chart(f"Reliability of {name}", whole, axis("accuracy", (0.0, 1.0), share=True), series, diagonal=True))


def _bins(bins: Sequence[Mapping[str, Any]]) -> list[Point]:
    filled = [one for one in bins if one["count"]]
    most = max((one["count"] for one in filled), default=1)
    return [
        Point(
            one["confidence"],
            one["accuracy"],
            f"confidence {formats.percent(one['confidence'])}, accuracy {formats.percent(one['accuracy'])}, "
            f"{formats.whole(one['count'])} rows",
            radius=2 + 4 * math.sqrt(one["count"] / most),
        )
        for one in filled
    ]


def risk_chart(name: str, places: Sequence[Mapping[str, Any]]) -> Markup:
    """Accuracy on the most confident share of the rows."""
    points = [Point(one["coverage"], one["accuracy"]) for one in thinned(places)]
    y = axis("accuracy on these", [point.y for point in points], share=True)
    x = axis("share of rows answered, most confident first", (0.0, 1.0), share=True)
    return draw(Chart(f"Accuracy against coverage of {name}", x, y, [Series(name, points, dots=False)]))


def thinned(places: Sequence[Any]) -> list[Any]:
    """At most some 150 of them, evenly, the first and the last among them."""
    if len(places) <= _PLACES:
        return list(places)
    last = len(places) - 1
    return [places[round(index * last / (_PLACES - 1))] for index in range(_PLACES)]


def cost_chart(name: str, curve: Sequence[Mapping[str, Any]]) -> Markup:
    """Accuracy against tokens written. A point bears its row's number in the table beside it."""
    points = []
    for row, one in enumerate(curve, start=1):
        measured = one["accuracy"]
        tip = f"{row}: {formats.percent(measured['value'])} with {formats.number(one['tokens_written'], 1)} tokens"
        low, high = measured.get("low"), measured.get("high")
        place = (one["tokens_written"], measured["value"])
        points.append(Point(*place, tip, low=low, high=high, radius=7, mark=str(row)))
    heights = [height for point in points for height in (point.y, point.low, point.high) if height is not None]
    x = axis("tokens written a row", [0.0, *(point.x for point in points)])
    y = axis("accuracy", heights, share=True)
    return draw(Chart(f"Cost and accuracy of {name}", x, y, [Series(name, points, line=False)]))
