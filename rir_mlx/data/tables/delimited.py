"""CSV and TSV files: what separates their cells, whether quotation marks enclose them, and their rows.

One reader for files that are held in memory and for files that are streamed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from rir_mlx.data.columns import check_header, find_columns
from rir_mlx.data.tables.quoting import Record, RowsSeen, split_records
from rir_mlx.data.tables.table import Fault, Table, Wanted
from rir_mlx.data.tables.text_files import decode, lines_of, not_utf8
from rir_mlx.errors import DataError

_SHORT, _KNOWN = 40, 10_000
"""Cells shorter than this are held once, as long as there are not too many different ones."""
_SAMPLE = 200
"""Lines used to detect the delimiter."""
_FREE_ROLES = ("text", "question", "answer", "reasoning")


class DelimitedFile:
    """A CSV or TSV file. `lines` gives its lines from the first on, at each call.

    Raises DataError if it is empty, or if its header cannot be read or names a column twice."""

    def __init__(self, lines: Callable[[], Iterator[str]], suffix: str, wanted: Wanted) -> None:
        self._lines, self._wanted = lines, wanted
        sample = list(islice(lines(), _SAMPLE))
        first = next((line for line in sample if line.strip()), None)
        if first is None:
            raise DataError(f"{wanted.shown} is empty.", hint="It needs a row for each text.")
        self.newline = first[len(first.rstrip("\r\n")) :] or "\n"
        self.declaration = first.strip() if _declared(first) else ""
        """Excel's `sep=;` in the first line, if it is there."""
        self.delimiter = wanted.form.delimiter or _declared(first) or _find_delimiter(sample, suffix, wanted)
        self.quotes = True if wanted.form.quotes is None else wanted.form.quotes
        header = next(self._records(places=True), None)
        if header is None:
            raise DataError(f"{wanted.shown} has no header.", hint="The first line must name the columns.")
        self.header, self.header_raw = self._check_header(header), header.raw
        self.swallowing: dict[int, Record] = {}
        self.spanning = 0
        """Rows that take more than one line, and how many lines those take in all."""
        self.spanned_lines = 0
        if self.quotes and any('"' in line for line in lines()):
            self._survey(suffix, quoted_header=len(header.quoted) == len(self.header))

    def _records(self, *, places: bool = False) -> Iterator[Record]:
        lines = self._lines()
        if self.declaration:
            lines = _without_first(lines)
        return split_records(lines, self.delimiter, quotes=self.quotes, places=places)

    def _check_header(self, record: Record) -> list[str]:
        where = f"{self._wanted.shown}, line {record.first}"
        if isinstance(record.cells, Fault):
            raise DataError(f"{where}: {record.cells.what}.", hint="The first line must name the columns.")
        if why := not_utf8(record.raw):
            raise DataError(f"{where}: {why}.", hint="Save it as UTF-8.")
        check_header(record.cells, self._wanted.shown)
        return record.cells

    def _survey(self, suffix: str, *, quoted_header: bool) -> None:
        """Read the file once to see what its quotation marks mean."""
        seen = RowsSeen(self.header, self.delimiter, *self._roles())
        evidence = _Evidence(self.delimiter)
        for record in islice(self._records(places=suffix == ".tsv"), 1, None):
            seen.add(record)
            evidence.add(record)
        self.swallowing = seen.swallowing()
        legitimate = [record for record in seen.spanning if record.first not in self.swallowing]
        decided = self._wanted.form.quotes is not None or quoted_header or suffix != ".tsv"
        if not decided and evidence.against(spanning=len(legitimate)):
            self.quotes, self.swallowing = False, {}
            return
        self.spanning = len(legitimate)
        self.spanned_lines = sum(record.last - record.first + 1 for record in legitimate)

    def _roles(self) -> tuple[set[int], set[int]]:
        """Places of the columns of texts and of labels, as far as they are to be found."""
        free, labels = set[int](), set[int]()
        for column in self._wanted.columns:
            with suppress(DataError):
                [name] = find_columns(self.header, [column], "")
                (free if column.role in _FREE_ROLES else labels).add(self.header.index(name))
        return free, labels

    def places(self) -> list[int]:
        """The places of the wanted columns. Raises DataError if one is not to be found."""
        try:
            return [self.header.index(name) for name in find_columns(self.header, self._wanted.columns, self._shown())]
        except DataError as error:
            name = "a tab" if self.delimiter == "\t" else f"'{self.delimiter}'"
            what = f"{error.what} They are separated by {name}." if len(self.header) > 1 else error.what
            hint = f"{error.hint} If another character separates the cells, set {self._setting('delimiter')} to it."
            raise DataError(what, hint=hint) from error

    def _shown(self) -> str:
        return self._wanted.shown

    def _setting(self, key: str) -> str:
        return self._wanted.settings.text(key)

    def rows(self) -> Iterator[Record]:
        """The rows after the header. What cannot be used has a fault in place of cells."""
        width, whole = len(self.header), islice(self._records(), 1, None)
        for record in whole:
            if record.first in self.swallowing:
                yield from _swallowed(record)
            elif isinstance(record.cells, Fault):
                yield record
            elif why := not_utf8(record.raw):
                yield record._replace(cells=Fault(record.first, why))
            elif len(record.cells) != width:
                yield record._replace(cells=Fault(record.first, wrong_length(record.cells, self.header)))
            else:
                yield record

    def notes(self) -> tuple[str, ...]:
        """What the user should know about how the file was read."""
        notes = []
        if not self.quotes and self._wanted.form.quotes is None:
            notes.append(f"{self._shown()}: quotation marks are read as part of the texts ({self._setting('quotes')})")
        if self.spanning:
            notes.append(f"{self._shown()}: {self.spanning:,} rows hold line breaks: {self.spanned_lines:,} lines")
        return tuple(notes)


def _swallowed(record: Record) -> Iterator[Record]:
    """A fault for every line of a quotation that swallows rows, so that none of them goes uncounted."""
    what = f"a quotation mark opened here is closed in row {record.last}, and what lies between looks like rows"
    for offset, line in enumerate(record.raw.splitlines()):
        number = record.first + offset
        if line:
            yield Record(number, number, line, Fault(number, what))
            what = f"inside the quotation that row {record.first} opens"


class _Evidence:
    """Whether the quotation marks of a TSV file enclose cells, as the csv module writes them, or belong to the texts,
    as the format's own convention has it (https://www.iana.org/assignments/media-types/text/tab-separated-values)."""

    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter
        self.needed = self.needless = self.malformed = self.rows = 0
        self.columns: dict[int, int] = {}

    def add(self, record: Record) -> None:
        self.rows += 1
        if isinstance(record.cells, Fault):
            self.malformed += 1
            return
        for place in record.quoted:
            cell = record.cells[place]
            self.columns[place] = self.columns.get(place, 0) + 1
            if record.last == record.first:
                needed = '"' in cell or self.delimiter in cell
                self.needed += needed
                self.needless += bool(cell) and not needed

    def against(self, *, spanning: int) -> bool:
        """Whether the marks belong to the texts. `spanning` records take several lines and swallow no rows. A record
        that swallows rows is no evidence: it is refused."""
        needed = self.needed + spanning
        if self.malformed:
            return not needed
        if any(count == self.rows for count in self.columns.values()):
            return False  # a column that is quoted throughout
        return bool(self.needless) and not needed


def _without_first(lines: Iterator[str]) -> Iterator[str]:
    """The lines, the first that is not blank made empty: so the numbers of the others stay."""
    found = False
    for line in lines:
        if not found and line.strip():
            found = True
            yield "\n"
        else:
            yield line


def _declared(first: str) -> str | None:
    """The delimiter that a line like `sep=;` names."""
    line = first.strip("\r\n").strip('"')
    return line[4] if len(line) == 5 and line[:4].lower() == "sep=" else None


def _find_delimiter(sample: Sequence[str], suffix: str, wanted: Wanted) -> str:
    """The mark that cuts the sample into a table: with the wanted columns, and rows as wide as the header."""
    marks = "\t,;|" if suffix == ".tsv" else ",;\t|"
    best, chosen = (False, -1.0), marks[0]
    for mark in marks:
        header, *rows = list(split_records(sample, mark, quotes=wanted.form.quotes is not False))
        if isinstance(header.cells, Fault) or len(header.cells) < 2:
            continue
        whole = [row.cells for row in rows if not isinstance(row.cells, Fault)]
        share = sum(len(cells) == len(header.cells) for cells in whole) / max(1, len(whole))
        try:
            find_columns(header.cells, wanted.columns, wanted.shown)
            found = True
        except DataError:
            found = False
        if (found, share) > best:
            best, chosen = (found, share), mark
    return chosen


def read_csv(path: Path, wanted: Wanted) -> Table:
    """The wanted columns of a CSV or TSV file."""
    text = decode(path, wanted)
    file = DelimitedFile(lambda: lines_of(text), path.suffix.lower(), wanted)
    places = file.places()
    rows, faults = array("L"), list[Fault]()
    cells: tuple[list[str], ...] = tuple([] for _ in places)
    known: dict[str, str] = {}  # labels come again and again
    for record in file.rows():
        if isinstance(record.cells, Fault):
            faults.append(record.cells)
            continue
        rows.append(record.first)
        for column, place in zip(cells, places, strict=True):
            cell = record.cells[place]
            column.append(known.setdefault(cell, cell) if len(cell) < _SHORT and len(known) < _KNOWN else cell)
    if not rows and not faults:
        raise DataError(f"{wanted.shown} has a header but no rows.", hint="It needs a row for each text.")
    classes = (None,) * len(places)
    return Table(wanted.shown, rows, cells, classes, tuple(faults), notes=file.notes(), settings=wanted.settings)


def wrong_length(record: Sequence[str], header: Sequence[str]) -> str:
    return f"{len(record):,} field{'' if len(record) == 1 else 's'} where the header has {len(header)}"
