"""Rows from files: what is read, and what is refused with its row."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from table_files import LABELS, SHARED, fault_of, load, pairs, some_rows, write_csv, write_jsonl, write_xlsx

from rir_mlx.data.loading import (
    load_triples,
    read_texts,
)
from rir_mlx.data.tables import sources
from rir_mlx.errors import DataError
from rir_mlx.recipe.schema import ReasoningSection


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.ndjson", "a.xlsx", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = [
        ("good, really", "joy"),
        ('she said "no"\nand left', "anger"),
        ("  æøå 😀 ", "joy"),
        ("ﬁne e\u0301", "anger"),
    ]
    path = tmp_path / name
    if name == "a.csv":
        write_csv(path, rows)
    elif name == "a.tsv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t").writerows([("text", "label"), *rows])
    elif name == "a.xlsx":
        write_xlsx(path, [("text", "label"), *rows])
    elif name == "a.parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), path)
    else:
        write_jsonl(path, [{"text": text, "label": label} for text, label in rows])
    assert pairs(load(path).train) == rows


def test_semicolons_of_a_spreadsheet_separate_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text;label\ngod, ja;joy\nnej;anger\n", encoding="utf-8")
    assert pairs(load(path).train) == [("god, ja", "joy"), ("nej", "anger")]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\nhi,joy\r\nno,anger\r\n")
    assert pairs(load(path).train) == [("hi", "joy"), ("no", "anger")]


def test_a_text_of_200000_characters_loads_and_the_csv_limit_is_put_back(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "word, " * 33_334
    data = load(write_csv(tmp_path / "a.csv", [(long, "joy"), ("short", "anger")]))
    assert data.train[0].text == long
    assert csv.field_size_limit() == before


def test_a_pattern_joins_its_files_in_order(tmp_path: Path) -> None:
    write_csv(tmp_path / "b.csv", [("second", "joy")])
    write_jsonl(tmp_path / "a.jsonl", [{"Sentence": "first", "Category": "anger"}])
    assert pairs(load(tmp_path / "?.*").train) == [("first", "anger"), ("second", "joy")]
    assert "no file fits the pattern" in fault_of(tmp_path / "*.parquet").what


def test_embedded_data_goes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "EMBEDDED", tmp_path)
    write_csv(tmp_path / "tickets.csv", some_rows(6))
    assert pairs(load("builtin:tickets.csv").train) == some_rows(6)
    assert "Did you mean 'tickets.csv'?" in fault_of("builtin:ticket.csv").what


def test_three_bad_rows_of_ten_thousand_are_named_together_with_their_lines(tmp_path: Path) -> None:
    rows = some_rows(10_000)
    rows[98] = ("", "joy")  # line 100: the header is line 1
    rows[4_998] = ("a text", "")
    rows[9_998] = ("a text", "jooy")
    error = fault_of(write_csv(tmp_path / "a.csv", rows), labels=list(LABELS))
    assert error.what.startswith(f"{tmp_path / 'a.csv'}: 3 of 10,000 rows cannot be used:")
    assert error.faults == (
        "row 100: the text is empty",
        "row 5000: the label is empty",
        "row 10000: the label 'jooy' is not one of the 3 labels. Did you mean 'joy'?",
    )
    assert "data.labels" in error.hint


def test_twenty_faults_are_shown_and_all_are_kept(tmp_path: Path) -> None:
    error = fault_of(write_csv(tmp_path / "a.csv", [("  ", "joy")] * 30 + some_rows(5)))
    assert len(error.faults) == 30
    assert error.what.count("the text is empty") == 20
    assert error.what.endswith("and 10 more")


def test_faults_of_all_parts_and_files_are_reported_at_once(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", [*some_rows(6), ("", "joy")])
    test = write_csv(tmp_path / "test.csv", [*some_rows(6), ("odd", "")])
    error = fault_of(train, test=str(test))
    assert error.faults == ("row 8: the text is empty", "row 8: the label is empty")
    assert str(train) in error.what
    assert str(test) in error.what
    both = fault_of(tmp_path / "*.csv")
    assert both.faults == (f"{test}, row 8: the label is empty", f"{train}, row 8: the text is empty")


def test_a_label_of_the_test_rows_that_train_does_not_know_is_a_fault(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", some_rows(6))
    test = write_csv(tmp_path / "test.csv", [("a", "joy"), ("b", "Joy")])
    assert fault_of(train, test=str(test)).faults == (
        "row 3: the label 'Joy' is not one of the 3 labels. Did you mean 'joy'?",
    )


def test_faulty_train_rows_do_not_let_the_test_rows_decide_the_labels(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", [*some_rows(6), ("", "joy")])
    validation = write_csv(tmp_path / "validation.csv", [("a", "other")])
    test = write_csv(tmp_path / "test.csv", [("a", "joy")])
    assert fault_of(train, validation=str(validation), test=str(test)).faults == ("row 8: the text is empty",)


def test_ragged_rows_are_counted_by_the_lines_an_editor_shows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        'text,label\n"two\nlines",joy\n\nno comma\none,two,three\n"quoted" badly,joy\nfine,anger\n', "utf-8"
    )
    assert fault_of(path).faults == (
        "line 5 (row 4 in a spreadsheet): 1 field where the header has 2",
        "line 6 (row 5 in a spreadsheet): 3 fields where the header has 2",
        "line 7 (row 6 in a spreadsheet): not valid CSV: ',' expected after '\"'",
    )


def test_a_quotation_mark_that_is_never_closed_is_named_where_it_opens(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\na,joy\n"b,anger\nc,joy\n', "utf-8")
    (fault,) = fault_of(path).faults
    assert fault.startswith("row 3: a quotation mark opened here is never closed")


def test_broken_json_lines_are_distinguished_from_lines_that_are_no_object(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        '{"text": "a", "label": "joy"}',
        '{"text": "b", "label": joy}',
        '["c", "joy"]',
        "",
        '{"text": 5, "label": "x"}',
    ]
    path.write_text("\n".join([*lines, '{"label": "joy"}', '{"text": "\\ud83d", "label": "joy"}']), "utf-8")
    error = fault_of(path)
    assert error.what.startswith(f"{path}: 5 of 6 rows")
    assert error.faults == (
        "row 2: broken JSON at column 24: Expecting value",
        'row 3: not a JSON object but ["c", "joy"]',
        "row 5: the text is not a string but 5",
        "row 6: no text",
        "row 7: the text holds half a character (a lone surrogate) at 0",
    )


def test_a_json_array_is_not_taken_for_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps([{"text": "a", "label": "joy"}], indent=1), "utf-8")
    assert "one JSON array" in fault_of(path).what


def test_a_line_in_another_encoding_is_named_with_byte_and_offset(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\nfine,joy\ncaf\xe9,anger\n" + "café,anger\n".encode())
    assert fault_of(path).faults == ("row 3: not UTF-8 text: byte 0xE9 at column 4",)
    path.write_bytes(b"\xef\xbb\xbftext,label\ncaf\xe9,joy\n")
    assert fault_of(path).faults == ("row 2: not UTF-8 text: byte 0xE9 at column 4",)
    texts = tmp_path / "a.txt"
    texts.write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(DataError, match=r"is not UTF-8 text \(row 2: byte 0xE9 at offset 8\)\. It looks like cp1252"):
        read_texts(texts, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n", "is empty"),
        (b"text,label\n\n", "has a header but no rows"),
        ("text,label\na,joy\n".encode("utf-16"), "is UTF-16 text"),
        ("text,label\na,joy\n".encode("utf-16-le"), "It looks like utf-16-le"),
        (b"text,label\na,joy\nb,joy\n", "all 2 rows"),
        (b"text,label\na,joy\nb\x00b,anger\n", "row 3: the text holds a NUL byte"),
        (b"text,label,text\na,joy,b\n", "2 columns are called 'text'"),
    ],
)
def test_files_that_hold_no_usable_table_say_why(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert message in fault_of(path).what


def test_a_parquet_file_that_is_none_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"text,label\na,joy\n")
    assert "cannot be read as Parquet" in fault_of(path).what


def test_a_path_that_is_not_there_names_the_closest_file(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", some_rows(6))
    error = fault_of(tmp_path / "trian.csv")
    assert f"data.train: there is no file {tmp_path / 'trian.csv'}. Did you mean 'train.csv'?" in error.what
    assert "there is no folder" in fault_of(tmp_path / "nowhere" / "a.csv").what


def test_a_folder_and_an_unknown_suffix_say_what_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.ods").write_bytes(b"PK")
    (tmp_path / "a.dta").write_bytes(b"?")
    for path in (tmp_path, tmp_path / "a.dta"):
        assert "Accepted: files ending in .csv, .tsv, .jsonl" in fault_of(path).hint
    assert "Save it as .xlsx, or the sheet as CSV" in fault_of(tmp_path / "a.ods").hint


def test_usual_column_names_are_found_whatever_their_case(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "a.csv", [(1, "x", "hello", "joy"), (2, "y", "no", "fear")], ("id", "Title", "TWEET", " Emotion")
    )
    assert pairs(load(path).train) == [("hello", "joy"), ("no", "fear")]


def test_a_column_that_is_missing_or_doubtful_lists_the_columns_and_the_key(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("a", "b", "joy")], ("tweet", "review", "label"))
    error = fault_of(path)
    assert "'tweet' and 'review' may each be the text. Columns: tweet, review, label." in error.what
    assert "data.text_column" in error.hint
    assert "Did you mean 'tweet'? Columns:" in fault_of(path, text_column="twet").what
    path = write_csv(tmp_path / "b.csv", [("a", "b")], ("text", "mood"))
    error = fault_of(path)
    assert "no column looks like the label. Columns: text, mood." in error.what
    assert "data.label_column" in error.hint


def test_labels_keep_the_order_and_the_descriptions_of_the_recipe(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", some_rows(6))
    assert load(path).labels == dict.fromkeys(sorted(LABELS), "")
    named = {"joy": "glad", "other": "", "fear": "afraid", "anger": ""}
    data = load(path, labels=named)
    assert list(data.labels.items()) == list(named.items())
    assert "no training row has the label 'other': take it out of data.labels if it is none" in data.notes


def test_numbers_as_labels_become_their_digits_with_a_note(tmp_path: Path) -> None:
    for path in (
        write_csv(tmp_path / "a.csv", [("a", 0), ("b", 10)]),
        write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": 10.0}]),
    ):
        data = load(path)
        assert pairs(data.train) == [("a", "0"), ("b", "10")]
        assert any("numbers without names (0, 10)" in note for note in data.notes)


def test_labels_that_differ_in_blanks_are_one_and_those_that_differ_in_capitals_are_kept(tmp_path: Path) -> None:
    data = load(write_csv(tmp_path / "a.csv", [("a", "joy"), ("b", " Joy"), ("c", "fear")]))
    assert set(data.labels) == {"joy", "Joy", "fear"}


def test_a_column_of_identifiers_is_not_taken_for_labels(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [(f"text {n}", f"id-{n}") for n in range(100)])
    assert "100 different labels in 100 rows" in fault_of(path).what


def test_texts_come_one_a_line_or_from_the_text_column(tmp_path: Path) -> None:
    lines = tmp_path / "a.txt"
    lines.write_bytes("\ufefffirst\r\n  second, \u2028still second\r\nthird".encode())
    assert read_texts(lines, None).texts == ["first", "  second, \u2028still second", "third"]
    table = write_csv(tmp_path / "a.csv", [("x", 'b\n"c"')], ("id", "utterance"))
    assert read_texts(table, None).texts == ['b\n"c"']
    assert read_texts(table, "id").texts == ["x"]
    assert read_texts(write_csv(tmp_path / "b.csv", [("x",)], ("anything",)), "anything").texts == ["x"]


def test_a_blank_line_among_texts_is_left_out_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("first\n\nthird\n \n", "utf-8")
    found = read_texts(path, None)
    assert found.texts == ["first", "third"]
    assert [(fault.where, fault.what) for fault in found.left_out] == [
        ("row 2", "the text is empty"),
        ("row 4", "the text is empty"),
    ]
    with pytest.raises(DataError, match=r"Did you mean 'a\.txt'\?"):
        read_texts(tmp_path / "b.txt", None)


@pytest.mark.skipif(not (SHARED / "emotion").is_dir(), reason="the real data are not here")
def test_emotion_has_16000_rows_and_six_labels() -> None:
    data = load(SHARED / "emotion" / "train.csv", validation=str(SHARED / "emotion" / "validation.csv"))
    assert (len(data.train), len(data.validation)) == (16_000, 2_000)
    assert list(data.labels) == ["anger", "fear", "joy", "love", "sadness", "surprise"]


@pytest.mark.skipif(not (SHARED / "reasoning").is_dir(), reason="the real data are not here")
def test_a_pattern_reads_both_files_of_human_explanations() -> None:
    data = load_triples(ReasoningSection(source=str(SHARED / "reasoning" / "*.jsonl"), max_samples=None), 0)
    assert (len(data.train), len(data.validation)) == (29_526 + 7_610 - 200, 200)
