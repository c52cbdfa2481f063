"""Tables that other tools silently misread: each is read correctly or refused by row, and its rows add up."""

from __future__ import annotations

import json
import time
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from rir_mlx.classification.files import classify_file
from rir_mlx.data.audit.checks import audit
from rir_mlx.data.audit.scan import scan_sources
from rir_mlx.data.loading import load_labelled, load_triples, read_texts
from rir_mlx.data.tables.row_streams import Record, open_stream, outline
from rir_mlx.data.tables.table import Fault, TableFormat, wanted_text
from rir_mlx.errors import DataError
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.recipe.schema import DataSection

CLEAN = [(f"text number {n}", ("joy", "fear")[n % 2]) for n in range(40)]


def write(path: Path, rows: list[tuple[str, ...]], mark: str = ",", encoding: str = "utf-8") -> Path:
    lines = [mark.join(("text", "label")), *(mark.join(row) for row in rows)]
    path.write_bytes("".join(line + "\n" for line in lines).encode(encoding))
    return path


def section(path: Path, **keys: Any) -> DataSection:
    sizes = {"val_size": 0, "test_size": 0, "max_samples": None}
    return DataSection.model_validate({"train": str(path)} | sizes | keys)


def load(path: Path, **keys: Any) -> list[tuple[str, str]]:
    return [(row.text, row.label) for row in load_labelled(section(path, **keys), 0).train]


def warnings(path: Path, **keys: Any) -> list[str]:
    return [finding.what for finding in audit(scan_sources(section(path, **keys), 0)).of("warning")]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_quotation_that_swallows_rows_is_refused_row_by_row(tmp_path: Path, suffix: str) -> None:
    """A text that began with a quotation mark, and one that ended with one seven rows later: 33 of 40 rows, exit 0."""
    rows = list(CLEAN)
    rows[4], rows[11] = ('"what a day, she said' if suffix == ".tsv" else '"what a day', "joy"), ('it is 55"', "joy")
    path = write(tmp_path / f"a{suffix}", rows, "\t" if suffix == ".tsv" else ",")
    with pytest.raises(DataError) as raised:
        load(path)
    assert raised.value.what.startswith(f"{path}: 8 of 40 rows cannot be used")
    assert raised.value.faults[0].startswith("row 6: a quotation mark opened here is closed in row 13")
    assert "data.quotes=false" in raised.value.hint
    found = scan_sources(section(path), 0)
    assert (len(found.parts["train"]), len(found.refused)) == (32, 8)
    assert load(path, quotes=False) == rows
    stream = list(open_stream(path, wanted_text(path, None)).scan())
    assert (sum(isinstance(row, Record) for row in stream), sum(isinstance(row, Fault) for row in stream)) == (32, 8)


def test_a_tsv_file_whose_marks_belong_to_the_texts_is_read_whole_and_says_so(tmp_path: Path) -> None:
    rows = [*CLEAN, ('"oh', "joy"), ('"well" she said', "fear"), ('"quoted"', "joy"), ('55"', "joy")]
    path = write(tmp_path / "a.tsv", rows, "\t")
    assert load(path) == rows
    assert any(
        "quotation marks are read as part of the texts" in note for note in load_labelled(section(path), 0).notes
    )


def test_texts_of_several_lines_are_no_swallowed_rows_and_are_counted(tmp_path: Path) -> None:
    rows = [*CLEAN, ('"Dear all,\nI leave, sadly\nthanks"', "fear"), ('"Hi,\nbye"', "joy")]
    path = write(tmp_path / "a.csv", rows)
    assert load(path)[-2:] == [("Dear all,\nI leave, sadly\nthanks", "fear"), ("Hi,\nbye", "joy")]
    assert any("2 rows hold line breaks: 5 lines" in note for note in load_labelled(section(path), 0).notes)
    path = write(tmp_path / "b.csv", rows[:-1])
    assert any("1 row holds line breaks: 3 lines" in note for note in load_labelled(section(path), 0).notes)


def test_a_malformed_quotation_costs_its_own_row_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [*CLEAN, ('"never closed', "joy"), ("after", "joy")])
    found = scan_sources(section(path), 0)
    assert [(fault.number, fault.what) for fault in found.refused] == [
        (42, "a quotation mark opened here is never closed")
    ]
    assert found.parts["train"][-1].text == "after"


def test_a_refused_row_of_several_lines_counts_every_line(tmp_path: Path) -> None:
    """Three lines in one quotation were one refused row of 38, where the file has 40 lines."""
    rows = list(CLEAN)
    rows[4], rows[6] = ('"what a day', "joy"), ('it is 55", they say', "joy")
    path = write(tmp_path / "a.csv", rows)
    found = scan_sources(section(path), 0)
    assert (len(found.parts["train"]), [fault.number for fault in found.refused]) == (37, [6, 7, 8])
    assert found.refused[0].what == "3 fields where the header has 2"
    assert found.refused[1].what == "inside the quotation that row 6 opens"
    stream = [row.row for row in open_stream(path, wanted_text(path, None)).scan() if isinstance(row, Fault)]
    assert stream == [6, 7, 8]


def test_lines_are_counted_as_the_file_has_them_not_as_unicode_does(tmp_path: Path) -> None:
    """A line separator in a text (U+2028, a vertical tab) moved the numbers of the faults after it."""
    rows = list(CLEAN)
    rows[4], rows[5], rows[11] = ('"what\u2028a\x0bday', "joy"), ("a\x85b", "fear"), ('it is 55"', "joy")
    found = scan_sources(section(write(tmp_path / "a.csv", rows)), 0)
    assert [fault.number for fault in found.refused] == list(range(6, 14))


def test_blanks_around_a_quoted_cell_are_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text, label\n"a, b", "joy"\n"c" , "fear"\n')
    assert load(tmp_path / "a.csv") == [("a, b", "joy"), ("c", "fear")]


@pytest.mark.parametrize("empty", [";;", ";", ";;;", ""])
def test_a_line_of_delimiters_is_no_row(empty: str, tmp_path: Path) -> None:
    """Spreadsheets write empty rows so; each was an error of its own. The numbers of others stay."""
    path = tmp_path / "a.csv"
    path.write_text(f"text;label;note\n{empty}\nglad;joy;\n{empty}\n;;seen\nsad;sadness;\n{empty}\n{empty}\n")
    found = scan_sources(section(path), 0)
    assert [row.text for row in found.parts["train"]] == ["glad", "sad"]
    assert [fault.number for fault in found.refused] == [5], "a row with a note and no text is one"
    assert [row.row for row in open_stream(path, wanted_text(path, None)).scan()] == [3, 5, 6]


def test_spellings_of_one_label_are_one_label_with_a_warning(tmp_path: Path) -> None:
    rows = [(text, spelling) for (text, _), spelling in zip(CLEAN, ["1", "1.0", "0", "True", "TRUE"] * 8, strict=True)]
    path = write(tmp_path / "a.csv", rows)
    assert {label for _, label in load(path)} == {"1", "0", "true"}
    [merged] = [what for what in warnings(path) if "spelled in several ways" in what]
    assert "'1' from '1' (8), '1.0' (8)" in merged
    assert {label for _, label in load(path, labels=["1", "0", "True"])} == {"1", "0", "True"}


def test_labels_that_look_alike_or_hold_commas_are_warnings(tmp_path: Path) -> None:
    odd = [
        ("a", "JOY "),
        ("b", '"joy, relief"'),
        ("c", "none"),
        ("d", "01"),
        ("e", "1"),
        ("f", "fear\u200b"),
        ("g", "1e0"),
    ]
    found = warnings(write(tmp_path / "a.csv", [*CLEAN, *odd]))
    assert any("differ only in letter case or form: 'joy' (20), 'JOY' (1)" in what for what in found)
    assert any("differ only in letter case or form: '01' (1), '1' (1), '1e0' (1)" in what for what in found)
    assert any("form: 'fear' (20), 'fear\\u200b' (1)" in what for what in found)
    assert any("hold a comma: 'joy, relief' (1)" in what for what in found)
    assert any("'none', which may stand for a missing one: 1" in what for what in found)


@pytest.mark.parametrize("missing", ["nan", "None", "null", "N/A", "NaN", "<NA>", "#REF!"])
def test_what_programs_write_for_a_missing_label_is_no_label_unless_it_is_named(tmp_path: Path, missing: str) -> None:
    path = write(tmp_path / "a.csv", [*CLEAN, ("a", missing)])
    with pytest.raises(DataError, match=r"row 42: the label is missing") as raised:
        load(path)
    assert "data.labels" in raised.value.hint
    assert load(path, labels=["joy", "fear", missing])[-1] == ("a", missing)


@pytest.mark.parametrize("mark", [";", "|", "\t", ","])
def test_the_delimiter_is_detected_from_the_rows_a_comma_in_the_header_or_not(tmp_path: Path, mark: str) -> None:
    header = "id;text, as written;label".replace(";", mark) if mark != "," else 'id,"text, as written",label'
    lines = [header, *(f"{n}{mark}{text}{mark}{label}" for n, (text, label) in enumerate(CLEAN))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    assert load(tmp_path / "a.csv", text_column="text, as written") == CLEAN
    with pytest.raises(DataError, match="They are separated by") as raised:
        load(tmp_path / "a.csv")
    assert "data.delimiter" in raised.value.hint


def test_a_delimiter_that_excel_declares_or_the_recipe_names_is_used(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", list(CLEAN), "#")
    assert load(tmp_path / "a.csv", delimiter="#") == CLEAN
    (tmp_path / "b.csv").write_text("sep=;\ntext;label\na, b;joy\nc;fear\n")
    assert load(tmp_path / "b.csv") == [("a, b", "joy"), ("c", "fear")]
    stream = open_stream(tmp_path / "b.csv", wanted_text(tmp_path / "b.csv", None))
    assert stream.header_line(["new"]) == "sep=;\ntext;label;new\n"
    (tmp_path / "c.csv").write_bytes("\ufeffsep=;\rtext;label\ra, b;joy\rc;fear\r".encode())
    assert load(tmp_path / "c.csv") == [("a, b", "joy"), ("c", "fear")]


@pytest.mark.parametrize(
    ("encoding", "guess"), [("cp1252", "cp1252"), ("utf-16", "utf-16"), ("utf-16-le", "utf-16-le")]
)
def test_another_encoding_is_one_error_with_a_guess_that_can_be_set(tmp_path: Path, encoding: str, guess: str) -> None:
    rows = [(f"thé café “là-bas” déjà vu {n}", label) for n, (_, label) in enumerate(CLEAN)]
    path = write(tmp_path / "a.csv", rows, encoding=encoding)
    with pytest.raises(DataError) as raised:
        load(path)
    assert f"data.encoding={encoding}" in raised.value.hint
    assert raised.value.faults == ()
    with pytest.raises(DataError, match="not UTF-8"):
        open_stream(path, wanted_text(path, None))
    assert load(path, encoding=encoding) == rows
    wanted = wanted_text(path, None, TableFormat(encoding=encoding))
    assert outline(path, open_stream(path, wanted), wanted).rows == 40
    with pytest.raises(DataError, match="is not ascii text: after row 0"):
        load(path, encoding="ascii")


@pytest.mark.parametrize(
    ("content", "override", "said"),
    [
        ("prompt;reply;thought\ncafé;oui;parce que\n".encode("cp1252"), "encoding=cp1252", "reasoning.encoding=cp1252"),
        (b"question#answer#reasoning\na#b#c\n", "delimiter=#", "set reasoning.delimiter to it"),
        (b'question,answer,reasoning\na,b,"c" d\n', "quotes=false", "set reasoning.quotes=false"),
    ],
)
def test_triples_are_read_as_the_hint_of_their_fault_says(
    tmp_path: Path, content: bytes, override: str, said: str
) -> None:
    path = tmp_path / "triples.csv"
    path.write_bytes(content)
    keys = [f"reasoning.source={path}", "reasoning.val_size=0", "reasoning.max_samples=null"]
    keys += ["reasoning.answer_column=reply", "reasoning.reasoning_column=thought"] if b"reply" in content else []
    with pytest.raises(DataError) as raised:
        load_triples(load_recipe(None, keys).reasoning, 0)
    assert said in raised.value.hint
    assert len(load_triples(load_recipe(None, [*keys, f"reasoning.{override}"]).reasoning, 0).train) == 1


def test_the_hints_about_a_file_to_classify_name_options_of_that_command(tmp_path: Path) -> None:
    def hint_of(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as raised:
            read_texts(tmp_path / name, None)
        return raised.value.hint

    assert "Set --encoding cp1252 " in hint_of("a.csv", "text\ncafé au lait\n".encode("cp1252"))
    assert "Set --text-column to one of them" in hint_of("b.csv", b"a,b\n1,2\n")
    assert "set --delimiter to it" in hint_of("c.csv", b"a,b\n1,2\n")
    assert "set --no-quotes" in hint_of("d.csv", b'text\n"c" d\n')
    assert hint_of("e.md", b"text").endswith(".parquet, .txt.")
    with pytest.raises(DataError) as raised:
        read_texts(tmp_path / "f.csv", None)
    assert raised.value.hint.endswith(".parquet, .txt.")


def test_utf_32_is_not_taken_for_utf_16(tmp_path: Path) -> None:
    """Its byte order mark begins with that of UTF-16, which was offered."""
    path = write(tmp_path / "a.csv", CLEAN, encoding="utf-32")
    with pytest.raises(DataError, match="is UTF-32 text") as raised:
        load(path)
    assert "data.encoding=utf-32" in raised.value.hint
    assert load(path, encoding="utf-32") == CLEAN


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_header_of_a_file_that_was_joined_to_another_is_no_row(tmp_path: Path, mark: str) -> None:
    """`cat a.csv b.csv` gave a row `text` with the label `label`."""
    path = write(tmp_path / "a.csv", [*CLEAN[:9], (f"{mark}text", "label"), *CLEAN[9:]])
    with pytest.raises(DataError, match="1 of 41 rows cannot be used") as raised:
        load(path)
    assert raised.value.faults == ("row 11: the header again, as where two files were joined",)
    assert load(path, on_bad_rows="skip") == CLEAN
    stream = list(open_stream(path, wanted_text(path, None)).scan())
    assert [row.row for row in stream if isinstance(row, Fault)] == [11]


def test_marks_behind_a_backslash_are_said_to_need_doubling(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [*CLEAN, ('"she said \\"hi\\" twice"', "joy")])
    with pytest.raises(DataError, match="1 of 41 rows") as raised:
        load(path)
    assert "has a backslash before it; it must be doubled" in raised.value.faults[0]


def test_columns_whose_names_could_mislead_are_shown_in_quotation_marks(tmp_path: Path) -> None:
    """A comma, a line break or a byte order mark in a name was not to be seen in the list of columns."""
    (tmp_path / "a.csv").write_text('"body, raw","te\nxt",\ufeffx,plain\n1,2,3,4\n', encoding="utf-8")
    with pytest.raises(DataError) as raised:
        load(tmp_path / "a.csv")
    assert "Columns: 'body, raw', 'te\\nxt', '\\ufeffx', plain." in raised.value.what


def test_a_latin_1_file_of_200000_rows_is_refused_in_seconds(tmp_path: Path) -> None:
    """Each row was looked up in the list of all broken lines: 6 s for 20,000 rows, and a hundred times that here."""
    (tmp_path / "a.csv").write_bytes(b"text,label\n" + b"caf\xe9 au lait,joy\n" * 200_000)
    begun = time.perf_counter()
    with pytest.raises(DataError, match="It looks like cp1252"):
        load(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes("text,label\n€,joy\n".encode() + b"caf\xe9 au lait,joy\n" * 20_000)
    with pytest.raises(DataError, match="20,000 of 20,001 rows"):
        load(tmp_path / "a.csv")
    assert time.perf_counter() - begun < 5


def test_a_key_that_comes_twice_in_a_json_object_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": "joy"}\n{"text": "b", "text": "c", "label": "fear"}\n')
    with pytest.raises(DataError, match="row 2: JSON that cannot be read: the key 'text' comes twice"):
        load(tmp_path / "a.jsonl")


@pytest.mark.parametrize("cell", ['{"joy": 2, "fear": 1, "joy": 3}', "{'joy': 2, 'fear': 1, 'joy': 3}"])
def test_a_label_that_comes_twice_in_a_cell_of_votes_is_a_fault(tmp_path: Path, cell: str) -> None:
    """The last of its votes was taken, and the others were lost without a word."""
    rows = [{"text": "a", "label": {"joy": 1, "fear": 2}}, {"text": "b", "label": cell}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="row 2: the label looks like an object, and the key 'joy' comes twice"):
        load(tmp_path / "a.jsonl", soft_labels=True)


def test_a_key_that_comes_twice_in_a_list_of_labels_is_a_fault(tmp_path: Path) -> None:
    """The cell was taken for the name of one label."""
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": cell, "label": cell}) + "\n" for cell in ("a;b", '[{"a": 1, "a": 2}]'))
    )
    with pytest.raises(DataError, match=r"row 2: .*the key 'a' comes twice"):
        load(tmp_path / "a.jsonl", label_separator=";")


def write_parquet(path: Path, **columns: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return path


def test_a_parquet_file_with_a_binary_column_comes_out_with_it_in_base64(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", text=["a", "b"], raw=[b"\x00\xff", None])
    rows = [json.loads(row.raw) for row in open_stream(path, wanted_text(path, None)).scan() if isinstance(row, Record)]
    assert rows == [{"text": "a", "raw": "AP8="}, {"text": "b", "raw": None}]


@pytest.mark.parametrize("texts", [[b"ab", b"\xff"], [date(2026, 1, 2), None], [1, 2]])
def test_what_training_refuses_as_a_text_is_classified_as_none(tmp_path: Path, texts: list[Any]) -> None:
    """A column of bytes was classified as its Base64, and one of dates as their digits."""
    path = write_parquet(tmp_path / "a.parquet", text=texts, label=["joy", "fear"])
    with pytest.raises(DataError, match="row 1: the text is not a string but"):
        load(path)
    with pytest.raises(DataError, match="no row has a text in the column 'text': the text is not a string"):
        classify_file(path, tmp_path / "out.jsonl", lambda texts: [])
    assert not list(tmp_path.glob("out*"))


def test_numbers_of_parquet_are_the_labels_that_their_digits_are_in_csv(tmp_path: Path) -> None:
    import numpy as np

    for values, labels in (
        (np.array([0.1, 1], np.float32), ["0.1", "1"]),
        (np.array([0.1, 0.3], np.float16), ["0.1", "0.3"]),
        ([Decimal("1.00"), Decimal("0.50")], ["1", "0.50"]),
        ([10**18 + 1, 0], ["1000000000000000001", "0"]),
    ):
        path = write_parquet(tmp_path / "a.parquet", text=["a", "b"], label=values)
        assert [label for _, label in load(path)] == labels
        write(tmp_path / "a.csv", [("a", str(values[0])), ("b", str(values[1]))])
        assert [label for _, label in load(tmp_path / "a.csv")] == labels


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"PK\x03\x04\x14\0", "an Excel workbook or a ZIP archive"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"PAR1\x15\0", "a Parquet file"),
    ],
)
def test_a_file_named_after_text_that_is_none_is_called_by_what_it_is(tmp_path: Path, start: bytes, words: str) -> None:
    """The hint was to set an encoding named ENCODING."""
    for name, keys in (("a.csv", {}), ("a.jsonl", {"encoding": "cp1252"})):
        (tmp_path / name).write_bytes(start + b"\x94 rest")
        with pytest.raises(DataError, match=f"is no text: it is .*{words}"):
            load(tmp_path / name, **keys)


def test_a_folder_of_save_to_disk_says_how_to_write_it_as_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    for name in ("state.json", "dataset_info.json"):
        (folder / name).write_text("{}")
    with pytest.raises(DataError, match="was written by `save_to_disk`") as raised:
        load(folder)
    assert "load_from_disk" in raised.value.hint


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        *[("=1+1", "'=1+1"), ("@me", "'@me"), ("-5", "-5"), ("-x", "'-x"), ("a", "a"), (" =1", "' =1")],
        *[("＝1", "'＝1"), ("\u200b+1", "'\u200b+1"), ("a - b", "a - b"), ("'=1", "'=1")],
    ],
)
def test_new_cells_are_no_formulas_to_a_spreadsheet(tmp_path: Path, cell: str, written: str) -> None:
    path = write(tmp_path / "a.csv", list(CLEAN))
    safe, plain = (open_stream(path, wanted_text(path, None), safe=safe) for safe in (True, False))
    assert safe.extended("a,joy", {"reasoning": cell}) == f"a,joy,{written}\n"
    assert plain.extended("a,joy", {"reasoning": cell}) == f"a,joy,{cell}\n"
