"""Records of a delimited file: where cells begin and end, and whether a quotation swallows rows.

Quotation follows RFC 4180, and also allows blanks around a quoted cell. The csv module splits rows that are one line;
for the others it neither says where a quotation began nor reads on with the next line after one that is never closed.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rir_mlx.data.tables.table import Fault

_LONGEST = 1 << 26
"""Characters of one quotation. A mark that never closes must not take a file of gigabytes into memory."""
_MOST_VALUES = 10_000
_MANY_LINES = 4
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")


class Record(NamedTuple):
    """A record: its first and last line, how it stands in the file, and its cells or what is wrong with it."""

    first: int
    last: int
    raw: str
    cells: list[str] | Fault
    quoted: tuple[int, ...] = ()
    """Places of the cells that stand in quotation marks."""


def split_records(lines: Iterable[str], delimiter: str, *, quotes: bool, places: bool = True) -> Iterator[Record]:
    """The records of a file, empty lines left out. Without `quotes`, a line is a record and marks are plain characters.
    `places` also tells which cells are quoted, which takes longer.

    A quotation that is malformed or never closed makes its first line a fault; the line after it is read afresh, so
    that no row is lost. Takes time in proportion to the file."""
    source, returned = iter(lines), deque[str]()
    number, end = 0, ""
    blank_before_mark = re.compile(f'(?:^|{re.escape(delimiter)}) +"')
    while (line := returned.popleft() if returned else next(source, None)) is not None:
        number += 1
        body = line.rstrip("\r\n")
        end = end or line[len(body) :]
        if line.endswith("\r") and end != "\r" and not (quotes and '"' in line):
            yield Record(number, number, body, Fault(number, "a carriage return in the middle of a line"))
            continue
        if not body:
            continue
        if not quotes or '"' not in line:
            yield Record(number, number, body, body.split(delimiter))
            continue
        if not places and not blank_before_mark.search(line):
            try:
                yield Record(number, number, body, next(csv.reader((body,), delimiter=delimiter, strict=True)))
                continue
            except csv.Error:  # malformed, open at the line's end, or with a long cell
                pass
        reading = _Reading(line, delimiter)
        held = 0
        while reading.is_open and held < _LONGEST:
            following = returned.popleft() if returned else next(source, None)
            if following is None:
                break
            held += len(following)
            reading.add(following)
        last = number + len(reading.lines) - 1
        if reading.is_open or reading.problem:
            yield Record(number, number, body, Fault(number, reading.problem or _NEVER_CLOSED))
            returned.extendleft(reversed(reading.lines[1:]))
            continue
        yield Record(number, last, "".join(reading.lines).rstrip("\r\n"), reading.cells, tuple(reading.quoted))
        number = last


_NEVER_CLOSED = "a quotation mark opened here is never closed"


class _Reading:
    """A record that is being read, line by line."""

    def __init__(self, line: str, delimiter: str) -> None:
        self.delimiter = delimiter
        self.lines: list[str] = []
        self.cells: list[str] = []
        self.quoted: list[int] = []
        self.problem = ""
        self._pieces: list[str] | None = None
        """What the open quotation holds so far."""
        self.add(line)

    @property
    def is_open(self) -> bool:
        return self._pieces is not None

    def add(self, line: str) -> None:
        self.lines.append(line)
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
                    if len(self.lines) > 1:
                        self.problem = "a quotation mark opened here is closed in a later line, in the middle of a cell"
                    return
                self.quoted.append(len(self.cells))
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

    def add(self, record: Record) -> None:
        if isinstance(record.cells, Fault) or len(record.cells) != self.width:
            return
        if record.last > record.first:
            self.spanning.append(record)
            return
        self.rows += 1
        for place, column in self.columns.items():
            column.add(record.cells[place])

    def swallowing(self) -> dict[int, Record]:
        """The records with lines that look like rows of their own, by their first line."""
        return {record.first: record for record in self.spanning if self._swallows(record)}

    def _swallows(self, record: Record) -> bool:
        """Whether lines of a record are rows. Its first line may hold the cells before the quotation and its last those
        after it, so neither is evidence without the other."""
        lines = [line.split(self.delimiter) for line in record.raw.splitlines() if line]
        if self.width == 1 or len(lines) < 2:
            return False
        if all(len(cells) == self.width for cells in lines) and (len(lines) >= _MANY_LINES or not self.rows):
            return True
        if not self.rows or not self.columns:
            return False
        first, *inner, last = map(self._is_row, lines)
        return any(inner) or (first and last) or self._ends_in_labels(lines)

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
        self.count = 0
        self.numbers = self.identifiers = True

    def add(self, value: str) -> None:
        self.count += 1
        if len(self.values) < _MOST_VALUES:
            self.values.add(value)
        self.numbers = self.numbers and is_number(value.strip())
        self.identifiers = self.identifiers and _is_identifier(value)

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
