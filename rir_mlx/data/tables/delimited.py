"""CSV and TSV files: what separates their cells, whether quotation marks enclose them, and their rows.

One reader for files that are held in memory and for files that are streamed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import dropwhile, islice
from pathlib import Path

from rir_mlx.data.columns import check_header, find_in_header
from rir_mlx.data.packed_cells import PackedCells
from rir_mlx.data.tables.quoting import Batch, Record, RowsSeen, lines_in, quoted_places, split_batches, split_records
from rir_mlx.data.tables.table import Fault, Table, Wanted, empty_rows
from rir_mlx.data.tables.text_files import check_encoding, empty_file, not_utf8, open_lines
from rir_mlx.errors import DataError

_BOM = "\ufeff"
_SAMPLE = 200
"""Lines used to detect the delimiter."""
_SWALLOWS = "a quotation mark opened here is closed in row {}, and what lies between looks like rows"
_FREE_ROLES = ("text", "question", "answer", "reasoning")


class DelimitedFile:
    """A CSV or TSV file. `lines` gives its lines from the first on, at each call.

    Raises DataError if it is empty, or if its header cannot be read or names a column twice."""

    def __init__(self, lines: Callable[[], Iterator[str]], suffix: str, wanted: Wanted) -> None:
        self._lines, self._wanted = lines, wanted
        sample = list(islice(dropwhile(_is_blank, lines()), _SAMPLE))
        if not sample:
            raise empty_file(wanted)
        first = sample[0]
        self.newline = first[len(first.rstrip("\r\n")) :] or "\n"
        self.declaration = first.strip() if _declared(first) else ""
        """Excel's `sep=;` in the first line, if it is there."""
        self.delimiter = wanted.form.delimiter or _declared(first) or _find_delimiter(sample, suffix, wanted)
        self.quotes = True if wanted.form.quotes is None else wanted.form.quotes
        lines_from_header = _without_first(lines()) if self.declaration else lines()
        header = next(split_records(lines_from_header, self.delimiter, quotes=self.quotes), None)
        if header is None:
            raise DataError(f"{wanted.shown} has no header.", hint="The first line must name the columns.")
        self.header, self.header_raw, self._header_end = self._check_header(header), header.raw, header.last
        quoted_header = len(quoted_places(header.raw, self.header)) == len(self.header)
        self._undecided = wanted.form.quotes is None and suffix == ".tsv" and not quoted_header
        """Whether the marks of the file may belong to its texts."""
        self.swallowing: dict[int, Record] = {}
        self._ends, self._joined_lines = [0], [header.last - header.first + bool(self.declaration)]
        self.spanning = 0
        """Rows that take more than one line, and how many lines those take in all."""
        self.spanned_lines = 0
        self.empty = 0
        """Rows without anything in them, as far as the file was read."""

    def _check_header(self, record: Record) -> list[str]:
        where = f"{self._wanted.shown}, line {record.first}"
        if isinstance(record.cells, Fault):
            raise DataError(f"{where}: {record.cells.what}.", hint="The first line must name the columns.")
        if why := not_utf8(record.raw):
            raise DataError(f"{where}: {why}.", hint="Save it as UTF-8.")
        check_header(record.cells, self._wanted.shown)
        return record.cells

    def _batches(self) -> Iterator[Batch]:
        """The records after the header."""
        before, self.empty = self._header_end, 0
        lines = islice(self._lines(), before, None)
        for batch in split_batches(lines, self.delimiter, quotes=self.quotes, before=before, end=self.newline):
            self.empty += batch.empty
            yield batch

    def survey(self) -> None:
        """Read the file once to see what its quotation marks mean, if it has any."""
        if self.quotes and any('"' in line for line in self._lines()):
            for _ in self._surveyed():
                pass

    def read(self, places: Sequence[int]) -> _Cells:
        """The cells of the columns at these places, and the faults of the rows that cannot be used."""
        while True:
            marks, found = self.quotes, _Cells(places, self.header)
            for batch in self._surveyed():
                found.add(batch)
            if self.quotes == marks:
                found.refuse(self.swallowing)
                found.faults[:] = map(self._on_the_sheet, found.faults)
                return found

    def _surveyed(self) -> Iterator[Batch]:
        """The records after the header. At the end it is known what the quotation marks mean: if `quotes` is no longer
        what it was, these are not the file's records."""
        seen = RowsSeen(self.header, self.delimiter, *self._roles())
        evidence = _Evidence(self.delimiter) if self._undecided and self.quotes else None
        for batch in self._batches():
            seen.add(batch)
            if evidence is not None:
                evidence.add(batch)
            yield batch
        self.swallowing = seen.swallowing()
        del self._ends[1:], self._joined_lines[1:]
        for record in seen.spanning:
            self._ends.append(record.last)
            self._joined_lines.append(self._joined_lines[-1] + record.last - record.first)
        legitimate = [record for record in seen.spanning if record.first not in self.swallowing]
        if evidence is not None and evidence.against(spanning=len(legitimate)):
            self.quotes, self.swallowing = False, {}
            del self._ends[1:], self._joined_lines[1:]
            return
        self.spanning = len(legitimate)
        self.spanned_lines = sum(record.last - record.first + 1 for record in legitimate)

    def _roles(self) -> tuple[set[int], set[int]]:
        """Places of the columns of texts and of labels, as far as they are to be found."""
        free, labels = set[int](), set[int]()
        for column in self._wanted.columns:
            with suppress(DataError):
                [name] = find_in_header(self.header, [column], "")
                (free if column.role in _FREE_ROLES else labels).add(self.header.index(name))
        return free, labels

    def places(self) -> list[int]:
        """The places of the wanted columns. Raises DataError if one is not to be found."""
        try:
            return [
                self.header.index(name) for name in find_in_header(self.header, self._wanted.columns, self._shown())
            ]
        except DataError as error:
            name = "a tab" if self.delimiter == "\t" else f"'{self.delimiter}'"
            what = f"{error.what} They are separated by {name}." if len(self.header) > 1 else error.what
            hint = f"{error.hint} If another character separates the cells, set {self._setting('delimiter')} to it."
            raise DataError(what, hint=hint) from error

    def _shown(self) -> str:
        return self._wanted.shown

    def _setting(self, key: str) -> str:
        return self._wanted.settings.text(key)

    def sheet_row(self, line: int) -> int | None:
        """The number that a spreadsheet gives to the row at a line, if it is another one: a row with line breaks has
        one number there, and Excel's declaration none."""
        joined = self._joined_lines[bisect_left(self._ends, line) - 1]
        return line - joined if joined else None

    def rows(self) -> Iterator[Record]:
        """The rows after the header, once `survey` has seen them. What cannot be used has a fault in place of cells."""
        for record in self._judged():
            if isinstance(record.cells, Fault):
                record = record._replace(cells=self._on_the_sheet(record.cells))
            yield record

    def _on_the_sheet(self, fault: Fault) -> Fault:
        return fault._replace(sheet_row=self.sheet_row(fault.row))

    def _judged(self) -> Iterator[Record]:
        for batch in self._batches():
            for record in batch.records():
                if record.first in self.swallowing:
                    yield from _refused(record, _SWALLOWS.format(record.last))
                elif isinstance(record.cells, Fault):
                    yield record
                elif (not batch.clean and (why := not_utf8(record.raw))) or (
                    why := unlike_a_row(record.cells, self.header)
                ):
                    yield from _refused(record, why)
                else:
                    yield record

    def notes(self) -> tuple[str, ...]:
        """What the user should know about how the file was read."""
        notes = []
        if not self.quotes and self._wanted.form.quotes is None:
            notes.append(f"{self._shown()}: quotation marks are read as part of the texts ({self._setting('quotes')})")
        if self.spanning:
            rows = "1 row holds" if self.spanning == 1 else f"{self.spanning:,} rows hold"
            notes.append(f"{self._shown()}: {rows} line breaks: {self.spanned_lines:,} lines")
        if self.empty:
            notes.append(empty_rows(self._shown(), self.empty))
        return tuple(notes)


class _Cells:
    """The cells of some columns, by row. `rows` holds the first line of each row."""

    def __init__(self, places: Sequence[int], header: Sequence[str]) -> None:
        self.places, self.header = places, header
        self.rows, self.faults = array("L"), list[Fault]()
        self.columns = tuple(PackedCells() for _ in places)
        self._first = (header[0], _BOM + header[0])

    def add(self, batch: Batch) -> None:
        self.faults += [record.cells for record in batch.faults if isinstance(record.cells, Fault)]
        first, rows = batch.first, batch.rows
        odd = not batch.clean or set(map(len, rows)) - {len(self.header)}
        if odd or any(row[0] in self._first for row in rows):
            usable = [place for place in range(len(rows)) if not self._is_faulty(batch, place)]
            first, rows = [first[place] for place in usable], [rows[place] for place in usable]
        self.rows.extend(first)
        for column, place in zip(self.columns, self.places, strict=True):
            column.extend([row[place] for row in rows])

    def _is_faulty(self, batch: Batch, place: int) -> bool:
        why = not_utf8(batch.raw[place]) or unlike_a_row(batch.rows[place], self.header)
        if why is not None:
            self._refuse(batch.record(place), why)
        return why is not None

    def _refuse(self, record: Record, why: str) -> None:
        self.faults += [line.cells for line in _refused(record, why) if isinstance(line.cells, Fault)]

    def refuse(self, swallowing: Mapping[int, Record]) -> None:
        """Turn these records into faults, and sort the faults."""
        if swallowing:
            taken = {row for record in swallowing.values() for row in range(record.first, record.last + 1)}
            self.faults = [fault for fault in self.faults if fault.row not in taken]
            for record in swallowing.values():
                self._refuse(record, _SWALLOWS.format(record.last))
            kept = array("L", (place for place, row in enumerate(self.rows) if row not in swallowing))
            self.rows = array("L", (self.rows[place] for place in kept))
            self.columns = tuple(PackedCells(column.at(kept)) for column in self.columns)
        self.faults.sort(key=lambda fault: fault.row)


def _refused(record: Record, what: str) -> Iterator[Record]:
    """A fault for every line of a record that cannot be used, so that rows in it do not go uncounted."""
    for offset, line in enumerate(lines_in(record.raw)):
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

    def add(self, batch: Batch) -> None:
        self.rows += len(batch.rows) + len(batch.faults)
        self.malformed += sum('"' in record.raw for record in batch.faults)
        for index, (raw, cells) in enumerate(zip(batch.raw, batch.rows, strict=True)):
            if '"' not in raw:
                continue
            for place in quoted_places(raw.rstrip("\r\n"), cells):
                cell = cells[place]
                self.columns[place] = self.columns.get(place, 0) + 1
                if index not in batch.last:
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


def _is_blank(line: str) -> bool:
    return not line.strip()


def _without_first(lines: Iterator[str]) -> Iterator[str]:
    """The lines, the first that is not blank made empty: so the numbers of the others stay."""
    found = False
    for line in lines:
        if not found and line.strip():
            found = True
            yield line[len(line.rstrip("\r\n")) :] or "\n"
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
            find_in_header(header.cells, wanted.columns, wanted.shown)
            found = True
        except DataError:
            found = False
        if (found, share) > best:
            best, chosen = (found, share), mark
    return chosen


def read_csv(path: Path, wanted: Wanted) -> Table:
    """The wanted columns of a CSV or TSV file."""
    check_encoding(path, wanted)
    try:
        file = DelimitedFile(lambda: open_lines(path, wanted.form), path.suffix.lower(), wanted)
        found = file.read(file.places())
    except OSError as error:
        raise DataError(f"{wanted.shown} cannot be read: {error.strerror}.") from error
    if not found.rows and not found.faults:
        raise DataError(f"{wanted.shown} has a header but no rows.", hint="It needs a row for each text.")
    classes = (None,) * len(found.columns)
    return Table(
        wanted.shown,
        found.rows,
        found.columns,
        classes,
        tuple(found.faults),
        notes=file.notes(),
        settings=wanted.settings,
        sheet_row=file.sheet_row,
    )


def unlike_a_row(cells: Sequence[str], header: Sequence[str]) -> str | None:
    """What is wrong with the cells of a row, apart from what they say."""
    if len(cells) != len(header):
        return wrong_length(cells, header)
    if len(cells) > 1 and [cells[0].removeprefix(_BOM), *cells[1:]] == list(header):
        return "the header again, as where two files were joined"
    return None


def wrong_length(record: Sequence[str], header: Sequence[str]) -> str:
    return f"{len(record):,} field{'' if len(record) == 1 else 's'} where the header has {len(header)}"
