"""The report in a real browser: any two side by side, search over all rows, and nothing out of reach on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from comparisons import a_comparison, an_example
from serving.browsers import Page, chromium

from rir_mlx.evaluation.report.examples import Answer
from rir_mlx.evaluation.report.page import write_report
from rir_mlx.evaluation.schema import Comparison

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 rows: qar wins 10 over qa, loses 10, and tf-idf is right in all of them."""
    outcomes = ("won", "lost", "both wrong", "both right")
    examples = []
    for number in range(40):
        example = an_example(outcomes[number % 4], text=f"row {number}, a text about word{number % 8}")
        examples.append(replace(example, answers={**example.answers, "tf-idf": Answer("joy", 0.7)}))
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, Comparison.model_validate(a_comparison()), examples)
    return path.as_uri()


def totals(page: Any) -> list[str]:
    return [chip.inner_text() for chip in page.query_selector_all("#outcomes .total")]


def shown(page: Any) -> list[str]:
    return [row.inner_text() for row in page.query_selector_all(".example") if row.is_visible()]


def test_any_two_stand_side_by_side(browser: Any, report: str) -> None:
    with Page(browser, report) as page:
        assert totals(page) == ["10", "10", "10", "10"]
        assert "only qar is correct" in page.inner_text(".group[data-outcome='won'] .meaning")
        page.select_option("#second", label="tf-idf")
        assert totals(page) == ["20", "0", "0", "20"]
        assert "only tf-idf is correct" in page.inner_text(".group[data-outcome='won'] .meaning")
        assert all("tf-idf" in row and "qar" not in row for row in shown(page))
        page.select_option("#second", label="qa")  # which is the first one already
        assert page.input_value("#first") != page.input_value("#second")


def test_a_search_goes_over_all_outcomes_and_counts_them(browser: Any, report: str) -> None:
    with Page(browser, report) as page:
        page.click("#outcomes .chip[data-outcome='won']")
        page.fill("#search", "word3")
        page.locator("#found", has_text=re.compile("^5 of the 40 rows")).wait_for()
        assert len(shown(page)) == 5
        assert all("word3" in row for row in shown(page))


def test_a_desktop_report_is_short_and_starts_with_the_headline(browser: Any, report: str) -> None:
    """It was 9,663 pixels tall, with the whole verdict in large letters."""
    with Page(browser, report, viewport={"width": 1280, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollHeight") < 5500
        sizes = page.evaluate(
            """['.headline', '.verdict'].map((part) =>
                parseFloat(getComputedStyle(document.querySelector(part)).fontSize))"""
        )
        assert sizes[0] > 1.3 * sizes[1]
        assert sizes[1] == 16


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_every_column_can_be_reached(browser: Any, report: str, scheme: str) -> None:
    with Page(browser, report, viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        beyond = page.evaluate(
            """() => [...document.querySelectorAll('.frame')].filter((frame) => frame.clientWidth).filter((frame) => {
                frame.scrollLeft = frame.scrollWidth;
                const last = frame.querySelector('thead tr > *:last-child') || frame.querySelector('td:last-child');
                return last.getBoundingClientRect().right > frame.getBoundingClientRect().right + 1;
            }).map((frame) => frame.getAttribute('aria-label'))"""
        )
        assert beyond == []
