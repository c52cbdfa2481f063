"""Files whose cells have types: Parquet files and Excel's workbooks.

Of a workbook, the first visible sheet with cells is read; its first row names the columns. Cells come as they are
stored: numbers as numbers, formulas as the value that the program saved with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

from rir_mlx.data.columns import check_header, find_columns
from rir_mlx.data.packed_cells import PackedCells
from rir_mlx.data.tables.table import Table, Wanted, first_line
from rir_mlx.errors import DataError
from rir_mlx.json_text import parse_json

_BROKEN = (BadZipFile, KeyError, ValueError, OSError, EOFError, TypeError, AttributeError, SyntaxError)
"""What openpyxl raises for a file that is no workbook, or a broken one."""


def read_parquet(path: Path, wanted: Wanted) -> Table:
    """The wanted columns of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shown = wanted.shown
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            check_header(schema.names, shown)
            found = find_columns(schema.names, wanted.columns, shown)
            cells = tuple(PackedCells() for _ in found)
            for batch in file.iter_batches(columns=found):
                for column, name in zip(cells, found, strict=True):
                    values = batch.column(name)
                    column.extend(with_own_digits(values.to_pylist(), str(values.type)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shown} cannot be read as Parquet: {first_line(error)}") from error
    if not cells[0]:
        raise DataError(f"{shown} has columns but no rows.", hint="It needs a row for each text.")
    # The `datasets` library keeps its features, and with them the names of class ids, in the schema's metadata.
    features: dict[str, Any] = {}
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored:
        features = parse_json(stored).get("info", {}).get("features", {})
    names = [features.get(name) for name in found]
    classes = tuple(
        tuple(f["names"]) if isinstance(f, dict) and f.get("_type") == "ClassLabel" else None for f in names
    )
    return Table(shown, range(1, len(cells[0]) + 1), cells, classes)


def with_own_digits(values: list[Any], kind: str) -> list[Any]:
    """The values of a column of that type. Those of 16 and 32 bits get their own digits: 0.1, not
    0.10000000149011612."""
    import numpy as np

    number = {"halffloat": np.float16, "float16": np.float16, "float": np.float32, "float32": np.float32}.get(kind)
    if number is None:
        return values
    return [value if value is None else float(str(number(value))) for value in values]


class Sheet(NamedTuple):
    """A sheet's `name`, its column names, and its rows below them as (row number, cells)."""

    name: str
    header: list[str]
    rows: list[tuple[int, Sequence[Any]]]
    others: int
    """Further sheets with cells, which are not read."""

    def notes(self, shown: str) -> tuple[str, ...]:
        """Which sheet was read, if there are several."""
        if not self.others:
            return ()
        return (f"{shown}: the sheet {self.name!r} is read; {self.others:,} more with cells are not",)

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each row with its number, by column."""
        for number, cells in self.rows:
            yield number, {name: cell for name, cell in zip(self.header, cells, strict=True) if name}


def read_sheet(path: Path, shown: str) -> Sheet:
    """The first visible sheet that has cells. Raises DataError if there is none, or if the file is no workbook."""
    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
            filled = [(sheet.title, rows) for sheet in sheets if (rows := _rows(sheet))]
        finally:
            book.close()
    except _BROKEN as error:
        raise DataError(
            f"{shown} cannot be read as an Excel workbook: {first_line(error)}",
            hint="Open it in a spreadsheet program and save it again, without a password, as .xlsx or CSV (UTF-8).",
        ) from error
    if not filled:
        raise DataError(f"{shown} is empty.", hint="It needs a row for each text.")
    name, ((_, first), *rows) = filled[0]
    header = _names(first, [cells for _, cells in rows])
    check_header(header, shown)
    if not rows:
        raise DataError(f"{shown} has columns but no rows.", hint="It needs a row for each text.")
    return Sheet(name, header, [(number, _padded(cells, len(header))) for number, cells in rows], len(filled) - 1)


def _names(first: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The names of the columns. One without a name that has cells is called by its letter, so that none is lost."""
    from openpyxl.utils import get_column_letter

    filled = {place for cells in rows for place, cell in enumerate(cells) if cell not in (None, "")}
    names = {place: str(cell).strip() for place, cell in enumerate(first) if cell is not None and str(cell).strip()}
    return [
        names.get(place, f"column {get_column_letter(place + 1)}" if place in filled else "")
        for place in range(max({*names, *filled}) + 1)
    ]


def _rows(sheet: Any) -> list[tuple[int, Sequence[Any]]]:
    """The rows with a value, by their number in the sheet."""
    sheet.reset_dimensions()  # what a file says of them may be wrong
    numbered = enumerate(sheet.iter_rows(values_only=True), 1)
    return [(number, cells) for number, cells in numbered if any(cell not in (None, "") for cell in cells)]


def _padded(cells: Sequence[Any], width: int) -> Sequence[Any]:
    return [*cells[:width], *([None] * (width - len(cells)))]


def read_xlsx(path: Path, wanted: Wanted) -> Table:
    """The wanted columns of a workbook's first sheet."""
    sheet = read_sheet(path, wanted.shown)
    found = find_columns(sheet.header, wanted.columns, wanted.shown)
    places = [sheet.header.index(name) for name in found]
    cells = tuple(PackedCells(row[place] for _, row in sheet.rows) for place in places)
    notes = sheet.notes(wanted.shown)
    numbers = [number for number, _ in sheet.rows]
    return Table(wanted.shown, numbers, cells, (None,) * len(found), notes=notes, settings=wanted.settings)
