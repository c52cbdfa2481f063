"""Excel's workbooks are read by the rules of every other table."""

from __future__ import annotations

import csv
import json
import os
from datetime import date
from pathlib import Path
from zipfile import ZipFile

import openpyxl
import pytest
from commands import Run
from table_files import fault_of, load, write_xlsx

from rir_mlx.classification.files import classify_file
from rir_mlx.classification.scores import Prediction
from rir_mlx.data.audit.checks import audit
from rir_mlx.data.audit.scan import scan_sources
from rir_mlx.data.loading import read_texts
from rir_mlx.data.tables.row_streams import open_stream, outline
from rir_mlx.data.tables.table import wanted_text
from rir_mlx.errors import DataError
from rir_mlx.progress import Silent
from rir_mlx.recipe.schema import DataSection


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


def test_escapes_of_the_file_format_are_undone(tmp_path: Path) -> None:
    """Excel's `_x000D_` stayed in texts and labels."""
    rows = [
        ("text", "label"),
        ("two_x000D_\nlines", "_x0041_nger"),
        ("as _x005F_x000D_ is", "joy"),
        ("_xD83D__xDE00_", "joy_x0020_"),
        ("no_x00_ _xyz_", "joy"),
    ]
    data = load(write_xlsx(tmp_path / "a.xlsx", rows)).train
    assert [row.text for row in data] == ["two\nlines", "as _x000D_ is", "😀", "no_x00_ _xyz_"]
    assert [row.label for row in data] == ["Anger", "joy", "joy", "joy"]
    error = fault_of(write_xlsx(tmp_path / "b.xlsx", [("text", "label"), ("_xD83D_", "joy"), ("_x0000_", "fear")]))
    assert "row 2: the text holds half a character" in error.what
    assert "row 3: the text holds a NUL byte" in error.what


def test_hidden_rows_and_columns_are_read_and_told(tmp_path: Path) -> None:
    """Rows that a filter hid were trained on without a word."""
    rows = [("text", "label", "more"), *[(f"text {n}", ("joy", "anger")[n % 2], n) for n in range(20)]]
    path = write_xlsx(tmp_path / "a.xlsx", rows)
    book = openpyxl.load_workbook(path)
    for number in (3, 4, 7, 100):
        book["rows"].row_dimensions[number].hidden = True
    for letter in "BC":
        book["rows"].column_dimensions[letter].hidden = True
    book.save(path)
    data = load(path)
    assert len(data.train) == 20
    assert data.notes[:2] == (f"{path}: 3 rows are hidden, and read", f"{path}: hidden columns are read: label")
    wanted = wanted_text(path, None)
    assert open_stream(path, wanted).notes() == (f"{path}: 3 rows are hidden, and read",)


EMPTY_ROWS = ([None, None, None], ["", "", ""], [" ", " \t", ""])


def test_empty_rows_are_left_out_and_counted_in_a_workbook_and_its_export_alike(tmp_path: Path) -> None:
    """A row of blanks, or of empty cells in quotation marks, was a row without a label that training refused."""
    rows = [["text", "label", "more"], *([f"text {n}", ("joy", "anger")[n % 2], "x"] for n in range(6))]
    with_empty = [*rows[:3], *EMPTY_ROWS, *rows[3:], *EMPTY_ROWS, [" ", "", ""]]
    files = [write_xlsx(tmp_path / "a.xlsx", with_empty)]
    for name, quoting in (("plain.csv", csv.QUOTE_MINIMAL), ("quoted.csv", csv.QUOTE_ALL)):
        files.append(tmp_path / name)
        with files[-1].open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=quoting).writerows(with_empty)  # type: ignore[arg-type]
            file.write("\n\n")
    for path in files:
        data = load(path)
        assert [(row.text, row.label) for row in data.train] == [tuple(row[:2]) for row in rows[1:]]
        assert f"{path}: 7 empty rows left out" in data.notes
        stream = open_stream(path, wanted := wanted_text(path, None))
        assert outline(path, stream, wanted).rows == 6
        assert f"{path}: 7 empty rows left out" in stream.notes()


def test_a_line_of_blanks_is_left_out_and_counted(tmp_path: Path) -> None:
    """In a table of one column it was left out in silence."""
    for header, cells in (("text", ""), ("text,label", ",joy")):
        (tmp_path / "a.csv").write_text(f"{header}\na{cells}\n  \n\n\u00a0\nb{cells}\n", "utf-8")
        found = read_texts(tmp_path / "a.csv", None)
        assert (found.texts, found.notes) == (["a", "b"], [f"{tmp_path / 'a.csv'}: 2 empty rows left out"])


def test_an_empty_text_in_quotation_marks_is_a_row_where_it_is_the_only_column(tmp_path: Path) -> None:
    """Programs write the marks so that no reader takes it for an empty line."""
    (tmp_path / "a.csv").write_text('text\na\n""\n\nb\n', "utf-8")
    found = read_texts(tmp_path / "a.csv", None)
    assert (found.texts, [fault.row for fault in found.left_out]) == (["a", "b"], [3])


def test_a_formula_without_a_saved_value_is_said_to_be_one(tmp_path: Path) -> None:
    """A workbook that a program wrote had 30 times "no text", or was "empty"."""
    rows = [("text", "label", "n"), *[(f"=A{n}&B{n}" if n % 2 else f"text {n}", "joy", f"={n}") for n in range(2, 8)]]
    error = fault_of(write_xlsx(tmp_path / "a.xlsx", rows))
    assert "3 cells, the first in row 3, hold a formula without a saved value" in error.what
    assert "spreadsheet program and save it" in error.hint
    only = write_xlsx(tmp_path / "b.xlsx", [("text", "label"), *[("=1", "=2")] * 3])
    assert "6 cells, the first in row 2, hold a formula" in fault_of(only).what
    alone = write_xlsx(tmp_path / "c.xlsx", [("=1", "=2")])
    assert "formula without a saved value" in fault_of(alone).what
    unused = [("text", "label", "n"), ("a", "joy", "=1"), ("b", "anger", "=2")]
    assert len(load(write_xlsx(tmp_path / "d.xlsx", unused)).train) == 2


def test_a_formula_whose_saved_value_is_the_empty_text_is_an_empty_cell(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "a.xlsx", [("text", "label"), ("a", "joy"), ("=IF(1,A9)", "joy"), ("c", "anger")])
    rewritten(path, "xl/worksheets/sheet1.xml", b'<c r="A3">', b'<c r="A3" t="str">')
    assert "row 3: no text" in fault_of(path).what


@pytest.mark.filterwarnings("ignore:File contains an invalid specification")
def test_a_workbook_of_another_kind_or_with_its_rows_on_a_hidden_sheet_is_not_called_empty(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "a.xlsx", [("text", "label"), ("a", "joy"), ("b", "anger")], before=["cover"])
    book = openpyxl.load_workbook(path)
    book["rows"].sheet_state = "hidden"
    book.save(path)
    assert "the sheet 'rows' is hidden, and no other has cells" in fault_of(path).what
    strict = write_xlsx(tmp_path / "b.xlsx", [("text", "label"), ("a", "joy"), ("b", "anger")])
    for kind in (b"spreadsheetml/2006/main", b"officeDocument/2006/relationships"):
        own = b"http://purl.oclc.org/ooxml/" + kind.replace(b"2006/", b"")
        rewritten(strict, "xl/workbook.xml", b"http://schemas.openxmlformats.org/" + kind, own)
    assert "Strict Open XML" in fault_of(strict).what


def rewritten(path: Path, name: str, old: bytes, new: bytes) -> None:
    """Replace bytes in a file of a workbook."""
    with ZipFile(path) as book:
        files = {entry: book.read(entry) for entry in book.namelist()}
    assert old in files[name]
    files[name] = files[name].replace(old, new)
    with ZipFile(path, "w") as book:
        for entry, data in files.items():
            book.writestr(entry, data)


def test_a_name_that_begins_with_a_tilde_may_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~data.csv` ended with "Could not determine home directory"."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    rows = [("text", "label"), ("a", "joy"), ("b", "fear")]
    write_xlsx(tmp_path / "~$book.xlsx", rows)
    assert [row.label for row in load("~$book.xlsx").train] == ["joy", "fear"]
    with pytest.raises(DataError, match=r"there is no file ~nobody-here\.csv"):
        load("~nobody-here.csv")
    write_xlsx(tmp_path / "home" / "mine.xlsx", rows)
    assert len(load("~/mine.xlsx").train) == 2


def test_a_pattern_leaves_out_the_lock_files_of_open_workbooks(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "book.xlsx", [("text", "label"), ("a", "joy"), ("b", "fear")])
    (tmp_path / "~$book.xlsx").write_bytes(b"\x05somebody")
    assert len(load(str(tmp_path / "*.xlsx")).train) == 2


def test_the_advice_for_a_workbook_is_a_command_that_takes_it(tmp_path: Path) -> None:
    """`check FILE --write clean.csv` does not take a workbook apart."""
    rows = [("text", "label"), ("a", "joy"), (None, "fear"), ("c", "fear")]
    hint = fault_of(write_xlsx(tmp_path / "a.xlsx", rows)).hint
    assert "--write" not in hint
    assert "data.on_bad_rows=skip leaves them out" in hint
    section = DataSection.model_validate({"train": str(tmp_path / "a.xlsx"), "val_size": 0, "test_size": 0})
    [finding] = audit(scan_sources(section, 0)).of("error")
    assert "--write" not in finding.hint
    (tmp_path / "a.csv").write_text("text,label\na,joy\n,fear\nc,fear\n", "utf-8")
    assert "--write clean.csv" in fault_of(tmp_path / "a.csv").hint


def test_what_is_no_plain_file_is_not_said_to_be_missing(tmp_path: Path) -> None:
    fifo, folder = tmp_path / "pipe.csv", tmp_path / "folder.csv"
    os.mkfifo(fifo)
    folder.mkdir()
    assert "pipe.csv is no plain file" in fault_of(fifo).what
    for path, words in ((fifo, "is no plain file"), (folder, "is a folder")):
        with pytest.raises(DataError, match=words):
            open_stream(path, wanted_text(path, None))
        with pytest.raises(DataError, match=words):
            read_texts(path, None)
