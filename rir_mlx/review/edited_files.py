"""A table's file with other labels and reasonings in some rows. Every other row stays as it stands, byte for byte.

Files come out as UTF-8. A source that is no single CSV, TSV or JSONL file comes out as a plain table of its rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rir_mlx.data.columns import find_columns
from rir_mlx.data.rows import Row
from rir_mlx.data.tables.delimited import DelimitedFile
from rir_mlx.data.tables.json_lines import json_records
from rir_mlx.data.tables.quoting import quoted
from rir_mlx.data.tables.table import Fault, Wanted
from rir_mlx.data.tables.text_files import check_encoding, open_lines

DELIMITED, JSON_LINES = (".csv", ".tsv"), (".jsonl", ".ndjson")


class Edit(NamedTuple):
    """What a row gets in place of its label and its reasoning; None leaves it as it is."""

    label: str | None = None
    reasoning: str | None = None


NO_EDIT = Edit()


class EditedFile(Protocol):
    """A file whose rows can be written again."""

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
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

    def head(self, new_column: str | None) -> str:
        declared = f"{self.file.declaration}{self.file.newline}" if self.file.declaration else ""
        return self.bom + declared + self._line(self.file.header_raw, [new_column] if new_column else [])

    def lines(self, edits: Mapping[int, Edit], new_column: str | None) -> Iterator[tuple[int, str]]:
        for record in self.file.rows():
            if isinstance(record.cells, Fault):
                yield record.first, record.raw + self.file.newline
                continue
            edit, raw, cells = edits.get(record.first, NO_EDIT), record.raw, list(record.cells)
            if edit.label is not None:
                cells[self.places[1]] = edit.label
            if edit.reasoning is not None and new_column is None:
                cells[self.places[2]] = edit.reasoning
            if cells != record.cells:
                raw = self.file.delimiter.join(map(self._cell, cells))
            yield record.first, self._line(raw, [edit.reasoning or ""] if new_column else [])

    def _line(self, raw: str, more: Iterable[str]) -> str:
        return self.file.delimiter.join([raw, *map(self._cell, more)]) + self.file.newline

    def _cell(self, cell: str) -> str:
        return quoted(cell, self.file.delimiter) if self.file.quotes else " ".join(cell.split())


class EditedJsonLines:
    """A JSONL file."""

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
                    values[self.names[1]] = _like(record.get(self.names[1]), edit.label)
                if edit.reasoning is not None or new_column is not None:
                    values[new_column or self.names[2]] = edit.reasoning
                raw = json.dumps({**record, **values}, ensure_ascii=False) if values else raw
            yield number, raw + "\n"


def _like(cell: Any, label: str) -> str | int:
    """The label as a whole number, if the row had one."""
    return int(label) if type(cell) is int and label.lstrip("-").isdecimal() else label


def opened_for_edits(path: Path, wanted: Wanted) -> EditedFile | None:
    """The file, if its rows can be written again as they stand."""
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return EditedTable(path, wanted)
        case ".jsonl" | ".ndjson":
            return EditedJsonLines(path, wanted)
    return None


def plain_table(rows: Iterable[tuple[Row, Edit]], names: tuple[str, ...], suffix: str) -> str:
    """Rows as a CSV, TSV or JSONL file with columns of text, label and reasoning."""
    cells = (
        (row.text, row.label if edit.label is None else edit.label, edit.reasoning or row.reasoning)
        for row, edit in rows
    )
    if suffix in JSON_LINES:
        return "".join(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in cells)
    mark = "\t" if suffix == ".tsv" else ","
    return "".join(mark.join(quoted(cell or "", mark) for cell in row) + "\n" for row in (names, *cells))
