"""Whatever a writer makes of some rows comes back row for row, or is refused: property tests."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rir_mlx.data.cells import checked_text
from rir_mlx.data.columns import Column
from rir_mlx.data.labels.spelling import label_of
from rir_mlx.data.tables.quoting import split_records
from rir_mlx.data.tables.row_streams import CsvStream, Record, open_stream
from rir_mlx.data.tables.sources import read_file
from rir_mlx.data.tables.table import Fault, Wanted, wanted_text
from rir_mlx.errors import DataError

COLUMNS = [Column("text", "data.text_column", None), Column("label", "data.label_column", None)]
LABELS = st.sampled_from(["joy", "fear", "a, b", "1"])
TEXTS = st.text(alphabet=st.sampled_from("ab \"\t\n\r,;|'é\\joy"), min_size=1, max_size=14)
"""A small alphabet, so that the signs that matter come often, and labels in texts too."""
ROWS = st.lists(st.tuples(TEXTS, LABELS), min_size=1, max_size=6)
QUICK = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read_back(path: Path) -> list[tuple[str, str]] | None:
    """The rows of a file; None if it is refused, whole or by rows that add up to those of the file."""
    try:
        table = read_file(path, Wanted(COLUMNS, path.name))
    except DataError:
        return None
    return None if table.faults else list(zip(*table.cells, strict=True))


@QUICK
@given(
    rows=ROWS,
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_rows_of_the_csv_module_come_back_or_are_refused(
    rows: list[tuple[str, str]], delimiter: str, quoting: int, end: str, tmp_path: Path
) -> None:
    path = tmp_path / ("a.tsv" if delimiter == "\t" else "a.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
        writer.writerows([("text", "label"), *rows])
    assert read_back(path) in (None, rows)


@QUICK
@given(rows=ROWS)
def test_rows_of_pyarrow_come_back_or_are_refused(rows: list[tuple[str, str]], tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    table = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
    pyarrow.csv.write_csv(table, tmp_path / "a.csv")
    assert read_back(tmp_path / "a.csv") in (None, rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read_back(tmp_path / "a.parquet") == rows


@QUICK
@given(rows=ROWS, delimiter=st.sampled_from(",;\t"))
def test_rows_of_pandas_come_back_or_are_refused(rows: list[tuple[str, str]], delimiter: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows, columns=["text", "label"])
    path = tmp_path / ("a.tsv" if delimiter == "\t" else "a.csv")
    frame.to_csv(path, sep=delimiter, index=False)
    assert read_back(path) in (None, rows)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    assert read_back(tmp_path / "a.jsonl") == rows


def test_a_carriage_return_that_pandas_leaves_bare_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\nfine,joy\n\ra,joy\nb,fear\n")
    table = read_file(tmp_path / "a.csv", Wanted(COLUMNS, "a.csv"))
    assert table.faults == (Fault(3, "a carriage return in the middle of a line"),)


@QUICK
@given(text=st.text(alphabet=st.sampled_from('ab",\n\r é'), max_size=40))
def test_every_line_of_any_file_is_read_or_refused(text: str, tmp_path: Path) -> None:
    """The lines of rows and of faults are those of the file: none with a letter is passed over, whatever the quotation
    marks."""
    lines = list(io.StringIO(text, newline=""))
    counted: list[int] = []
    for record in split_records(lines, ",", quotes=True):
        counted += range(record.first, record.last + 1)
    filled = [number for number, line in enumerate(lines, 1) if line.strip(' ,"\r\n')]
    assert sorted(set(counted)) == counted
    assert set(filled) <= set(counted)


@QUICK
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_records_are_those_of_the_csv_module(rows: list[tuple[str, str]]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    ours = [record.cells for record in split_records(_lines(file.getvalue()), ",", quotes=True)]
    assert ours == [list(row) for row in rows]


def _lines(text: str) -> Iterator[str]:
    yield from io.StringIO(text, newline="")


@QUICK
@given(rows=ROWS, suffix=st.sampled_from([".csv", ".tsv"]))
def test_streamed_and_loaded_rows_are_the_same(rows: list[tuple[str, str]], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",").writerows([("text", "label"), *rows])
    wanted = Wanted(COLUMNS, path.name)
    table, stream = read_file(path, wanted), open_stream(path, wanted)
    streamed = list(stream.scan())
    assert [found.row for found in streamed if isinstance(found, Fault)] == sorted({f.row for f in table.faults})
    cells = [(row.cells["text"], row.cells["label"]) for row in streamed if isinstance(row, Record)]
    assert cells == list(zip(*table.cells, strict=True))


@QUICK
@given(texts=st.lists(TEXTS.filter(str.strip), min_size=1, max_size=5), cell=st.text(max_size=12))
def test_extended_rows_keep_their_cells_and_hold_the_new_one(texts: list[str], cell: str, tmp_path: Path) -> None:
    path, out = tmp_path / "a.csv", tmp_path / "out.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *enumerate(texts)])
    stream = open_stream(path, wanted_text(path, None))
    assert isinstance(stream, CsvStream)
    rows = [row for row in stream.scan() if isinstance(row, Record)]
    lines = [stream.header_line(["new"]), *(stream.extended(row.raw, {"new": cell}) for row in rows)]
    out.write_text("".join(lines), encoding="utf-8", errors="replace", newline="")
    with out.open(encoding="utf-8", newline="") as file:
        written = list(islice(csv.reader(file), 1, None))
    safe = cell.encode("utf-8", "replace").decode()
    assert [line[:2] for line in written] == [[row.cells["id"], row.cells["text"]] for row in rows]
    assert all(line[2] in (safe, f"'{safe}") for line in written)


@QUICK
@given(value=st.one_of(st.text(max_size=8), st.integers(), st.floats(), st.booleans(), st.none()))
def test_a_label_is_its_own_label(value: object) -> None:
    """Reading what was read changes nothing, so that a label that came out can go in again."""
    try:
        label = label_of(value)
    except ValueError:
        return
    assert label_of(label) == label
    assert checked_text(label, "label") == label
    assert label == " ".join(label.split())
