"""Whole files classified: every row and cell survives."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from file_jobs import SMALL, Heard, answer, classify, make_rows, objects, table

from rir_mlx.classification.files import ClassifyFileOptions, classify_file
from rir_mlx.classification.scores import Prediction
from rir_mlx.data.tables.table import TableFormat
from rir_mlx.errors import DataError, UserError


def test_a_csv_keeps_its_cells_as_they_stand_and_gets_three_more(tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    raw = '\ufeff"id";text;note\r\n007;"two\r\nlines; and ""quotes""";"kept"\r\n\r\n8;plain;é\r\n'
    source.write_text(raw, encoding="utf-8", newline="")
    result = classify_file(source, target, classify, SMALL)
    first, second = answer('two\r\nlines; and "quotes"'), answer("plain")
    assert target.read_bytes().decode() == (
        '\ufeff"id";text;note;label;probability;reasoning\r\n'
        f'007;"two\r\nlines; and ""quotes""";"kept";{first.label};{first.probabilities[first.label]};'
        '"because ""two\r\nline"",\nas said"\r\n'
        f'8;plain;é;{second.label};{second.probabilities[second.label]};"because ""plain"",\nas said"\r\n'
    )
    assert (result.rows, result.classified, result.resumed) == (2, 2, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_a_csv_without_quotation_gets_no_more_cells_than_its_header(tmp_path: Path) -> None:
    """A delimiter in a reasoning began a sixth cell."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text('text,id\nhe said "hi,1\n', encoding="utf-8")

    def answers(texts: Sequence[str]) -> list[Prediction]:
        return [replace(found, reasoning="because, of\nthis") for found in classify(texts)]

    classify_file(source, target, answers, ClassifyFileOptions(form=TableFormat(quotes=False)))
    header, row = target.read_text(encoding="utf-8").splitlines()
    assert (len(header.split(",")), row.split(",")[4]) == (5, "because of this")
    assert len(row.split(",")) == 5


def test_jsonl_keeps_what_a_parser_would_change(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        '{"text": "a", "x": 1.10, "big": 12345678901234567890123, "half": "\\ud83d"}',
        '{"text":"b","y":{"z":[ ]} }',
    ]
    source.write_text("\n\n".join(lines), encoding="utf-8")
    classify_file(source, target, classify)
    out = target.read_text(encoding="utf-8").splitlines()
    assert out[0].startswith(lines[0][:-1] + ', "label": ')
    assert out[1].startswith('{"text":"b","y":{"z":[ ]}, "label": ')
    assert [row["label"] for row in objects(target)] == [answer("a").label, answer("b").label]
    assert list(objects(target)[1]) == ["text", "y", "label", "probability", "reasoning"]


@pytest.mark.parametrize("suffix", [".txt", ".parquet"])
def test_lines_and_parquet_come_out_as_jsonl(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / "out.jsonl"
    texts = ["a", "", "b ☺"]
    if suffix == ".txt":
        source.write_text("\n".join(texts), encoding="utf-8")
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"text": texts, "score": [1.5, float("nan"), None]}), source)
    classify_file(source, target, classify, SMALL)
    rows = objects(target)
    assert [(row["text"], row["label"]) for row in rows] == [
        ("a", answer("a").label),
        ("", None),
        ("b ☺", answer("b ☺").label),
    ]
    if suffix == ".parquet":
        assert [row["score"] for row in rows] == [1.5, None, None]


def test_another_format_than_the_sources_is_refused(tmp_path: Path) -> None:
    source = make_rows(tmp_path / "in.csv", 3)
    with pytest.raises(UserError, match=r"comes out as CSV(.|\n)*Name it out.csv"):
        classify_file(source, tmp_path / "out.jsonl", classify)
    with pytest.raises(UserError, match="is the file that is read"):
        classify_file(source, source, classify, ClassifyFileOptions(force=True))


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("text,label", ["predicted_label", "predicted_probability", "predicted_reasoning"]),
        ("text,reasoning,predicted_label", ["predicted2_label", "predicted2_probability", "predicted2_reasoning"]),
        ("text,Label", ["label", "probability", "reasoning"]),
    ],
)
def test_columns_of_the_same_name_are_never_lost(tmp_path: Path, header: str, names: list[str]) -> None:
    source, heard = tmp_path / "in.csv", Heard()
    source.write_text(header + "\n" + ",".join("abc"[: header.count(",") + 1]) + "\n", encoding="utf-8")
    classify_file(source, tmp_path / "out.csv", classify, SMALL, heard)
    (row,) = table(tmp_path / "out.csv")
    assert list(row) == header.split(",") + names
    assert list(row.values())[: header.count(",") + 1] == list("abc"[: header.count(",") + 1])
    assert any(names[0] in said for said in heard.said) == (names[0] != "label")


def test_a_key_of_a_late_json_row_clashes_too(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a"}\n{"text": "b", "probability": 5}\n', encoding="utf-8")
    classify_file(source, tmp_path / "out.jsonl", classify)
    rows = objects(tmp_path / "out.jsonl")
    assert rows[1]["probability"] == 5
    assert rows[0]["predicted_label"] == answer("a").label


def test_the_next_labels_and_their_probabilities(tmp_path: Path) -> None:
    options = ClassifyFileOptions(top_k=4, chunk=2)
    classify_file(make_rows(tmp_path / "in.csv", 3), tmp_path / "out.csv", classify, options)
    for row in table(tmp_path / "out.csv"):
        expected = sorted(answer(row["text"]).probabilities.items(), key=lambda pair: -pair[1])
        assert [(row["label"], float(row["probability"]))] == [(expected[0][0], pytest.approx(expected[0][1]))]
        for place in (2, 3):
            assert row[f"label_{place}"] == expected[place - 1][0]
            assert float(row[f"probability_{place}"]) == pytest.approx(expected[place - 1][1], abs=1e-6)
        assert row["label_4"] == row["probability_4"] == ""
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    classify_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", classify, ClassifyFileOptions(top_k=2))
    (row,) = objects(tmp_path / "out.jsonl")
    assert row["top"][0]["label"] == row["label"]
    assert len(row["top"]) == 2


def test_below_the_threshold_there_is_no_label_but_a_probability(tmp_path: Path) -> None:
    options = ClassifyFileOptions(threshold=0.55, chunk=7)
    result = classify_file(make_rows(tmp_path / "in.csv", 40), tmp_path / "out.csv", classify, options)
    rows = table(tmp_path / "out.csv")
    for row in rows:
        sure = max(answer(row["text"]).probabilities.values())
        assert float(row["probability"]) == pytest.approx(sure, abs=1e-6)
        assert (row["label"] == "") == (sure < 0.55) == (row["abstained"] == "true")
    assert 0 < result.abstained == sum(row["label"] == "" for row in rows) < 40
    assert result.labels.total() == 40 - result.abstained
    with pytest.raises(UserError, match="from 0 to 1"):
        ClassifyFileOptions(threshold=1.5)


def test_rows_without_a_text_keep_their_place_and_are_counted(tmp_path: Path) -> None:
    source, target, heard = tmp_path / "in.jsonl", tmp_path / "out.jsonl", Heard()
    given = [{"text": "a"}, {"text": " "}, {"n": 1}, {"text": 5}, {"text": None}, {"text": "b"}, {"text": 6}]
    source.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    result = classify_file(source, target, classify, ClassifyFileOptions(threshold=0.1, chunk=3), heard)
    rows = objects(target)
    assert [row["label"] is None for row in rows] == [False, True, True, True, True, False, True]
    assert rows[2] == {"n": 1, "label": None, "probability": None, "reasoning": None, "abstained": None}
    assert result.without_text == {"the text is empty": 1, "no text": 2, "the text is not a string": 2}
    assert "5 of 7 rows have no label" in heard.said[-1]


def test_a_file_without_any_text_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n1,\n2, \n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no row has a text in the column 'text': the text is empty \(2\)"):
        classify_file(tmp_path / "in.csv", tmp_path / "out.csv", classify)
    assert os.listdir(tmp_path) == ["in.csv"]


@pytest.mark.parametrize(
    ("name", "raw", "fault"),
    [
        ("in.csv", b"id,text\n1,a\n2\n3,c\n4,d,e\n", "row 3: 1 field where the header has 2\n  row 5: 3 fields"),
        ("in.csv", b"id,text\n1,a\n2,\xe9\n", "is not UTF-8 text (row 3: byte 0xE9"),
        ("in.csv", b'id,text\n1,a\n2,"b\n3,c\n', "row 3: a quotation mark opened here is never closed"),
        ("in.jsonl", b'{"text": "a"}\n{"text": \n[1]\n', "row 2: broken JSON at column"),
        ("in.jsonl", b'[{"text": "a"}]', "one JSON array"),
        ("in.csv", b"\xff\xfei\0d\0", "UTF-16"),
        ("in.csv", b"id,text\n", "has no rows"),
        ("in.csv", b"\n\n", "is empty"),
        ("in.csv", b"id,words\n1,a\n", "no column looks like the text"),
        ("in.xls", b"PK", "files ending in .xls cannot be read"),
    ],
)
def test_broken_rows_are_named_before_any_text_is_classified(tmp_path: Path, name: str, raw: bytes, fault: str) -> None:
    source = tmp_path / name
    source.write_bytes(raw)
    asked: list[str] = []

    def ask(texts: Sequence[str]) -> list[Prediction]:
        asked.extend(texts)
        return classify(texts)

    with pytest.raises(DataError) as raised:
        classify_file(source, tmp_path / f"out{source.suffix}", ask)
    assert fault in str(raised.value)
    assert asked == []
    assert os.listdir(tmp_path) == [name]
