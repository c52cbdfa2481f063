"""Charts of the report as inline SVG. Knows numbers and names, not where they come from.

Colours are classes of the page's style sheet, so that one drawing works on a light screen, a dark one and paper.
Everything that comes from the user is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from markupsafe import Markup, escape

from rir_mlx.evaluation.report import formats
from rir_mlx.evaluation.schema import EntryKind

_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 18.0, 10.0, 40.0
_REACH = 1.5
_BROKEN_FROM = 0.5
"""An axis of accuracies that all lie above this does not start at 0."""


def tag(name: str, *children: str, **attributes: Any) -> Markup:
    """An SVG element. Underscores in attribute names become hyphens. Children that are not Markup are escaped."""
    attributes_text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{attributes_text}>{inside}</{name}>" if children else f"<{name}{attributes_text}/>")


def _short(value: Any) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Axis:
    """A scale with ticks at round numbers. `high` is greater than `low`."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    write: Callable[[float], str]

    def at(self, value: float, start: float, end: float) -> float:
        """The coordinate of a value between `start` and `end`, clamped to them."""
        share = min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))
        return start + share * (end - start)


def axis(label: str, values: Sequence[float], *, share: bool = False, count: int = 5) -> Axis:
    """A scale that contains all the values. A `share` stays within 0 and 1 and is written in percent."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    least = 0.02 if share else max(1e-9, 0.1 * abs(high)) or 1.0
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * times for times in (1, 2, 2.5, 5, 10) if size * times >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    if share:
        ticks = [tick for tick in ticks if -1e-9 <= tick <= 1 + 1e-9]
    digits = max(0, -math.floor(math.log10(100 * step if share else step) + 1e-9))
    digits += abs(step / size - 2.5) < 1e-6

    def write(value: float) -> str:
        return formats.percent(value, digits) if share else formats.number(value, digits)

    return Axis(label, ticks[0], ticks[-1], tuple(ticks), write)


@dataclass(frozen=True)
class Point:
    """A point of a chart. `low` and `high` are the ends of y's interval, `tip` is shown on hovering, `mark` is written
    into the point."""

    x: float
    y: float
    tip: str = ""
    low: float | None = None
    high: float | None = None
    radius: float = 3.0
    mark: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one colour. Style 1 is filled, style 2 hollow and dashed, so that they differ without colour too."""

    name: str
    points: Sequence[Point]
    style: Literal[1, 2] = 1
    line: bool = True
    dots: bool = True
    band: bool = False
    """Whether the intervals are a shaded band instead of a bar at each point."""


@dataclass(frozen=True)
class Chart:
    """Points over two scales. `title` is the accessible name."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series] = field(default_factory=tuple)
    diagonal: bool = False
    width: float = 340.0
    height: float = 250.0


def draw(chart: Chart) -> Markup:
    """The chart as an SVG element of `chart.width` × `chart.height` units; several series get a legend
    below."""
    legend = len(chart.series) > 1
    height = chart.height + (18 if legend else 0)
    right, bottom = chart.width - _RIGHT, chart.height - _BOTTOM
    parts = [tag("title", chart.title), *_axes(chart, right, bottom)]
    if chart.diagonal:
        parts.append(tag("line", class_="guide", x1=_LEFT, y1=bottom, x2=right, y2=_TOP))
    for series in chart.series:
        parts += _series(chart, series, right, bottom)
    if legend:
        parts += _legend(chart.series, height - 6)
    return _svg(chart.title, chart.width, height, parts)


def _svg(title: str, width: float, height: float, parts: Sequence[str], name: str = "chart") -> Markup:
    box = f"0 0 {_short(float(width))} {_short(float(height))}"
    return tag("svg", *parts, class_=name, role="img", aria_label=title, viewBox=box, width=width, height=height)


def _axes(chart: Chart, right: float, bottom: float) -> list[Markup]:
    parts = []
    for tick in chart.y.ticks:
        y = chart.y.at(tick, bottom, _TOP)
        parts.append(tag("line", class_="grid", x1=_LEFT, y1=y, x2=right, y2=y))
        parts.append(tag("text", chart.y.write(tick), class_="tick", x=_LEFT - 6, y=y + 4, text_anchor="end"))
    for tick in chart.x.ticks:
        x = chart.x.at(tick, _LEFT, right)
        parts.append(tag("line", class_="axis", x1=x, y1=bottom, x2=x, y2=bottom + 4))
        parts.append(tag("text", chart.x.write(tick), class_="tick", x=x, y=bottom + 16, text_anchor="middle"))
    parts.append(tag("line", class_="axis", x1=_LEFT, y1=bottom, x2=right, y2=bottom))
    middle = (_LEFT + right) / 2
    parts.append(tag("text", chart.x.label, class_="name", x=middle, y=bottom + 33, text_anchor="middle"))
    turned = f"rotate(-90 12 {_short((_TOP + bottom) / 2)})"
    y = (_TOP + bottom) / 2
    parts.append(tag("text", chart.y.label, class_="name", x=12, y=y, text_anchor="middle", transform=turned))
    return parts


def _series(chart: Chart, series: Series, right: float, bottom: float) -> list[Markup]:
    def place(point: Point) -> tuple[float, float]:
        return chart.x.at(point.x, _LEFT, right), chart.y.at(point.y, bottom, _TOP)

    parts = []
    if series.band:
        known = [point for point in series.points if point.low is not None and point.high is not None]
        upper = [place(Point(point.x, point.high or 0.0)) for point in known]
        lower = [place(Point(point.x, point.low or 0.0)) for point in reversed(known)]
        parts.append(tag("polygon", class_=f"band b{series.style}", points=_path([*upper, *lower])))
    if series.line and len(series.points) > 1:
        parts.append(tag("polyline", class_=f"line s{series.style}", points=_path(map(place, series.points))))
    for point in series.points if series.dots else ():
        x, y = place(point)
        if point.low is not None and point.high is not None:
            ends = {"y1": chart.y.at(point.low, bottom, _TOP), "y2": chart.y.at(point.high, bottom, _TOP)}
            parts.append(tag("line", class_=f"bar s{series.style}", x1=x, x2=x, **ends))
        tip = (tag("title", point.tip),) if point.tip else ()
        parts.append(tag("circle", *tip, class_=f"dot s{series.style}", cx=x, cy=y, r=point.radius))
        if point.mark:
            parts.append(tag("text", point.mark, class_="mark", x=x, y=y + 3.5, text_anchor="middle"))
    return parts


def _legend(series: Sequence[Series], y: float) -> list[Markup]:
    parts, x = [], _LEFT
    for entry in series:
        parts.append(tag("line", class_=f"line s{entry.style}", x1=x, y1=y - 4, x2=x + 18, y2=y - 4))
        parts.append(tag("circle", class_=f"dot s{entry.style}", cx=x + 9, cy=y - 4, r=3))
        parts.append(tag("text", entry.name, class_="tick", x=x + 24, y=y))
        x += 36 + 6.2 * len(entry.name)
    return parts


# Estimates with their intervals


@dataclass(frozen=True)
class Estimate:
    """A row of the chart of intervals: a value, its interval, and the value of each seed."""

    name: str
    kind: EntryKind
    value: float
    low: float
    high: float
    seeds: Sequence[tuple[str, float]] = ()


def scale_for(rows: Sequence[Estimate], label: str = "", count: int = 8) -> Axis:
    """A scale for these estimates, from 0 on. If all trained entries lie above a half, it is broken: it starts just
    below them, and its name says where. A baseline far below them then stays off the scale and is drawn as an arrow at
    the edge, for it would squeeze the others into a corner."""

    def ends(estimates: Sequence[Estimate]) -> list[float]:
        return [
            value for row in estimates for value in (row.low, row.high, row.value, *(seed for _, seed in row.seeds))
        ]

    trained = ends([row for row in rows if row.kind != "baseline"]) or ends(rows)
    if min(trained, default=0.0) <= _BROKEN_FROM:
        return axis(label, [0.0, *ends(rows)], share=True, count=count)
    least = min(trained) - _REACH * (max(trained) - min(trained))
    found = axis(
        label, ends([row for row in rows if row.kind != "baseline" or row.low >= least]), share=True, count=count
    )
    return replace(found, label=f"{label} (the axis starts at {found.write(found.low)})" if label else label)


def intervals(title: str, label: str, rows: Sequence[Estimate], *, width: float = 720.0) -> Markup:
    """One line per row: its interval, its value as a mark whose shape shows the kind, and a small ring below for each
    seed. On a narrow drawing the names stand above the lines."""
    narrow = width < 500
    scale = scale_for(rows, label, 4 if narrow else 8)
    left = 22.0 if narrow else 24.0 + 7.2 * max(len(row.name) for row in rows)
    left = min(left, width / 3)
    pitch, right = (42.0 if narrow else 32.0), width - (24.0 if narrow else 66.0)
    bottom = 8 + pitch * len(rows)
    parts = [tag("title", title)]
    for tick in scale.ticks:
        x = scale.at(tick, left, right)
        parts.append(tag("line", class_="grid", x1=x, y1=4, x2=x, y2=bottom))
        parts.append(tag("text", scale.write(tick), class_="tick", x=x, y=bottom + 15, text_anchor="middle"))
    parts.append(tag("line", class_="axis", x1=left, y1=bottom, x2=right, y2=bottom))
    if scale.low > 0:
        parts.append(_break(left, bottom))
    parts.append(tag("text", scale.label, class_="name", x=(left + right) / 2, y=bottom + 33, text_anchor="middle"))
    for index, row in enumerate(rows):
        y = 8 + pitch * index + (26 if narrow else 13)
        value = formats.percent(row.value)
        if narrow:
            parts.append(tag("text", f"{row.name}  {value}", class_="label", x=left - 14, y=y - 10))
        else:
            parts.append(tag("text", row.name, class_="label", x=left - 12, y=y + 4, text_anchor="end"))
            parts.append(tag("text", value, class_="label", x=right + 10, y=y + 4))
        parts += _estimate(row, scale, (left, right), y)
    return _svg(title, width, bottom + 42, parts, "chart narrow" if narrow else "chart wide")


def _break(x: float, y: float) -> Markup:
    """The zigzag at the start of an axis that does not start at 0."""
    corners = ((-14, 0), (-11, -5), (-7, 5), (-3, -5), (0, 0))
    return tag("polyline", class_="axis break", points=_path((x + dx, y + dy) for dx, dy in corners))


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_short(x)},{_short(y)}" for x, y in points)


def _estimate(row: Estimate, scale: Axis, ends: tuple[float, float], y: float) -> list[Markup]:
    tip = f"{row.name}: {formats.percent(row.value)} ({formats.percent(row.low)} to {formats.percent(row.high)})"
    parts = _interval(row, scale, ends, y, tip)
    for name, value in row.seeds:
        tip = tag("title", f"{row.name}, seed {name}: {formats.percent(value)}")
        parts.append(tag("circle", tip, class_=f"seed {row.kind}", cx=scale.at(value, *ends), cy=y + 9, r=2.6))
    return parts


def _interval(row: Estimate, scale: Axis, ends: tuple[float, float], y: float, tip: str) -> list[Markup]:
    """The line and the mark, or an arrow where the value lies left of the scale."""
    low, high, x = (scale.at(value, *ends) for value in (row.low, row.high, row.value))
    if row.value < scale.low:
        corners = f"{_short(x - 3)},{_short(y)} {_short(x + 6)},{_short(y - 5)} {_short(x + 6)},{_short(y + 5)}"
        return [tag("polygon", tag("title", tip), class_=f"dot {row.kind}", points=corners)]
    return [tag("line", class_=f"bar {row.kind}", x1=low, x2=high, y1=y, y2=y), shape(row.kind, x, y, tip)]


def shape(kind: EntryKind, x: float, y: float, tip: str = "") -> Markup:
    """A disc for an arm, a diamond for a control, a square for a baseline."""
    inside = (tag("title", tip),) if tip else ()
    if kind == "arm":
        return tag("circle", *inside, class_=f"dot {kind}", cx=x, cy=y, r=5.0)
    size = 5.5 if kind == "control" else 4.5
    turn = f"rotate(45 {_short(x)} {_short(y)})" if kind == "control" else None
    size = size - 1 if kind == "control" else size
    box = {"x": x - size, "y": y - size, "width": 2 * size, "height": 2 * size}
    return tag("rect", *inside, class_=f"dot {kind}", transform=turn, **box)


def key(kind: EntryKind) -> Markup:
    """Just the shape, for a legend."""
    return tag("svg", shape(kind, 7.0, 7.0), class_="key", viewBox="0 0 14 14", width=14, height=14, aria_hidden="true")
