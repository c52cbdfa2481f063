"""The report's parts below the page: pairs of predictions, scales, charts, how numbers are written, PNG files."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from comparisons import EVIL, a_comparison

from rir_mlx.errors import Failure, UserError, install_extra
from rir_mlx.evaluation.report import formats
from rir_mlx.evaluation.report.charts import (
    Estimate,
    axis,
    intervals,
    scale_for,
    tag,
)
from rir_mlx.evaluation.report.examples import Answer, Example, example_page, row_examples
from rir_mlx.evaluation.report.plots import write_plots
from rir_mlx.evaluation.report.selection import few_ways, filled_bins, worst_first
from rir_mlx.evaluation.report.view import confused_pairs, thinned
from rir_mlx.evaluation.schema import Comparison, CostPoint
from rir_mlx.statistics.intervals import Interval, wilson_interval
from rir_mlx.statistics.metrics import LabelMetrics, ReliabilityBin


def _row(truth: str, predicted: str, probability: float = 0.6, **more: Any) -> dict[str, Any]:
    return {"text": "t", "label": truth, "predicted": predicted, "probabilities": {predicted: probability}} | more


def test_examples_put_any_two_side_by_side_and_the_second_s_confidence_sorts_them() -> None:
    first = [_row("a", "a"), _row("a", "b"), _row("a", "a"), _row("a", "b")]
    second = [_row("a", "a", 0.5), _row("a", "a", 0.9, reasoning="why"), _row("a", "b", 0.7), _row("a", "b", 0.8)]
    third = [_row("a", "a", 0.5), _row("a", "a", 0.3), _row("a", "a", 0.7), _row("a", "a", 0.8)]
    examples = row_examples({"qa": first, "qra": second, "tf-idf": third})
    assert [example.outcome(("qa", "qra")) for example in examples] == ["both right", "won", "lost", "both wrong"]
    assert [example.outcome(("qra", "tf-idf")) for example in examples] == ["both right", "both right", "won", "won"]
    answers = {"qa": Answer("b", 0.6), "qra": Answer("a", 0.9, "why"), "tf-idf": Answer("a", 0.3)}
    assert examples[1] == Example("t", "a", answers)
    page = example_page(examples, ("qra", "tf-idf"))
    assert page is not None
    assert [(group.outcome, group.count) for group in page.groups] == [
        ("won", 2),
        ("lost", 0),
        ("both wrong", 0),
        ("both right", 2),
    ]
    assert [example.answers["tf-idf"].probability for example in page.groups[0].shown] == [0.8, 0.7]
    assert json.loads(page.totals) == {
        "0,1": [1, 1, 1, 1],
        "1,0": [1, 1, 1, 1],
        "0,2": [2, 0, 0, 2],
        "2,0": [0, 2, 0, 2],
        "1,2": [2, 0, 0, 2],
        "2,1": [0, 2, 0, 2],
    }
    assert example_page(examples, ("qa", "gone")) == example_page(examples, ("qa", "qra"))
    assert example_page(row_examples({"qa": first})) is None
    assert example_page([]) is None


@pytest.mark.parametrize("second", [[_row("a", "a"), _row("b", "a")], [_row("a", "a")]], ids=["other", "shorter"])
def test_predictions_of_different_rows_are_not_paired(second: list[dict[str, Any]]) -> None:
    with pytest.raises(Failure, match="from row 2 on"):
        row_examples({"qa": [_row("a", "a"), _row("a", "a")], "qar": second})


def test_the_most_confused_pairs_come_first() -> None:
    pairs = confused_pairs([[5, 1, 0], [4, 9, 3], [3, 0, 9]], ["a", "b", "c"])
    assert [(pair.truth, pair.predicted, pair.count) for pair in pairs] == [
        ("b", "a", 4),
        ("c", "a", 3),  # a quarter of c's rows, and b's three are less of b's
        ("b", "c", 3),
        ("a", "b", 1),
    ]
    assert pairs[0].share == pytest.approx(4 / 16)


def test_ticks_are_round_and_hold_the_values() -> None:
    scale = axis("", [0.913, 0.927], share=True)
    assert scale.low <= 0.913
    assert scale.high >= 0.927
    assert [scale.write(tick) for tick in scale.ticks][:2] == ["91.0\u00a0%", "91.5\u00a0%"]
    assert axis("", [0.99, 1.0], share=True).high == pytest.approx(1.0)
    assert axis("", [], share=True).ticks[0] == 0
    assert axis("", [3.0, 3.0]).low < 3.0 < axis("", [3.0, 3.0]).high


def test_ticks_have_distinct_labels() -> None:
    for low, high in ((0.0, 1.0), (0.91, 0.94), (0.9, 0.9001), (0.333, 0.377), (0.0, 0.13)):
        for count in (4, 5, 8):
            scale = axis("", [low, high], share=True, count=count)
            written = [scale.write(tick) for tick in scale.ticks]
            assert len(set(written)) == len(written) >= 2
    for top in (0.4, 7.0, 41.3, 206.1, 12345.0):
        written = [axis("", [0.0, top]).write(tick) for tick in axis("", [0.0, top]).ticks]
        assert len(set(written)) == len(written) >= 2


def test_a_baseline_far_below_does_not_press_the_arms_together() -> None:
    arms = [Estimate("qa", "arm", 0.91, 0.90, 0.92), Estimate("qar", "arm", 0.93, 0.92, 0.94)]
    far, near = Estimate("majority", "baseline", 0.3, 0.29, 0.31), Estimate("tf-idf", "baseline", 0.88, 0.87, 0.89)
    scale = scale_for([*arms, far, near])
    assert 0.8 < scale.low <= 0.87
    chart = intervals("title", "accuracy", [*arms, far, near])
    assert chart.count("<polygon") == 1
    assert "30.0\u00a0%" in chart  # its value is still said


def test_an_axis_starts_at_0_or_is_broken_and_says_where() -> None:
    low, high = Estimate("qa", "arm", 0.4, 0.35, 0.45), Estimate("qar", "arm", 0.93, 0.92, 0.94)
    assert scale_for([low, high], "accuracy").low == 0
    assert "break" not in intervals("title", "accuracy", [low, high])
    assert scale_for([low, high], "accuracy").label == "accuracy"
    broken = scale_for([high], "accuracy")
    assert broken.label == f"accuracy (the axis starts at {broken.write(broken.low)})"
    assert 'class="axis break"' in intervals("title", "accuracy", [high])
    assert "the axis starts at" in intervals("title", "accuracy", [high])


def test_bins_of_few_rows_are_joined_and_have_intervals() -> None:
    """Seven rows of ten: a bin of 100 % between two others says nothing."""
    bins = [ReliabilityBin(at / 10, at / 10 + 0.1, at / 10 + 0.05, 0.9, 10) for at in range(10)]
    found = filled_bins(bins, 1)
    assert [each.rows for each in found] == [40, 60]
    assert found[0].confidence == pytest.approx(0.2)
    assert found[0].accuracy == wilson_interval(0.9, 40)
    assert [each.rows for each in filled_bins(bins, 2)] == [100]
    assert filled_bins(bins, 2)[0].accuracy == wilson_interval(0.9, 50)
    assert filled_bins([], 1) == []
    assert [each.rows for each in filled_bins([ReliabilityBin(0.9, 1.0, 0.95, 1.0, 3)], 1)] == [3]


def way(reason: str, tokens: float, accuracy: float, **more: Any) -> CostPoint:
    known = Interval(accuracy, accuracy - 0.01, accuracy + 0.01)
    return CostPoint(reason=reason, share_reasoned=0.5, tokens_generated=tokens, accuracy=known, **more)  # type: ignore[arg-type]


def test_only_the_ways_of_classifying_that_differ_are_shown() -> None:
    never, always = way("never", 0, 0.8), way("always", 40, 0.9)
    swept = [way("auto", tokens, 0.85, threshold=0.5) for tokens in range(20)]
    drawn = [way("always", 40 * samples, 0.9, samples=samples) for samples in (2, 4, 8)]
    assert few_ways([never, always, way("auto", 12, 0.89), *swept, *drawn]) == [
        never,
        way("auto", 12, 0.89),
        always,
        drawn[-1],
    ]
    assert few_ways([never, always, way("auto", 0, 0.8)]) == [never, always]
    assert few_ways([]) == []


def test_the_worst_label_comes_first_and_one_without_rows_last() -> None:
    labels = [LabelMetrics("a", 0.9, 1.0, 0.95, 10), LabelMetrics("b", 0, 0, 0, 0), LabelMetrics("c", 0.5, 0.5, 0.5, 8)]
    found = worst_first(labels)
    assert [line.metrics.label for line in found] == ["c", "a", "b"]
    assert found[1].recall == wilson_interval(1.0, 10)
    assert found[2].recall is None


def test_svg_attributes_and_text_are_escaped() -> None:
    made = tag("text", "<b>", class_='"x"', x=1.0)
    assert made == '<text class="&#34;x&#34;" x="1">&lt;b&gt;</text>'


def test_a_thinned_line_keeps_its_ends() -> None:
    assert thinned(range(3)) == [0, 1, 2]
    few = thinned(range(2000))
    assert (few[0], few[-1]) == (0, 1999)
    assert len(few) == len(set(few)) == 150


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formats.percent(0.9135), "91.3\u00a0%"),
        (formats.percent(None), "–"),
        (formats.points(-0.0153), "−1.5"),
        (formats.seconds(2.1e-5), "21\u00a0µs"),
        (formats.seconds(0.0), "0\u00a0s"),
        (formats.seconds(75), "1.2\u00a0min"),
        (formats.probability(0.998), ">0.99"),
        (formats.probability(1.0), "1.00"),
        (formats.p_value(1e-9), "<0.001"),
        (formats.spread([0.9]), "–"),
        (formats.known_to(1.0, 10), "72.2 to 100.0\u00a0%"),
        (formats.known_to(None, 10), "–"),
        (formats.known_to(1.0, 0), "–"),
        (formats.soft("a_<b>"), "a_<wbr>&lt;b&gt;"),
    ],
)
def test_numbers_are_written_as_people_read_them(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.slow
def test_plots_are_png_files_of_the_same_charts(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    comparison = a_comparison(EVIL[:2] + EVIL[5:])
    comparison["entries"] = [comparison["entries"][1] | {"name": "a/$b$"}, comparison["entries"][3]]
    paths = write_plots(tmp_path / "plots", Comparison.model_validate(comparison))
    names = [
        "accuracy",
        "learning-curve",
        "confusion-a-b-",
        "reliability-a-b-",
        "risk-coverage-a-b-",
        "cost-accuracy-a-b-",
    ]
    assert [path.stem for path in paths] == [*names, "confusion-majority"]
    for path in paths:
        head = path.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", head[16:24])
        assert min(width, height) > 200


def test_without_matplotlib_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="matplotlib") as caught:
        write_plots(tmp_path / "plots", Comparison.model_validate(a_comparison()))
    assert f"{install_extra('plots')} installs it" in caught.value.hint
    assert not (tmp_path / "plots").exists()
