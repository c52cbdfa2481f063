"""Tables read a row at a time, and each row written back as it stood, with more columns at its end.

For files of any length: memory holds a row, never the table. The rules are those of tables in memory. Nothing here
knows what the new columns mean.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from rir_mlx.data.columns import check_header, find_columns, find_in_header, taken_apart
from rir_mlx.data.tables.delimited import DelimitedFile
from rir_mlx.data.tables.json_lines import json_records
from rir_mlx.data.tables.quoting import is_number, quoted
from rir_mlx.data.tables.table import (
    TEXT_FILES,
    Fault,
    Wanted,
    advice,
    first_line,
    missing_file,
    refuse,
    unreadable_kind,
)
from rir_mlx.data.tables.text_files import check_encoding, not_utf8, open_lines, refuse_pages
from rir_mlx.data.tables.typed_files import Sheet, python_values, read_sheet
from rir_mlx.errors import DataError, Failure

_MOST_FAULTS = 1000
_BOM = "\ufeff"
_PARQUET_ROWS = 4096
_FORMULA = re.compile(r"[\s\u200b\ufeff]*[=+@＝＋－＠-]|[\t\r\n]")
"""What a spreadsheet takes for the start of a formula, in full width and behind blanks too (https://owasp.org/www-community/attacks/CSV_Injection)."""


class Record(NamedTuple):
    """A row: its number as the user finds it, how it stands in the file, and its cells by column, of the types that
    they have there."""

    row: int
    raw: str
    cells: Mapping[str, Any]


class Stream(Protocol):
    """A file of rows, and how rows of its kind are written."""

    @property
    def suffix(self) -> str:
        """The suffix of the files that `header` and `extended` make: .csv, .tsv or .jsonl."""
        ...

    def scan(self) -> Iterator[Record | Fault]:
        """The rows from the first on, at each call. Raises DataError if the file cannot be read at all."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What the user should know about how the file is read."""
        ...

    def header_line(self, names: Sequence[str]) -> str:
        """What comes before the rows when they get the new columns `names`."""
        ...

    def extended(self, raw: str, values: Mapping[str, Any]) -> str:
        """A row with more cells, and its line's end. None is an empty cell or null."""
        ...


@dataclass(frozen=True)
class Outline:
    """A file read through once. `digest` is the SHA-256 of its bytes; `stamp` changes when the file does."""

    rows: int
    columns: tuple[str, ...]
    text_columns: tuple[str, ...]
    digest: str
    stamp: tuple[int, ...]


def open_stream(path: Path, wanted: Wanted, *, safe: bool = True) -> Stream:
    """The rows of a CSV, TSV, JSONL, Excel, Parquet or text file (a text a line); the last three are written as JSONL.
    `safe` writes new CSV and TSV cells so that no spreadsheet takes them for formulas.

    Raises DataError if the file is missing, of another kind, or in another encoding."""
    if not path.is_file():
        raise missing_file(path)
    suffix = path.suffix.lower()
    if suffix not in TEXT_FILES:
        raise unreadable_kind(path, wanted)
    if suffix == ".parquet":
        return JsonStream(lambda: _scan_parquet(path))
    if suffix == ".xlsx":
        sheet = read_sheet(path, str(path))
        used = find_in_header(sheet.header, taken_apart(wanted.columns), str(path))
        sheet.check_saved(str(path), used)
        return JsonStream(lambda: _scan_sheet(sheet), sheet.notes(str(path), used))
    check_encoding(path, wanted)
    if suffix in (".csv", ".tsv"):
        return CsvStream(path, wanted, safe=safe)
    return JsonStream(lambda: _scan_lines(path, wanted) if suffix == ".txt" else _scan_json(path, wanted))


def outline(path: Path, stream: Stream, wanted: Wanted) -> Outline:
    """Read all rows once. Raises DataError with the faults of the file, the first thousand at most, or if the text
    column is missing."""
    before = stamp(path)
    rows, faults = 0, list[Fault]()
    columns: dict[str, None] = {}
    for record in stream.scan():
        if isinstance(record, Fault):
            faults.append(record)
            if len(faults) == _MOST_FAULTS:
                break
        else:
            rows += 1
            columns.update(dict.fromkeys(record.cells))
    total = rows + len({fault.row for fault in faults})
    refuse([(str(path), total, faults)], advice((fault.what for fault in faults), wanted.settings))
    if not rows:
        raise DataError(f"{path} has no rows.", hint="It needs a row for each text.")
    found = find_columns(list(columns), taken_apart(wanted.columns), str(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    whole = Outline(rows, tuple(columns), tuple(found), digest, before)
    check_unchanged(path, whole)
    return whole


def stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file is written or replaced: device, inode, size and time of change."""
    found = path.stat()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def check_unchanged(path: Path, outline: Outline) -> None:
    """Raises Failure if the file was changed since it was read through."""
    try:
        same = stamp(path) == outline.stamp
    except OSError:
        same = False
    if not same:
        raise Failure(f"{path} was changed while it was read.", hint="Run the same command again.")


class CsvStream:
    """Rows come out as they stand, with quotation marks, delimiter, line ends and byte order mark. A file in another
    encoding comes out as UTF-8."""

    def __init__(self, path: Path, wanted: Wanted, *, safe: bool) -> None:
        self.path, self.safe = path, safe
        self.suffix = path.suffix.lower()
        self.file = DelimitedFile(lambda: open_lines(path, wanted.form), self.suffix, wanted)
        self.file.places()
        self.file.survey()
        with path.open("rb") as file:
            self.bom = _BOM if file.read(3) == _BOM.encode() else ""
        self.notes = self.file.notes

    def scan(self) -> Iterator[Record | Fault]:
        header = self.file.header
        for record in self.file.rows():
            if isinstance(record.cells, Fault):
                yield record.cells
            else:
                yield Record(record.first, record.raw, dict(zip(header, record.cells, strict=True)))

    def header_line(self, names: Sequence[str]) -> str:
        declaration = self.file.declaration + self.file.newline if self.file.declaration else ""
        return self.bom + declaration + self._joined(self.file.header_raw, names)

    def extended(self, raw: str, values: Mapping[str, Any]) -> str:
        return self._joined(raw, [self._cell(value) for value in values.values()])

    def _joined(self, raw: str, cells: Iterable[str]) -> str:
        mark = self.file.delimiter
        written = [quoted(cell, mark) if self.file.quotes else _flat(cell, mark) for cell in cells]
        return mark.join([raw, *written]) + self.file.newline

    def _cell(self, value: Any) -> str:
        if value is None or isinstance(value, float):
            return "" if value is None else repr(value)
        cell = str(value).lower() if isinstance(value, bool) else str(value)
        if self.safe and _FORMULA.match(cell) and not is_number(cell):
            return "'" + cell
        return cell


def _flat(cell: str, mark: str) -> str:
    """A cell of a file without quotation: on one line, and blanks in place of tabs and of the delimiter, which would
    begin another cell."""
    cell = cell.replace(mark, " ")
    return " ".join(cell.split()) if any(sign in cell for sign in "\t\r\n") else cell


class JsonStream:
    """Objects come out as they stand, with more keys at their end: no number is rounded and no key is lost."""

    def __init__(self, scan: Callable[[], Iterator[Record | Fault]], notes: tuple[str, ...] = ()) -> None:
        self.suffix = ".jsonl"
        self.scan = scan
        self._notes = notes

    def notes(self) -> tuple[str, ...]:
        return self._notes

    def header_line(self, names: Sequence[str]) -> str:
        return ""

    def extended(self, raw: str, values: Mapping[str, Any]) -> str:
        body, more = raw[:-1].rstrip(), json.dumps(values, ensure_ascii=False)
        return f"{body}{'' if body == '{' else ', '}{more[1:]}\n"


def _scan_json(path: Path, wanted: Wanted) -> Iterator[Record | Fault]:
    for number, raw, found in json_records(path, wanted):
        yield found if isinstance(found, Fault) else Record(number, raw, found)


def _scan_lines(path: Path, wanted: Wanted) -> Iterator[Record | Fault]:
    for number, line in enumerate(open_lines(path, wanted.form), 1):
        text = line.rstrip("\r\n")
        if why := not_utf8(text):
            yield Fault(number, why)
        else:
            yield _as_json(number, {"text": text})


def _scan_parquet(path: Path) -> Iterator[Record | Fault]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number, shown = 0, str(path)
    try:
        refuse_pages(path, shown)
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            check_header(names, shown)
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                columns = zip(names, batch.columns, strict=True)
                cells = [python_values(values, name, number, shown) for name, values in columns]
                for row in zip(*cells, strict=True):
                    number += 1
                    try:
                        yield _as_json(number, dict(zip(names, row, strict=True)))
                    except TypeError as error:
                        yield Fault(number, str(error))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {first_line(error)}") from error


def _scan_sheet(sheet: Sheet) -> Iterator[Record | Fault]:
    for number, values in sheet.records():
        yield _as_json(number, values)


def _as_json(number: int, values: dict[str, Any]) -> Record:
    return Record(number, json.dumps(_json_value(values), ensure_ascii=False), values)


def _json_value(value: Any) -> Any:
    """The value as JSON can hold it; bytes in Base64. Raises TypeError if it cannot be held."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): _json_value(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_json_value(inner) for inner in value]
        case date() | datetime() | time():
            return value.isoformat()
        case Decimal() | timedelta() | UUID():
            return str(value)
        case bytes():
            return base64.b64encode(value).decode()
    raise TypeError(f"a cell holds {type(value).__name__}, which JSONL cannot hold")


def in_chunks(records: Iterable[Record | Fault], size: int) -> Iterator[list[Record]]:
    """The rows of a file without faults, so many at a time."""
    chunk: list[Record] = []
    for record in records:
        if isinstance(record, Fault):
            raise Failure(f"row {record.row} was changed while the file was read: {record.what}")
        chunk.append(record)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
