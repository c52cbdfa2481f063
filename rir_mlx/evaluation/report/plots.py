"""The report's charts as PNG files, for slides and papers. matplotlib is an optional install, imported when asked for.

Figures are made without pyplot: no window, no global state. Names of labels and arms are never parsed as formulas.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rir_mlx.errors import UserError, install_extra
from rir_mlx.evaluation.report import formats
from rir_mlx.evaluation.report.charts import Axis, Estimate, scale_for
from rir_mlx.evaluation.report.selection import few_ways, filled_bins
from rir_mlx.evaluation.report.view import CROWDED, estimate, thinned
from rir_mlx.evaluation.schema import Comparison, CostPoint, EntryResult, LearningCurve, Reliability
from rir_mlx.statistics.metrics import CoveragePoint
from rir_mlx.storage.atomic import make_folder, replacing
from rir_mlx.storage.layout import OTHER_RUNS

_COLOURS = {"arm": "#0a5c9e", "control": "#b4500a", "baseline": "#5f6b76"}
_MARKS = {"arm": "o", "control": "D", "baseline": "s"}
_DOTS_PER_INCH = 160

Draw = Callable[[Any], None]
"""Draws on a matplotlib `Axes`."""


def check_installed() -> None:
    """Raises UserError, naming what to install, before any work is done."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(
            "The plots need matplotlib, which is not installed.", hint=f"{install_extra('plots')} installs it."
        ) from error


def write_plots(folder: Path, comparison: Comparison) -> list[Path]:
    """Write `accuracy.png`, `learning-curve.png` if there is a curve, and for each arm, control and baseline
    `confusion-`, `reliability-`, `risk-coverage-` and `cost-accuracy-<name>.png` if measured. Returns the paths.

    Raises UserError if matplotlib is not installed.
    """
    check_installed()
    make_folder(folder, OTHER_RUNS)
    estimates = [estimate(entry) for entry in comparison.entries]
    size = (7.5, 1.2 + 0.38 * len(estimates))
    paths = [_write(folder / "accuracy.png", size, lambda axes: _accuracy(axes, estimates))]
    if (found := comparison.learning_curve) is not None:
        paths.append(_write(folder / "learning-curve.png", (5.0, 3.6), lambda axes: _curve(axes, found)))
    for entry in comparison.entries:
        for kind, size, draw in _plots(entry, comparison.labels):
            name = re.sub(r"[^\w.-]+", "-", entry.name)
            paths.append(_write(folder / f"{kind}-{name}.png", size, draw))
    return paths


def _plots(entry: EntryResult, labels: Sequence[str]) -> list[tuple[str, tuple[float, float], Draw]]:
    """The (kind, size in inches, drawing) of each plot that an entry has measurements for."""
    name, side = entry.name, max(4.0, 1.8 + (0.24 if len(labels) > CROWDED else 0.5) * len(labels))
    plots: list[tuple[str, tuple[float, float], Draw]] = []
    if counts := entry.confusion:
        plots.append(("confusion", (side + 0.8, side), lambda axes: _confusion(axes, name, counts, labels)))
    if reliability := entry.reliability:
        plots.append(("reliability", (4.4, 4.2), lambda axes: _reliability(axes, entry, reliability)))
    if places := entry.risk_coverage:
        plots.append(("risk-coverage", (5.0, 3.6), lambda axes: _risk(axes, name, thinned(places))))
    if curve := few_ways(entry.cost_curve or ()):
        plots.append(("cost-accuracy", (5.0, 3.6), lambda axes: _cost(axes, name, curve)))
    return plots


def _write(path: Path, size: tuple[float, float], draw: Draw) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a label in a script that the font lacks
        figure.savefig(temporary, dpi=_DOTS_PER_INCH, format="png")
    return path


def _percents(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))


def _named(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)


def _accuracy(axes: Any, rows: Sequence[Estimate]) -> None:
    scale: Axis = scale_for(rows, "accuracy on the test rows")
    for place, row in enumerate(rows):
        colour = _COLOURS[row.kind]
        if row.value < scale.low:  # far to the left of all that was trained
            axes.plot([scale.low], [place], marker="<", color=colour, clip_on=False)
        else:
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
            axes.plot([row.value], [place], marker=_MARKS[row.kind], color=colour)
        for _, value in row.seeds:
            axes.plot([value], [place + 0.28], marker="o", markersize=3.5, markerfacecolor="white", color=colour)
        axes.text(
            1.02, place, formats.percent(row.value), transform=axes.get_yaxis_transform(), va="center", fontsize=9
        )
    axes.set_xlim(scale.low, scale.high)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], parse_math=False)
    axes.grid(axis="x", alpha=0.3)
    _percents(axes.xaxis)
    _named(axes, "Accuracy with its 95 % interval; rings: one seed each", scale.label, "")


def _confusion(axes: Any, name: str, counts: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    import numpy as np

    matrix = np.asarray(counts, dtype=float)
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = len(labels) > CROWDED
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if shares[row, column] > 0.55 else "black"
        text = axes.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", color=colour)
        text.set_fontsize(4.5 if small else 8)
        text.set_in_layout(False)  # placing the axes need not measure thousands of them
    _named(axes, f"Confusion of {name}; shading: share of the row", "predicted label", "true label")
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=5.5 if small else 8, parse_math=False)
    axes.set_yticks(range(len(labels)), labels, fontsize=5.5 if small else 8, parse_math=False)


def _reliability(axes: Any, entry: EntryResult, reliability: Reliability) -> None:
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle=":")
    styles = (
        (reliability.before, "before calibration", "--", "#b4500a"),
        (reliability.after, "after", "-", "#0a5c9e"),
    )
    for all_bins, label, dashes, colour in styles:
        bins = filled_bins(all_bins, max(1, len(entry.seeds)))
        if bins:
            most = max(found.rows for found in bins)
            confidence, accuracy = [found.confidence for found in bins], [found.accuracy.value for found in bins]
            axes.plot(confidence, accuracy, linestyle=dashes, color=colour, label=label)
            axes.scatter(confidence, accuracy, s=[10 + 60 * found.rows / most for found in bins], color=colour)
            if label == "after":
                ends = [found.accuracy.low for found in bins], [found.accuracy.high for found in bins]
                axes.vlines(confidence, *ends, color=colour, linewidth=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    _percents(axes.xaxis)
    _percents(axes.yaxis)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)
    _named(axes, f"Reliability of {entry.name}", "confidence", "accuracy")


def _risk(axes: Any, name: str, places: Sequence[CoveragePoint]) -> None:
    axes.plot([point.coverage for point in places], [point.accuracy for point in places], color="#0a5c9e")
    axes.set_xlim(0, 1)
    axes.grid(alpha=0.3)
    _percents(axes.xaxis)
    _percents(axes.yaxis)
    _named(axes, f"Accuracy against coverage of {name}", "share of rows answered, most confident first", "accuracy")


def _curve(axes: Any, curve: LearningCurve) -> None:
    rows, found = [point.rows for point in curve.points], [point.accuracy for point in curve.points]
    axes.vlines(rows, [share.low for share in found], [share.high for share in found], color="#0a5c9e")
    axes.plot(rows, [share.value for share in found], marker="o", color="#0a5c9e")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    _percents(axes.yaxis)
    _named(axes, f"Learning curve of {curve.arm}", "training rows", "accuracy")


def _cost(axes: Any, name: str, curve: Sequence[CostPoint]) -> None:
    for point in curve:
        tokens, accuracy = point.tokens_generated, point.accuracy
        axes.plot([tokens, tokens], [accuracy.low, accuracy.high], color="#0a5c9e")
        axes.plot([tokens], [accuracy.value], marker="o", color="#0a5c9e")
        label = point.reason if point.samples == 1 else f"{point.reason} ×{point.samples}"
        axes.annotate(label, (tokens, accuracy.value), (6, 4), textcoords="offset points", fontsize=8)
    axes.set_xlim(left=0)
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)
    _percents(axes.yaxis)
    _named(axes, f"Cost and accuracy of {name}", "tokens generated per row", "accuracy")
