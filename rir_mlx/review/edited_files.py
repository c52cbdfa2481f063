"""A table's file with other labels and reasonings in some rows. Every other row stays as it stands.

Files come out as UTF-8. Where quotation marks belong to the texts, no cell could hold the delimiter or a line break:
such a file comes out with marks that enclose its cells. A source of several files, of another format or on the hub
comes out as a plain table of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rir_mlx.data.columns import find_columns
from rir_mlx.data.rows import Row
from rir_mlx.data.tables.delimited import DelimitedFile
from rir_mlx.data.tables.json_lines import json_records
from rir_mlx.data.tables.quoting import quoted
from rir_mlx.data.tables.table import Fault, Wanted
from rir_mlx.data.tables.text_files import check_encoding, open_lines
from rir_mlx.json_text import json_of

DELIMITED, JSON_LINES = (".csv", ".tsv"), (".jsonl", ".ndjson")


class Edit(NamedTuple):
    """What a row gets in place of its label and its reasoning; None leaves it as it is. An empty reasoning deletes the
    row's own one. Where a text may have several labels, `labels` are those of `label`, for a cell that is a list."""

    label: str | None = None
    reasoning: str | None = None
    labels: Sequence[str] = ()


NO_EDIT = Edit()


class EditedFile(Protocol):
    """A file whose rows can be written again."""

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
        ...

    @property
    def changes_quotes(self) -> bool:
        """Whether its cells are quoted anew: `data.quotes` is then true of it."""
        ...

    def head(self, new_column: str | None) -> str:
        """What comes before the rows, with a column of reasonings added where it has none."""
        ...

    def lines(self, edits: Mapping[int, Edit], new_column: str | None) -> Iterator[tuple[int, str]]:
        """Each row's number and line, changed where `edits` has its number."""
        ...


class EditedTable:
    """A CSV or TSV file."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        check_encoding(path, wanted)
        self.file = DelimitedFile(lambda: open_lines(path, wanted.form), path.suffix.lower(), wanted)
        self.places = self.file.places()
        self.file.survey()
        with path.open("rb") as opened:
            self.bom = "\ufeff" if opened.read(3) == b"\xef\xbb\xbf" else ""

    @property
    def columns(self) -> list[str]:
        return self.file.header

    @property
    def changes_quotes(self) -> bool:
        return not self.file.quotes

    def head(self, new_column: str | None) -> str:
        declared = f"{self.file.declaration}{self.file.newline}" if self.file.declaration else ""
        return self.bom + declared + self._line(self._quoted(self.file.header_raw), [new_column] if new_column else [])

    def lines(self, edits: Mapping[int, Edit], new_column: str | None) -> Iterator[tuple[int, str]]:
        for record in self.file.rows():
            if isinstance(record.cells, Fault):
                # A row that has one cell too many must not become a whole one.
                yield record.first, self._line(self._quoted(record.raw), [""] if new_column else [])
                continue
            edit, raw, cells = edits.get(record.first, NO_EDIT), self._quoted(record.raw), list(record.cells)
            if edit.label is not None:
                cells[self.places[1]] = edit.label
            if edit.reasoning is not None and new_column is None:
                cells[self.places[2]] = edit.reasoning
            if cells != record.cells:
                raw = self._joined(cells)
            yield record.first, self._line(raw, [edit.reasoning or ""] if new_column else [])

    def _quoted(self, raw: str) -> str:
        """A row whose marks enclose its cells."""
        return raw if self.file.quotes else self._joined(raw.split(self.file.delimiter))

    def _joined(self, cells: Iterable[str]) -> str:
        return self.file.delimiter.join(quoted(cell, self.file.delimiter) for cell in cells)

    def _line(self, raw: str, more: Iterable[str]) -> str:
        added = [self._joined([cell]) for cell in more]
        return self.file.delimiter.join([raw, *added]) + self.file.newline


class EditedJsonLines:
    """A JSONL file."""

    changes_quotes = False

    def __init__(self, path: Path, wanted: Wanted) -> None:
        check_encoding(path, wanted)
        self.path, self.wanted = path, wanted
        names: dict[str, None] = {}
        for _, _, record in json_records(path, wanted):
            names.update(dict.fromkeys({} if isinstance(record, Fault) else record))
        self.columns = list(names)
        self.names = find_columns(self.columns, wanted.columns, wanted.shown)

    def head(self, new_column: str | None) -> str:
        return ""

    def lines(self, edits: Mapping[int, Edit], new_column: str | None) -> Iterator[tuple[int, str]]:
        for number, raw, record in json_records(self.path, self.wanted):
            edit = edits.get(number, NO_EDIT)
            if not isinstance(record, Fault):
                values: dict[str, Any] = {}
                if edit.label is not None:
                    values[self.names[1]] = _like(record.get(self.names[1]), edit.label, edit.labels)
                if edit.reasoning is not None:
                    values[new_column or self.names[2]] = edit.reasoning or None
                if values:
                    raw = json_of(record | values)
                if new_column is not None and edit.reasoning is None:
                    raw = f"{raw[:-1].rstrip()}{', ' if record else ''}{json_of(new_column)}: null}}"
            yield number, raw + "\n"


def _like(cell: Any, label: str, labels: Sequence[str] = ()) -> str | int | list[str | int]:
    """The label as the row had one: the `labels` in it as a list, or it as a whole number."""
    if isinstance(cell, list) and labels:
        return [_like(next(iter(cell), None), each) for each in labels]  # type: ignore[misc]
    return int(label) if type(cell) is int and label.lstrip("-").isdecimal() else label


def opened_for_edits(path: Path, wanted: Wanted) -> EditedFile | None:
    """The file, if its rows can be written again as they stand."""
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return EditedTable(path, wanted)
        case ".jsonl" | ".ndjson":
            return EditedJsonLines(path, wanted)
    return None


def plain_table(
    rows: Iterable[tuple[Row, Edit]],
    names: tuple[str, ...],
    suffix: str,
    delimiter: str | None = None,
    written: Callable[[Row], str] = lambda row: row.label,
) -> str:
    """Rows as a CSV, TSV or JSONL file with columns of text, label and reasoning. `written`: how a row's label stands
    in its cell."""
    cells = (
        (
            row.text,
            written(row) if edit.label is None else edit.label,
            row.reasoning if edit.reasoning is None else edit.reasoning or None,
        )
        for row, edit in rows
    )
    if suffix in JSON_LINES:
        return "".join(json_of(dict(zip(names, row, strict=True))) + "\n" for row in cells)
    mark = delimiter or ("\t" if suffix == ".tsv" else ",")
    return "".join(mark.join(quoted(cell or "", mark) for cell in row) + "\n" for row in (names, *cells))
