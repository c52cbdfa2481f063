"""CSV and TSV files."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rir_mlx.data.columns import Column, find_columns
from rir_mlx.data.tables.table import Fault, Table
from rir_mlx.data.tables.text_files import decode, lines_of
from rir_mlx.errors import DataError

_SHORT, _KNOWN = 40, 10_000
"""Cells shorter than this are held once, as long as there are not too many different ones."""


@contextmanager
def long_fields(characters: int) -> Iterator[None]:
    """Let the csv module read fields of any length, for as long as it takes: its limit is the process's."""
    before = csv.field_size_limit(max(characters, 131_072))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def delimiter_of(header: str, path: Path) -> str:
    """The mark between cells, by the file's name and its first line."""
    if path.suffix.lower() != ".csv":
        return "\t"
    return next((mark for mark in ",;\t" if mark in header), ",")  # spreadsheets of many countries write semicolons


def csv_records(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, int, list[str] | Fault]]:
    """Each record with its first and last line. A record that is not CSV comes as a fault. Empty lines are skipped."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            record: list[str] | Fault = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = f"not valid CSV: {error}"
            if "unexpected end" in str(error):
                what = "a quotation mark opened here is never closed, so all that follows is one field"
            record = Fault(first, what)
        if record:
            yield first, reader.line_num, record


def read_csv(path: Path, columns: Sequence[Column], shown: str) -> Table:
    text, bad_lines = decode(path, shown)
    delimiter = delimiter_of(next(line for line in lines_of(text) if line.strip()), path)
    rows = array("L")
    faults: list[Fault] = []
    known: dict[str, str] = {}  # labels come again and again
    with long_fields(len(text)):
        everything = csv_records(lines_of(text), delimiter)
        head_first, head_last, header = next(everything)
        if isinstance(header, Fault):
            raise DataError(f"{shown}, line {head_first}: {header.what}.", hint="The first line must name the columns.")
        wanted = [header.index(name) for name in find_columns(header, columns, shown)]
        cells: tuple[list[str], ...] = tuple([] for _ in wanted)
        faults += [Fault(line, what) for line, what in bad_lines.items() if head_first <= line <= head_last]
        for first, last, record in everything:
            bad = next((line for line in bad_lines if first <= line <= last), None) if bad_lines else None
            if isinstance(record, Fault):
                faults.append(record)
            elif bad is not None:
                faults.append(Fault(first, bad_lines[bad]))
            elif len(record) != len(header):
                faults.append(Fault(first, wrong_length(record, header)))
            else:
                rows.append(first)
                for column, place in zip(cells, wanted, strict=True):
                    cell = record[place]
                    column.append(known.setdefault(cell, cell) if len(cell) < _SHORT and len(known) < _KNOWN else cell)
    if not rows and not faults:
        raise DataError(f"{shown} has a header but no rows.", hint="It needs a row for each text.")
    return Table(shown, rows, cells, (None,) * len(wanted), tuple(faults))


def wrong_length(record: Sequence[str], header: Sequence[str]) -> str:
    return f"{len(record):,} field{'' if len(record) == 1 else 's'} where the header has {len(header)}"
