"""Records of a delimited file: where cells begin and end, and whether a quotation swallows rows.

Quotation follows RFC 4180, and also allows blanks around a quoted cell. The csv module splits many lines at a time.
What it refuses is read again by hand: it neither says where a quotation began nor reads on with the next line after
one that is never closed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

from rir_mlx.data.tables.table import Fault

_BATCH, _MORE = 256, 32
"""Lines that are split at a time, and those added where a quotation is open at the end of them."""
_LONGEST = 1 << 26
"""Characters of one quotation. A mark that never closes must not take a file of gigabytes into memory."""
_MOST_VALUES = 10_000
_MANY_LINES = 4
_LINE_END = re.compile(r"\r\n?|\n")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")


class Record(NamedTuple):
    """A record: its first and last line, how it stands in the file, and its cells or what is wrong with it."""

    first: int
    last: int
    raw: str
    cells: list[str] | Fault


@dataclass
class Batch:
    """Records that follow each other: the first line of each, how it stands in the file with its line's end, and its
    cells. `last` holds the last line of those that take several, by their place in these lists. `faults` are records
    that cannot be read; `clean` says that no line holds bytes that are not UTF-8. `empty` rows were left out."""

    first: list[int] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    last: dict[int, int] = field(default_factory=dict)
    faults: list[Record] = field(default_factory=list)
    clean: bool = True
    empty: int = 0

    def add(self, first: int, last: int, raw: str, cells: list[str]) -> None:
        if last > first:
            self.last[len(self.rows)] = last
        self.first.append(first)
        self.raw.append(raw)
        self.rows.append(cells)

    def record(self, place: int) -> Record:
        first = self.first[place]
        return Record(first, self.last.get(place, first), self.raw[place].rstrip("\r\n"), self.rows[place])

    def records(self) -> Iterator[Record]:
        """All records in their order, the faults among them."""
        faults = iter(self.faults)
        fault = next(faults, None)
        for place in range(len(self.rows)):
            while fault is not None and fault.first < self.first[place]:
                yield fault
                fault = next(faults, None)
            yield self.record(place)
        if fault is not None:
            yield fault
            yield from faults


def split_records(lines: Iterable[str], delimiter: str, *, quotes: bool) -> Iterator[Record]:
    """The records of a file one by one. See `split_batches`."""
    for batch in split_batches(lines, delimiter, quotes=quotes):
        yield from batch.records()


def split_batches(
    lines: Iterable[str], delimiter: str, *, quotes: bool, before: int = 0, end: str = ""
) -> Iterator[Batch]:
    """The records of a file, empty lines and rows of empty cells left out. Without `quotes`, a line is a record
    and marks are plain characters. `before` lines precede the first; `end` is the line end of the file, by default that
    of its first line.

    A quotation that is malformed or never closed makes its first line a fault; the line after it is read afresh, so
    that no row is lost. Takes time in proportion to the file."""
    source = iter(lines)
    while held := list(islice(source, _BATCH)):
        end = end or held[0][len(held[0].rstrip("\r\n")) :]
        splitter = _Splitter(held, source, delimiter, quotes=quotes, before=before)
        yield splitter.split(end)
        before += len(held)


class _Splitter:
    """Splits the lines of one batch. `lines` grows where the last record goes on in the source."""

    def __init__(self, lines: list[str], source: Iterator[str], delimiter: str, *, quotes: bool, before: int) -> None:
        self.lines, self.source, self.delimiter, self.quotes, self.before = lines, source, delimiter, quotes, before
        self.batch = Batch()
        self.odd = False
        """Whether lines of this batch may mean something else than the csv module takes them for."""

    def split(self, end: str) -> Batch:
        self._look_at("".join(self.lines), end)
        batch, lines, before = self.batch, self.lines, self.before
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE
        start = 0
        while start < len(lines):
            rest = map(lines.__getitem__, range(start, len(lines)))
            reader = csv.reader(rest, delimiter=self.delimiter, quoting=quoting, strict=True)
            begun = start
            try:
                for cells in reader:
                    stop = begun + reader.line_num
                    if self.odd and self._is_odd(start, stop, cells, end):
                        break
                    if stop - start > 1:
                        batch.add(before + start + 1, before + stop, "".join(lines[start:stop]), cells)
                    elif any(map(str.strip, cells)) or (len(cells) == 1 and not lines[start].isspace()):
                        batch.first.append(before + stop)
                        batch.raw.append(lines[start])
                        batch.rows.append(cells)
                    else:
                        batch.empty += bool(lines[start].strip("\r\n"))  # a row in which nothing stands, no empty line
                    start = stop
            except csv.Error:  # malformed, open at the end of the lines, or with a long cell
                pass
            if start < len(lines):
                start = self._read_by_hand(start, end)
        return batch

    def _look_at(self, text: str, end: str) -> None:
        """See what is in the batch at all, or in what was added to it."""
        self.odd = self.odd or (self.quotes and ' "' in text)
        self.odd = self.odd or (end != "\r" and "\r" in text and text.count("\r") > text.count("\r\n"))
        if not text.isascii() and self.batch.clean:
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                self.batch.clean = False

    def _is_odd(self, start: int, stop: int, cells: list[str], end: str) -> bool:
        """Whether a record is to be read by hand: it ends in a bare carriage return, or has a blank before a quoted
        cell."""
        if stop == start + 1 and self._ends_bare(start, end):
            return True
        return self.quotes and any(cell[:1] == " " and cell.lstrip(" ")[:1] == '"' for cell in cells)

    def _ends_bare(self, place: int, end: str) -> bool:
        line = self.lines[place]
        return line.endswith("\r") and end != "\r" and not (self.quotes and '"' in line)

    def _read_by_hand(self, start: int, end: str) -> int:
        """Read the record that begins at a place of `lines`. Returns the place after it."""
        line, number = self.lines[start], self.before + start + 1
        if self._ends_bare(start, end):
            return self._refuse(start, "a carriage return in the middle of a line")
        if not self.quotes or '"' not in line:  # a cell that is too long for the csv module
            self.batch.add(number, number, line, line.rstrip("\r\n").split(self.delimiter))
            return start + 1
        reading = _Reading(line, self.delimiter)
        held, stop = 0, start + 1
        while reading.is_open and held < _LONGEST and (stop < len(self.lines) or self._read_more(end)):
            held += len(self.lines[stop])
            reading.add(self.lines[stop])
            stop += 1
        if reading.is_open or reading.problem:
            return self._refuse(start, reading.problem or "a quotation mark opened here is never closed")
        self.batch.add(number, self.before + stop, "".join(self.lines[start:stop]), reading.cells)
        return stop

    def _read_more(self, end: str) -> bool:
        more = list(islice(self.source, _MORE))
        self.lines += more
        self._look_at("".join(more), end)
        return bool(more)

    def _refuse(self, start: int, what: str) -> int:
        number = self.before + start + 1
        self.batch.faults.append(Record(number, number, self.lines[start].rstrip("\r\n"), Fault(number, what)))
        return start + 1


class _Reading:
    """A record that is being read by hand, line by line."""

    def __init__(self, line: str, delimiter: str) -> None:
        self.delimiter = delimiter
        self.cells: list[str] = []
        self.problem = ""
        self._lines = 0
        self._pieces: list[str] | None = None
        """What the open quotation holds so far."""
        self.add(line)

    @property
    def is_open(self) -> bool:
        return self._pieces is not None

    def add(self, line: str) -> None:
        self._lines += 1
        end = len(line.rstrip("\r\n"))
        place = 0
        while True:
            if self._pieces is not None:
                close = _closing_mark(line, place)
                if close < 0:
                    self._pieces.append(line[place:])
                    return
                self._pieces.append(line[place:close])
                after = _past_blanks(line, close + 1, end)
                if after < end and line[after] != self.delimiter:
                    self._pieces = None
                    self.problem = f"not valid CSV: {self.delimiter!r} expected after '\"'"
                    if line[close - 1 : close] == "\\":
                        self.problem = "a quotation mark inside a cell has a backslash before it; it must be doubled"
                    elif self._lines > 1:
                        self.problem = "a quotation mark opened here is closed in a later line, in the middle of a cell"
                    return
                self.cells.append("".join(self._pieces).replace('""', '"'))
                self._pieces = None
            else:
                start = _past_blanks(line, place, end)
                if start < end and line[start] == '"':
                    self._pieces, place = [], start + 1
                    continue
                after = line.find(self.delimiter, place, end)
                after = end if after < 0 else after
                self.cells.append(line[place:after])
            if after >= end:
                return
            place = after + 1


def _closing_mark(line: str, place: int) -> int:
    """Where the quotation closes: at a mark that is not doubled. Below 0 if not in this line."""
    close = line.find('"', place)
    while close >= 0 and line[close + 1 : close + 2] == '"':
        close = line.find('"', close + 2)
    return close


def _past_blanks(line: str, place: int, end: int) -> int:
    while place < end and line[place] == " ":
        place += 1
    return place


def lines_in(raw: str) -> list[str]:
    """The lines of a record as the file counts them: `splitlines` also splits at signs that end no line of a file."""
    return _LINE_END.split(raw)


def quoted_places(raw: str, cells: Sequence[str]) -> list[int]:
    """The places of the cells that stand in quotation marks in a record."""
    found, at = list[int](), 0
    for place, cell in enumerate(cells):
        begins = _past_blanks(raw, at, len(raw))
        if raw[begins : begins + 1] == '"':
            found.append(place)
            at = _past_blanks(raw, begins + len(cell) + cell.count('"') + 2, len(raw))
        else:
            at += len(cell)
        at += 1  # the delimiter
    return found


def quoted(cell: str, delimiter: str) -> str:
    """A cell as it is written: in quotation marks if it needs them."""
    if any(sign in cell for sign in (delimiter, '"', "\n", "\r")):
        return '"' + cell.replace('"', '""') + '"'
    return cell


class RowsSeen:
    """What the rows of a file look like, to tell a cell of several lines from a quotation that swallows rows.

    `free` are the places of columns that hold texts, which can look like anything; `labels` of those whose values
    come again and again."""

    def __init__(self, header: Sequence[str], delimiter: str, free: set[int], labels: set[int]) -> None:
        self.width, self.delimiter = len(header), delimiter
        self.columns = {place: _ColumnSeen(strict=place in labels) for place in range(self.width) if place not in free}
        self.rows = 0
        self.spanning: list[Record] = []

    def add(self, batch: Batch) -> None:
        rows = batch.rows
        if batch.last:
            self.spanning += [batch.record(place) for place in batch.last if len(rows[place]) == self.width]
            rows = [row for place, row in enumerate(rows) if place not in batch.last]
        if set(map(len, rows)) - {self.width}:
            rows = [row for row in rows if len(row) == self.width]
        self.rows += len(rows)
        for place, column in self.columns.items():
            column.add([row[place] for row in rows])

    def swallowing(self) -> dict[int, Record]:
        """The records with lines that look like rows of their own, by their first line."""
        return {record.first: record for record in self.spanning if self._swallows(record)}

    def _swallows(self, record: Record) -> bool:
        """Whether lines of a record are rows. Its first line may hold the cells before the quotation and its last those
        after it, so neither is evidence without the other."""
        lines = [line.split(self.delimiter) for line in lines_in(record.raw) if line]
        if self.width == 1 or len(lines) < 2:
            return False
        wide = [len(cells) == self.width for cells in lines]
        if all(wide) and (len(lines) >= _MANY_LINES or not self.rows):
            return True
        if not self.rows or not self.columns:
            return False
        if any(wide):
            first, *inner, last = map(self._is_row, lines)
            if any(inner) or (first and last):
                return True
        return self._ends_in_labels(lines)

    def _is_row(self, cells: list[str]) -> bool:
        return len(cells) == self.width and all(seen.knows(cells[place]) for place, seen in self.columns.items())

    def _ends_in_labels(self, lines: list[list[str]]) -> bool:
        """Whether a line ends in a label where the labels are the last column, or begins with one where they are the
        first. Its text may hold the delimiter, so the cells of the line are not counted."""
        first, last = self.columns.get(0), self.columns.get(self.width - 1)
        ends = [cells[-1] for cells in lines[:-1] if len(cells) > 1] if last is not None and last.strict else []
        starts = [cells[0] for cells in lines[1:] if len(cells) > 1] if first is not None and first.strict else []
        return any(last is not None and end in last.values for end in ends) or any(
            first is not None and start in first.values for start in starts
        )


class _ColumnSeen:
    """The values of a column. `strict`: only a value that was seen belongs to it."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.values: set[str] = set()
        self.numbers = self.identifiers = True

    def add(self, values: Iterable[str]) -> None:
        new = [value for value in dict.fromkeys(values) if value not in self.values]
        self.values.update(new[: _MOST_VALUES - len(self.values)])
        self.numbers = self.numbers and all(is_number(value.strip()) for value in new)
        self.identifiers = self.identifiers and all(map(_is_identifier, new))

    def knows(self, value: str) -> bool:
        if value in self.values or value.strip(' "') in self.values:
            return True
        if self.strict:
            return False
        return (self.numbers and is_number(value.strip())) or (self.identifiers and _is_identifier(value))


def is_number(value: str) -> bool:
    return _NUMBER.fullmatch(value) is not None


def _is_identifier(value: str) -> bool:
    value = value.strip()
    return any(map(str.isdigit, value)) and not any(map(str.isspace, value))
