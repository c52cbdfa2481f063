"""Cells that are read but may not mean what they say: missing values, several labels in one, labels that look alike."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from rir_mlx.data.audit.checks import audit
from rir_mlx.data.audit.findings import Finding
from rir_mlx.data.audit.scan import scan_sources
from rir_mlx.data.labels.spelling import alike, doubtful, label_of
from rir_mlx.recipe.schema import DataSection


def findings(path: Path, rows: list[tuple[str, str]], **keys: object) -> dict[str, Finding]:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    found = scan_sources(DataSection.model_validate({"train": str(path)} | keys), 0)
    return {finding.name: finding for finding in audit(found).findings}


def plain(count: int = 40) -> list[tuple[str, str]]:
    return [(f"text number {n}", ("joy", "fear")[n % 2]) for n in range(count)]


@pytest.mark.parametrize(
    "cell",
    [
        *("\\N", "(null)", "<null>", "[NULL]", "<missing>", "#N/A N/A", "1.#IND", "-1.#QNAN", "#SPILL!", "#CALC!"),
        *("#GETTING_DATA", "#NV", "#WERT!", "Err:502", "Err:508"),
    ],
)
def test_what_a_program_writes_for_a_missing_label_is_none(cell: str) -> None:
    """MySQL's and PostgreSQL's `\\N` or a failed formula became a label: "No problems found"."""
    with pytest.raises(ValueError, match="the label is missing"):
        label_of(cell)
    assert label_of(cell, {cell: ""}) == cell


def test_labels_that_may_be_missing_values_are_doubtful_and_emojis_are_not() -> None:
    odd = ["?", "-", "--", ".", "…", "n.a.", "N.A.", "unknown", "Unknown", "inf", "-inf", "NIL", "(Null)"]
    assert doubtful(odd) == odd
    assert doubtful(["joy", "1", "😀", "❤", "❤️", "👨‍👩‍👧", "#️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "C++", "да", "喜"]) == []
    assert doubtful(["joy", "''"]) == ["''"]
    assert doubtful(["*", "**", "***"]) == doubtful(["-", "+"]) == []


@pytest.mark.parametrize("text", ["nan", "NULL", " None ", "N/A", "#REF!", "\\N", "Err:522"])
def test_a_text_that_stands_for_a_missing_value_is_a_warning(tmp_path: Path, text: str) -> None:
    """Rows with the text `nan` were trained on without a word."""
    found = findings(tmp_path / "a.csv", [*plain(), (text, "joy"), ("none of it, N/A", "fear")])
    assert (found["missing texts"].severity, found["missing texts"].count) == ("warning", 1)
    assert [place.row for place in found["missing texts"].examples[0].places] == [42]
    assert "missing texts" not in findings(tmp_path / "b.csv", plain())


def test_labels_on_several_lines_of_a_cell_are_told(tmp_path: Path) -> None:
    """`joy` and `fear`, one a line as Alt+Enter writes them, became the label `joy fear`, unsaid."""
    rows = [*plain(), *[(f"both {n}", "joy\nfear") for n in range(12)], ("ends", "joy\n")]
    found = findings(tmp_path / "a.csv", rows)["combined labels"]
    assert (found.severity, found.count) == ("warning", 12)
    assert r"labels of several lines, which are read as one: 'joy\nfear' (12)" in found.what
    named = findings(tmp_path / "a.csv", rows, labels=["joy", "fear", "joy fear"])
    assert "combined labels" not in named


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("don't know", "don’t know"),
        ('a "b"', "a “b”"),
        ("follow-up", "follow–up"),
        ("follow-up", "follow\u2011up"),
        ("joy", "j\u043ey"),
        ("A", "\u0410"),
        ("OK", "\u039f\u039a"),
        ("\u2764", "\u2764\ufe0f"),
        ("joy", "joy\u3164"),
        ("fear", "fear\u034f"),
        ("-1", "\u22121.0"),
    ],
)
def test_labels_that_a_reader_takes_for_one_are_told(one: str, other: str) -> None:
    assert alike([one, "another", other]) == [[one, other]]


def test_labels_of_one_script_that_differ_stay_apart() -> None:
    assert alike(["НЕТ", "нет", "да", "ναι", "όχι", "a-b", "a b", "ab"]) == [["НЕТ", "нет"]]


def test_a_letter_of_another_script_is_named_by_its_code_point(tmp_path: Path) -> None:
    found = findings(tmp_path / "a.csv", [*plain(), *[(f"odd {n}", "j\u043ey") for n in range(10)]])
    assert "'joy' (20), 'j\u043ey' (10, with U+043E)" in found["labels that look alike"].what
