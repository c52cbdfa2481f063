"""Excel's workbooks are read by the rules of every other table."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import openpyxl
import pytest
from commands import Run
from table_files import fault_of, load, write_xlsx

from rir_mlx.classification.files import classify_file
from rir_mlx.classification.scores import Prediction
from rir_mlx.progress import Silent


def test_bad_rows_are_named_by_the_number_that_the_program_shows(tmp_path: Path) -> None:
    rows = [("text", "label"), ("good", "joy"), (None, None), ("", "joy"), ("bad", None), (7, "anger"), ("b", "anger")]
    error = fault_of(write_xlsx(tmp_path / "a.xlsx", rows))
    assert "3 of 5 rows cannot be used:" in error.what
    for line in ("row 4: no text", "row 5: no label", "row 6: the text is not a string but 7"):
        assert line in error.what


def test_the_first_sheet_with_cells_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "a.xlsx", [("text", "label"), ("a", "joy"), ("b", "anger")] * 1, before=["empty"])
    assert [row.number for row in load(path).train] == [2, 3]
    book = openpyxl.load_workbook(path)
    book.create_sheet("more").append(["other"])
    book.save(path)
    assert f"{path}: the sheet 'rows' is read; 1 more with cells are not" in load(path).notes


def test_numbers_and_truth_values_are_labels_as_in_any_table(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "a.xlsx", [("text", "label"), ("a", 1), ("b", 1.0), ("c", True), ("d", "TRUE")])
    assert [row.label for row in load(path).train] == ["1", "1", "true", "true"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "is empty"),
        ([("text", "label")], "has columns but no rows"),
        ([("a", "a"), (1, 2)], "2 columns are called"),
        ([("Report of the week",), ("text", "label"), ("a", "joy")], "Columns: Report of the week, column B."),
    ],
)
def test_a_sheet_without_rows_is_an_error(tmp_path: Path, rows: list[tuple[object, ...]], words: str) -> None:
    assert words in fault_of(write_xlsx(tmp_path / "a.xlsx", rows)).what


def test_what_is_no_workbook_says_how_to_make_one(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"PK\x03\x04 and then nothing")
    error = fault_of(path)
    assert "cannot be read as an Excel workbook" in error.what
    assert "save it again" in error.hint


def test_a_workbook_is_classified_into_lines_with_its_own_cells(tmp_path: Path) -> None:
    """Cells below no name, or right of the last one, were not in the file that came out; other sheets went unsaid."""
    rows = [("day", "text", None, "n"), (date(2026, 1, 2), "a", "x", 1.5, "y"), (None, None, None, 2)]
    source, said = write_xlsx(tmp_path / "in.xlsx", rows), Silent()
    book = openpyxl.load_workbook(source)
    book.create_sheet("more").append(["other"])
    book.save(source)
    said.say = (notes := []).append  # type: ignore[method-assign]

    def classify(texts: object) -> list[Prediction]:
        return [Prediction("joy", {"joy": 0.9, "anger": 0.1}, 1.0) for _ in list(texts)]  # type: ignore[call-overload]

    classify_file(source, tmp_path / "out.jsonl", classify, progress=said)
    first, second = (json.loads(line) for line in (tmp_path / "out.jsonl").open(encoding="utf-8"))
    assert (first["day"][:10], first["text"], first["n"], first["label"]) == ("2026-01-02", "a", 1.5, "joy")
    assert (first["column C"], first["column E"]) == ("x", "y")
    assert (second["text"], second["label"]) == (None, None)
    assert notes == [f"note: {source}: the sheet 'rows' is read; 1 more with cells are not"]


def test_init_and_check_take_a_workbook(rir: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rir_mlx.hub_access.hub_answers", lambda: False)
    rows = [(f"i feel {label} number {n}", label) for n in range(20) for label in ("joy", "anger")]
    write_xlsx(Path("mine.xlsx"), [("text", "label"), *rows])
    assert rir("init", "--yes").code == 0
    result = rir("check", "mine.yaml")
    assert (result.code, "40 rows" in result.out) == (0, True), result.err
