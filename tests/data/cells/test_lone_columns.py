"""Files whose first line may be a text, and files that are no table at all."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rir_mlx.data.loading import read_texts
from rir_mlx.data.tables.row_streams import open_stream, outline
from rir_mlx.data.tables.table import wanted_text
from rir_mlx.errors import DataError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def lone_column(path: Path, lines: list[str]) -> Path:
    match path.suffix:
        case ".xlsx":
            book = openpyxl.Workbook()
            for line in lines:
                book.active.append([line])
            book.save(path)
        case ".parquet":
            pq.write_table(pa.table({lines[0]: lines[1:]}), path)
        case ".jsonl":
            path.write_text("".join(json.dumps({lines[0]: line}) + "\n" for line in lines[1:]), "utf-8")
        case _:
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([line] for line in lines)
    return path


def streamed(path: Path, column: str | None = None) -> int:
    wanted = wanted_text(path, column)
    return outline(path, open_stream(path, wanted), wanted).rows


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx"])
def test_the_first_text_of_a_lone_column_is_not_taken_for_its_name(tmp_path: Path, suffix: str) -> None:
    """A table of texts without a header lost its first one, unsaid."""
    path = lone_column(tmp_path / f"a{suffix}", ["i feel great", "i am afraid"])
    for read in (lambda: read_texts(path, None), lambda: streamed(path)):
        with pytest.raises(DataError, match="the first line names the column; it is 'i feel great'") as raised:
            read()
        assert "set --text-column to it" in raised.value.hint
        assert ".txt" in raised.value.hint
    assert read_texts(path, "i feel great").texts == ["i am afraid"]
    assert streamed(path, "i feel great") == 1


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx", ".parquet", ".jsonl"])
def test_a_lone_column_with_a_name_needs_no_option(tmp_path: Path, suffix: str) -> None:
    names = ["Text", "tweet", *(["anything"] if suffix in (".parquet", ".jsonl") else [])]
    for name in names:
        path = lone_column(tmp_path / f"{name}{suffix}", [name, "i am afraid"])
        assert read_texts(path, None).texts == ["i am afraid"]
        assert streamed(path) == 1


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".jsonl", ".parquet", ".xlsx"])
@pytest.mark.parametrize(
    ("start", "words"),
    [
        (LFS, "it is a Git LFS pointer"),
        (b"\xef\xbb\xbf\n <!DOCTYPE HTML>\n<html><body>text,label</body></html>\n", "it is an HTML page"),
        (b"<html lang='en'>\n", "it is an HTML page"),
        (b'<?xml version="1.0"?>\n<rows/>\n', "it is an XML file"),
    ],
)
def test_a_pointer_or_a_page_is_not_classified_line_by_line(
    tmp_path: Path, suffix: str, start: bytes, words: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(start)
    for read in (lambda: read_texts(path, None), lambda: streamed(path)):
        with pytest.raises(DataError, match=words) as raised:
            read()
        assert raised.value.hint


def test_texts_that_begin_like_a_page_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("version 2 of <html>\n<htmlx> is no tag\n", "utf-8")
    assert len(read_texts(path, None).texts) == 2


def test_comments_in_front_of_a_page_are_passed_over_one_by_one(tmp_path: Path) -> None:
    """A pattern took time that doubled with each of them."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"<!---->" * 400 + b"\ntext\ni am afraid\n")
    with pytest.raises(DataError, match="the first line names the column"):
        read_texts(path, None)
    path.write_bytes(b"<!-- saved -->\n" * 9 + b"<!DOCTYPE html>\n<html>\n")
    with pytest.raises(DataError, match="it is an HTML page"):
        read_texts(path, None)


def test_texts_that_are_pages_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"<html><body>buy now</body></html>\n<html><body>hello</body></html>\n")
    assert len(read_texts(path, None).texts) == 2


@pytest.mark.parametrize("name", ["texts", "review_text", "query", "text_en", "emails"])
def test_a_lone_column_may_have_a_name_much_like_the_usual_ones(tmp_path: Path, name: str) -> None:
    assert read_texts(lone_column(tmp_path / "a.csv", [name, "i am afraid"]), None).texts == ["i am afraid"]
