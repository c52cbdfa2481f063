"""Tables read a row at a time, and each row written back as it stood, with more columns at its end.

For files of any length: a row is held, never the table. What is right and wrong in a file is what `tables` says.
Nothing here knows what the new columns mean.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rir_mlx.data.columns import Column, find_columns
from rir_mlx.data.tables.delimited import csv_records, delimiter_of, long_fields, wrong_length
from rir_mlx.data.tables.json_lines import json_record, not_lines_of_json
from rir_mlx.data.tables.table import ACCEPTED, Fault, missing_file, refuse
from rir_mlx.data.tables.text_files import refuse_other_text
from rir_mlx.errors import DataError, Failure

READABLE = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt")
_MOST_FAULTS = 1000
_LONGEST = 1 << 26
"""Characters of one CSV field: a quotation mark that is never closed would else take the whole file into memory."""
_BOM = "\ufeff"
_PARQUET_ROWS = 4096


class Record(NamedTuple):
    """A row: its number as the user finds it, how it stands in the file, and its cells by column."""

    row: int
    raw: str
    cells: Mapping[str, Any]


class Stream(Protocol):
    """A file of rows, and how rows of its kind are written."""

    @property
    def suffix(self) -> str:
        """Of the files that `head` and `extended` make: .csv, .tsv or .jsonl."""
        ...

    def scan(self) -> Iterator[Record | Fault]:
        """The rows from the first on, at each call. Raises DataError where the file cannot be read at all."""
        ...

    def head(self, names: Sequence[str]) -> str:
        """What comes before the rows, when they get the new columns `names`."""
        ...

    def extended(self, raw: str, values: Mapping[str, Any]) -> str:
        """A row with more cells, and its line's end. None is an empty cell or null."""
        ...


@dataclass(frozen=True)
class Outline:
    """A file read through once. `digest` is the SHA-256 of its bytes, `stamp` tells when it was changed."""

    rows: int
    columns: tuple[str, ...]
    text_column: str
    digest: str
    stamp: tuple[int, ...]


def open_stream(path: Path) -> Stream:
    """The rows of a CSV, TSV, JSONL, Parquet or text file (a text a line; the last two are written as JSONL).

    Raises DataError where the file is missing or of another kind."""
    if not path.is_file():
        raise missing_file(path)
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        raise DataError(f"{path}: files ending in {suffix or 'nothing'} cannot be read.", hint=ACCEPTED)
    if suffix == ".parquet":
        return JsonStream(lambda: _scan_parquet(path))
    try:
        with path.open("rb") as file:
            refuse_other_text(file.read(4096), path, str(path))
        if suffix in (".csv", ".tsv"):
            return CsvStream(path)
        return JsonStream(lambda: _scan_lines(path) if suffix == ".txt" else _scan_json(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def outline(path: Path, stream: Stream, text_column: str | None) -> Outline:
    """Read all rows once. Raises DataError with the faults of the file, the first thousand at most, or where the text
    column is not to be found."""
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
    refuse([(str(path), rows + len({fault.row for fault in faults}), faults)], "Mend these rows or take them out.")
    if not rows:
        raise DataError(f"{path} has no rows.", hint="It needs a row for each text.")
    found = find_columns(list(columns), [Column("text", "the text column", text_column)], str(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    whole = Outline(rows, tuple(columns), found[0], digest, before)
    check_unchanged(path, whole)
    return whole


def stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file is written or replaced."""
    found = path.stat()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def check_unchanged(path: Path, outline: Outline) -> None:
    """Raises Failure where the file is no longer the one that was read through."""
    try:
        same = stamp(path) == outline.stamp
    except OSError:
        same = False
    if not same:
        raise Failure(f"{path} was changed while it was read.", hint="Run the same command again.")


class CsvStream:
    """Rows come out as they stand, quotes, delimiter, line ends and byte order mark included."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.suffix = path.suffix.lower()
        first = next((line for line in _text_lines(path) if line.strip()), None)
        if first is None:
            raise DataError(f"{path} is empty.", hint="It needs a row for each text.")
        with path.open("rb") as file:
            self.bom = _BOM if file.read(3) == _BOM.encode() else ""
        self.delimiter = delimiter_of(first, path)
        self.newline = first[len(first.rstrip("\r\n")) :] or "\n"
        number, self.header_raw, header = next(self._records())
        if isinstance(header, Fault):
            raise DataError(f"{path}, line {number}: {header.what}.", hint="The first line must name the columns.")
        if why := _not_utf8(self.header_raw):
            raise DataError(f"{path}, line {number}: {why}.", hint="Save it as UTF-8.")
        self.header = header

    def _records(self) -> Iterator[tuple[int, str, list[str] | Fault]]:
        lines: list[str] = []

        def kept() -> Iterator[str]:
            for line in _text_lines(self.path):
                lines.append(line)
                yield line

        with long_fields(_LONGEST):
            for number, _, record in csv_records(kept(), self.delimiter):
                raw = lines[-1] if len(lines) == 1 else "".join(lines).lstrip("\r\n")  # empty lines before it
                lines.clear()
                yield number, raw.rstrip("\r\n"), record

    def scan(self) -> Iterator[Record | Fault]:
        width = len(self.header)
        everything = self._records()
        next(everything)
        for number, raw, record in everything:
            if isinstance(record, Fault):
                yield record
                if "field limit" in record.what:  # what follows is the rest of that field, not rows
                    return
            elif why := _not_utf8(raw):
                yield Fault(number, why)
            elif len(record) != width:
                yield Fault(number, wrong_length(record, self.header))
            else:
                yield Record(number, raw, dict(zip(self.header, record, strict=True)))

    def head(self, names: Sequence[str]) -> str:
        return self.bom + self.extended(self.header_raw, {name: name for name in names})

    def extended(self, raw: str, values: Mapping[str, Any]) -> str:
        return self.delimiter.join([raw, *(self._cell(value) for value in values.values())]) + self.newline

    def _cell(self, value: Any) -> str:
        if value is None or isinstance(value, float):
            return "" if value is None else repr(value)
        cell = str(value).lower() if isinstance(value, bool) else str(value)
        if self.delimiter in cell or '"' in cell or "\n" in cell or "\r" in cell:
            return '"' + cell.replace('"', '""') + '"'
        return cell


class JsonStream:
    """Objects come out as they stand, with more keys at their end: no number is rounded, no key is lost."""

    def __init__(self, scan: Callable[[], Iterator[Record | Fault]]) -> None:
        self.suffix = ".jsonl"
        self.scan = scan

    def head(self, names: Sequence[str]) -> str:
        return ""

    def extended(self, raw: str, values: Mapping[str, Any]) -> str:
        body, more = raw[:-1].rstrip(), json.dumps(values, ensure_ascii=False)
        return f"{body}{'' if body == '{' else ', '}{more[1:]}\n"


def _text_lines(path: Path) -> Iterator[str]:
    """The lines with their ends, without a byte order mark. Bytes that are not UTF-8 become lone surrogates."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield from file


def _not_utf8(text: str) -> str | None:
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"not UTF-8 text: byte 0x{ord(text[error.start]) & 0xFF:02X}"
    return None


def _scan_json(path: Path) -> Iterator[Record | Fault]:
    for number, line in enumerate(_text_lines(path), 1):
        raw = line.strip()
        if not raw:
            continue
        if number == 1 and raw.startswith("["):
            raise not_lines_of_json(path, str(path))
        if why := _not_utf8(raw):
            yield Fault(number, why)
            continue
        found = json_record(number, raw)
        yield found if isinstance(found, Fault) else Record(number, raw, found)


def _scan_lines(path: Path) -> Iterator[Record | Fault]:
    for number, line in enumerate(_text_lines(path), 1):
        text = line.rstrip("\r\n")
        if why := _not_utf8(text):
            yield Fault(number, why)
        else:
            yield _made(number, {"text": text})


def _scan_parquet(path: Path) -> Iterator[Record | Fault]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    try:
                        yield _made(number, _plain(values))
                    except TypeError as error:
                        yield Fault(number, str(error))
    except (pa.ArrowException, OSError) as error:
        what = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path} cannot be read as Parquet: {what}") from error


def _made(number: int, values: dict[str, Any]) -> Record:
    return Record(number, json.dumps(values, ensure_ascii=False), values)


def _plain(value: Any) -> Any:
    """The value as JSON can hold it. Raises TypeError where it cannot."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case date() | datetime() | time():
            return value.isoformat()
        case Decimal():
            return str(value)
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
