from __future__ import annotations

import base64
import copy
import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from comparisons import EVIL, a_comparison, an_entry, an_example
from rir_cli.console import answered_lines, print_augmentation

from rir_mlx.evaluation.report.examples import Answer, Example
from rir_mlx.evaluation.report.page import render, write_report
from rir_mlx.evaluation.schema import Comparison


class _Page(HTMLParser):
    """Checks that elements close in the order in which they were opened, and collects what a test asks about."""

    VOID = frozenset({"meta", "br", "wbr", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sources: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.sources if self.open and self.open[-1] in ("script", "style") else self.text).append(data)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def page_of(values: dict[str, Any], examples: Sequence[Example] = ()) -> str:
    """The page of a comparison.json with these values."""
    return render(Comparison.model_validate(values), examples)


def _text(page: str) -> str:
    return " ".join(" ".join(_Page(page).text).split())


def _panels(page: str) -> list[str]:
    return re.findall(r'<article class="panel".*?</article>', page, re.DOTALL)


def test_the_page_holds_what_was_measured() -> None:
    text = _text(page_of(a_comparison(), [an_example()]))
    for said in (
        "+ Reasoning helped: qar is 1.5 points better than qa.",
        "Reasoning raised accuracy by 1.5 points.",
        "Use qar.",
        "16,000 training, 2,000 validation, 2,000 test rows, 1,934 of them clean",
        "66 test rows are near copies.",
        "92.5 % 91.5 to 93.5 %",  # accuracy
        "92.1–92.9 %",  # over the seeds
        "95 % intervals over the draw of test rows and of training seeds, not of training rows.",
        "−1.5 −2.5 to −0.5",  # against qa
        "not shown to be better than tf-idf",
        "4,812,332",
        "1.5 h",
        "83 ms",
        "temperature 1.31, 1.28, 1.40",
        "Thresholds for an accuracy of 95.0 %, and what they answer of the cleaned test rows, seed 0",
        "without a reasoning 0.912 612 58.7 % 96.1 % 95.1 to 97.1 % auto abstains 0 0.0 % –",
        "Figures here are of all test rows, with the 66 whose text is also that of a training or validation row; "
        "paired comparisons and what thresholds answer are of the cleaned ones alone.",
        "are over the draw of rows alone (Wilson), not of seeds.",
        "41.2 %",  # labels that change with a swapped reasoning
        "61 41 0.048 for qar",  # McNemar
        "14,880 93.0 %",
        "More labels are likely to help.",
        "trained on 25, 50 and 100 % of the training rows",
        "copying 641",
        "20 % to 80 % of its length",
        "Feeling great is joy.",
        "8d3f0c5a",
        "arms: [qa, qar]",
    ):
        assert said in text


def test_the_parts_stand_in_the_order_of_their_weight() -> None:
    page = page_of(a_comparison(), [an_example()])
    parts = ("verdict", "warnings", "figures", "curve", "details", "augmentation", "examples", "run")
    places = [page.index(f'class="{part}"' if part == "verdict" else f'id="{part}"') for part in parts]
    assert places == sorted(places)


def test_every_element_is_closed_and_no_id_stands_twice() -> None:
    page = _Page(
        page_of(a_comparison(), [an_example(outcome) for outcome in ("won", "lost", "both wrong", "both right")])
    )
    assert page.open == []
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names)) > 10


def test_nothing_of_the_users_becomes_markup() -> None:
    """Labels, names, texts and reasonings are whatever a file held."""
    evil = EVIL[0] + EVIL[1]
    comparison = a_comparison(EVIL) | {"verdict": evil, "warnings": [evil], "chosen": evil, "recommendation": evil}
    comparison["headline"]["text"] = evil
    comparison["run"] |= {"name": evil, "command": evil, "recipe": evil, "versions": {evil: evil}}
    comparison["augmentation"]["train"]["rejected"] = {evil: 3}
    for entry in comparison["entries"]:
        entry |= {"name": evil, "description": evil, "beats": [evil]}
    example = an_example(text=evil, label=evil, answers={evil: Answer(evil, 1.0, evil), "qa": Answer(evil, 0.5, evil)})
    page = _Page(page_of(comparison, [example]))
    plain = _Page(page_of(a_comparison(), [an_example()]))
    assert page.open == []
    assert page.sources == plain.sources  # the two scripts and the style, and nothing beside them
    assert len(page.named("script")) == 2
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert evil in "".join(page.text)
    assert "{{ 7 * 7 }}" in "".join(page.text)


def test_the_page_loads_nothing_and_its_policy_forbids_it() -> None:
    page = _Page(page_of(a_comparison(), [an_example(text="see https://example.org/x.png")]))
    assert not {"link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    assert not any(name in attributes for _, attributes in page.tags for name in ("src", "srcset", "action", "style"))
    links = [attributes["href"] or "" for attributes in page.named("a")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"url\(|@import|https?:", "".join(page.sources))
    policy = next(tag["content"] or "" for tag in page.named("meta") if tag.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for source in page.sources:  # a script whose text is not that of its hash would not run
        assert base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() in policy
    assert len(page.sources) == 3


def test_links_lead_to_panels_that_are_there() -> None:
    page = _Page(page_of(a_comparison()))
    names = {attributes.get("id") for _, attributes in page.tags}
    assert {(tag["href"] or "")[1:] for tag in page.named("a")} <= names


def test_tables_and_charts_can_be_read_aloud() -> None:
    page = _Page(page_of(a_comparison(), [an_example()]))
    assert all(tag.get("scope") for tag in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table"))
    assert all(tag.get("aria-label") or tag.get("aria-hidden") for tag in page.named("svg"))
    assert len(page.named("figcaption")) == len(page.named("figure"))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("calibration", "Calibration"),
        ("faithfulness", "Does the label follow"),
        ("per_class", "Label by label"),
        ("confusion", "Confusion matrix"),
        ("reliability", "Reliability"),
        ("risk_coverage", "Accuracy against coverage"),
        ("cost_curve", "Ways of classifying"),
        ("against", "Gained"),
        ("label_mass", "Before renormalising"),
    ],
)
def test_a_part_that_was_not_measured_is_left_out(key: str, said: str) -> None:
    comparison = a_comparison()
    whole = _panels(page_of(comparison))
    assert said in whole[1]
    absent = copy.deepcopy(comparison)
    absent["entries"][1][key] = None
    del comparison["entries"][1][key]
    assert said not in _panels(page_of(absent))[1]
    assert page_of(comparison) == page_of(absent)


def test_a_report_needs_no_baselines_no_augmentation_no_examples_and_one_seed_alone() -> None:
    missing = dict.fromkeys(("headline", "recommended", "recommendation", "chosen", "augmentation", "learning_curve"))
    comparison = a_comparison() | missing | {"verdict": "One arm.", "warnings": []}
    whole = comparison["entries"][0]
    kept = ("name", "kind", "description", "metrics")
    bare = {key: whole[key] for key in kept} | {"seeds": [0], "by_seed": {"accuracy": [0.91]}}
    page = page_of(comparison | {"entries": [bare]})
    assert "91.0 % 90.0 to 92.0 %" in _text(page)
    assert "Figures here are of" not in _text(page)
    assert "not of seeds" not in _text(page)
    headings = re.findall(r"<(?:h\d|th)\b[^>]*>(.*?)<", page)
    metrics = ["What", "Macro-F1", "Balanced accuracy", "MCC", "Log-loss", "Brier", "Calibration error", "Arms", "qa"]
    assert headings == [
        "emotion: did reasoning help?",
        "How good they are",
        *("What", "Accuracy", "Arms", "qa"),
        *metrics,
        "The run",
    ]
    assert _panels(page) == []


def test_numbers_that_are_not_finite_are_dashes() -> None:
    comparison = a_comparison()
    comparison["entries"][1]["metrics"]["mcc"] = {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    page = page_of(comparison)
    assert not re.search(r"\bnan\b", page)


@pytest.mark.slow
def test_77_labels_and_2000_long_examples_stay_under_five_megabytes() -> None:
    labels = tuple(f"a_long_name_of_a_banking_intent_{number}" for number in range(77))
    comparison = a_comparison(labels)
    comparison["entries"] += [an_entry(f"more-{number}", "control", 0.9, labels) for number in range(3)]
    outcomes = ("won", "lost", "both wrong", "both right")
    answers = {f"arm{number}": Answer("joy", 0.9, "y" * 600) for number in range(5)}
    made = [an_example(outcomes[number % 4], text="x" * 900) for number in range(2000)]
    page = page_of(comparison, [replace(each, answers={**each.answers, **answers}) for each in made])
    assert len(page.encode()) < 5_000_000
    assert page.count('<li class="example">') == 4 * 150
    assert "This page holds 600 of 2,000: at most 150 of each outcome" in _text(page)
    assert page.count('class="confusion crowded"') == 8


def test_long_texts_are_cut_and_the_page_says_so() -> None:
    page = _text(page_of(a_comparison(), [an_example(text="x" * 5000)]))
    assert "x" * 1200 + " […]" in page
    assert "x" * 1201 not in page
    assert "cut after 1,200 characters" in page
    assert "cut after" not in _text(page_of(a_comparison(), [an_example()]))


def test_write_report_writes_the_page(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    write_report(path, Comparison.model_validate(a_comparison()), [an_example()])
    assert path.read_text(encoding="utf-8") == page_of(a_comparison(), [an_example()])


def test_a_comparison_with_a_baseline_names_the_seeds_of_the_arms() -> None:
    """A baseline has one seed, and the others of its table were counted instead: 0, 2, 3."""
    comparison = a_comparison()
    baseline = comparison["entries"][1] | {"name": "tf-idf", "kind": "baseline", "seeds": [0]}
    comparison["run"]["seeds"] = [4, 7, 9]
    page = page_of(comparison | {"entries": [comparison["entries"][0], baseline]})
    table = page.split("McNemar")[1].split("</table>")[0]
    assert re.findall(r'<th scope="row">(\d+)</th>', table) == ["4", "7", "9"]


@pytest.mark.parametrize(
    ("seeds", "who", "of"), [([0], "this classifier is", "1 seed"), ([0, 1], "these 2 classifiers are", "2 seeds")]
)
def test_with_few_seeds_the_table_is_about_these_classifiers(seeds: list[int], who: str, of: str) -> None:
    """It said "better than majority" of one seed, as if the way of training were judged."""
    comparison = a_comparison()
    said = "comparisons are of these classifiers, not of ways of training."
    assert said not in _text(page_of(comparison))
    comparison["run"]["seeds"] = seeds
    for entry in comparison["entries"]:
        entry["seeds"] = seeds
    text = _text(page_of(comparison))
    assert f"With {of}, {said}" in text
    assert f"{who} better than majority" in text
    comparison["entries"][0]["beats"] = []
    assert f"{who} not shown to be better than majority" in _text(page_of(comparison))


def test_an_interval_that_is_too_narrow_is_said_to_be() -> None:
    """Macro-F1 stood under "95 % intervals" with many rare labels and with several labels a text, where it covers less:
    84 to 89 % of simulations, and 71 to 90 %."""
    comparison = a_comparison()
    said = "so the interval of macro-F1 is too narrow"
    for rare, is_said in ((2, False), (3, True)):
        for entry in comparison["entries"]:
            for place, label in enumerate(entry["per_class"] or ()):
                label["support"] = 4 if place < rare else 5
        text = _text(page_of(comparison))
        assert (f"{rare} of 6 labels have fewer than five test rows, {said}" in text) == is_said
        assert (said in text) == is_said
    scores = {name: {"value": 0.7, "low": 0.6, "high": 0.8} for name in ("micro_f1", "macro_f1", "jaccard")}
    for entry in comparison["entries"]:
        entry |= {"several": {"by_threshold": scores, "likeliest": scores, "thresholds": [[0.5] * 6]}}
    text = _text(page_of(comparison))
    assert said not in text
    assert "The interval of macro-F1 is too narrow: in a simulation of several labels a text" in text


def test_a_log_loss_that_is_left_out_is_explained() -> None:
    comparison = a_comparison()
    said = "No log-loss stands beside a baseline"
    assert said not in _text(page_of(comparison))
    comparison["entries"][-1]["metrics"]["log_loss"] = None
    assert said in _text(page_of(comparison))


def test_the_terminal_says_what_a_threshold_answers() -> None:
    values = a_comparison()
    values["entries"][1]["calibration"]["answered"][0]["threshold"] = 2.0
    lines = list(answered_lines(Comparison.model_validate(values)))
    assert lines[0] == (
        "qa with seed 0 answers 58.7 % of 1,934 clean test rows, 96.1 % (95.1 – 97.1) of them correctly, at its "
        "threshold for 95 % (evaluate.wanted_accuracy)."
    )
    assert not any(line.startswith("qar ") for line in lines), "it abstains on every text, and a warning says so"


@pytest.mark.parametrize(
    ("threshold", "applied", "said"),
    [
        (0.5, True, "Rejected below 0.500"),
        (None, True, "Too few texts a label for a threshold: none is rejected"),
        (0.5, False, "Measured of some rows; none is rejected by it"),
    ],
)
def test_mutual_information_states_a_threshold_only_where_it_rejects(
    threshold: float | None, applied: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    by_label = {"joy": {"reasonings": 9, "median": 1.25, "below": 2}}
    found = {"threshold": threshold, "pairs": 12, "applied": applied, "by_label": by_label}
    comparison = a_comparison()
    comparison["augmentation"] |= {"mutual_information": found}
    text = _text(page_of(comparison))
    assert said in text
    assert ("joy 9 1.250 2" in text) == said.startswith("Rejected")

    print_augmentation(comparison["augmentation"])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Mutual")]
    assert ("rejected below 0.5" in line) == said.startswith("Rejected")
