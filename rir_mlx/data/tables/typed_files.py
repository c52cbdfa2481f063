"""Files whose cells have types: Parquet files and Excel's workbooks.

Of a workbook, the first visible sheet with cells is read; its first row names the columns. Cells come as they are
stored: numbers as numbers, formulas as the value that the program saved with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

from rir_mlx.data.columns import check_header, find_columns, find_in_header, listed
from rir_mlx.data.packed_cells import PackedCells
from rir_mlx.data.tables.table import Table, Wanted, empty_rows, first_line
from rir_mlx.data.tables.text_files import refuse_pages
from rir_mlx.errors import DataError
from rir_mlx.json_text import parse_json
from rir_mlx.progress import counted

_BROKEN = (BadZipFile, KeyError, ValueError, OSError, EOFError, TypeError, AttributeError, SyntaxError)
"""What openpyxl raises for a file that is no workbook, or a broken one."""
_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")
"""How a workbook's text writes a character that XML cannot hold (ECMA-376, ST_Xstring)."""
_PIECE = 1 << 20
_HIDDEN = re.compile(rb'<(?:\w+:)?(row|col)\s([^>]*\bhidden="(?:1|true)"[^>]*)>')
_UNSAVED = re.compile(
    rb"<(?:\w+:)?c\s([^>]*)>\s*<(?:\w+:)?f\b[^>]*?(?:/>|>[^<]*</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)
"""A cell with a formula and no value. One of the type `str` has a value: the empty text."""
_ATTRIBUTE = re.compile(rb'(\w+)="([^"]*)"')


def read_parquet(path: Path, wanted: Wanted) -> Table:
    """The wanted columns of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shown = wanted.shown
    try:
        refuse_pages(path, shown)
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            check_header(schema.names, shown)
            found = find_columns(schema.names, wanted.columns, shown)
            cells = tuple(PackedCells() for _ in found)
            for batch in file.iter_batches(columns=found):
                for column, name in zip(cells, found, strict=True):
                    values = batch.column(name)
                    column.extend(with_own_digits(python_values(values, name, len(column), shown), str(values.type)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shown} cannot be read as Parquet: {first_line(error)}") from error
    if not cells[0]:
        raise DataError(f"{shown} has columns but no rows.", hint="It needs a row for each text.")
    features = _features((schema.metadata or {}).get(b"huggingface"))
    classes = tuple(_class_names(features.get(name), name, shown) for name in found)
    return Table(shown, range(1, len(cells[0]) + 1), cells, classes)


def python_values(values: Any, name: str, before: int, shown: str) -> list[Any]:
    """The values of a piece of the column `name`, which has `before` rows ahead of it. Raises DataError, naming the
    row, for one that Python cannot hold: bytes that are not UTF-8, a date out of its range."""
    try:
        return list(values.to_pylist())
    except (ValueError, OverflowError):
        pass
    for place, value in enumerate(values):
        try:
            value.as_py()
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{shown}, row {before + place + 1}: the value of the column {name!r} cannot be read: "
                f"{first_line(error).rstrip('.')}.",
                hint="Correct it, or write the file without this column.",
            ) from error
    raise DataError(f"{shown}: the column {name!r} cannot be read.", hint="Write the file without this column.")


def _features(stored: bytes | None) -> dict[str, Any]:
    """The features that the `datasets` library keeps in a schema's metadata; none if these are of another form."""
    try:
        found = parse_json(stored or b"{}")
    except ValueError:
        return {}
    for key in ("info", "features"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _class_names(feature: Any, column: str, shown: str) -> tuple[str, ...] | None:
    """The name of each class id of a column, or of a column of lists of ids, if it has any. Raises DataError if two
    classes have one name."""
    if isinstance(feature, list) and len(feature) == 1:  # as older versions write lists
        feature = feature[0]
    elif isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(
            f"{shown}: two classes of the column {column!r} are called {twice[0]!r}.",
            hint="Give each class a name of its own.",
        )
    return tuple(names)


def with_own_digits(values: list[Any], kind: str) -> list[Any]:
    """The values of a column of that type. Those of 16 and 32 bits get their own digits: 0.1, not
    0.10000000149011612."""
    import numpy as np

    number = {"halffloat": np.float16, "float16": np.float16, "float": np.float32, "float32": np.float32}.get(kind)
    if number is None:
        return values
    return [value if value is None else float(str(number(value))) for value in values]


class _Marks(NamedTuple):
    """What a sheet's cells do not tell: the numbers of its hidden rows and columns, and the (row, column) of each
    formula without a saved value, all counted from 1."""

    rows: set[int]
    columns: set[int]
    unsaved: list[tuple[int, int]]

    def refuse_unsaved(self, shown: str, cells: Sequence[tuple[int, int]]) -> None:
        """Raise DataError if there are any of these cells."""
        if cells:
            what = f"{counted(len(cells), 'cell')}, the first in row {min(cells)[0]},"
            raise DataError(
                f"{shown}: {what} {'holds' if len(cells) == 1 else 'hold'} a formula without a saved value.",
                hint="Open the file in a spreadsheet program and save it.",
            )


class Sheet(NamedTuple):
    """A sheet's `name`, its column names, and its rows below them as (row number, cells)."""

    name: str
    header: list[str]
    rows: list[tuple[int, Sequence[Any]]]
    others: int
    """Further sheets with cells, which are not read."""
    marks: _Marks
    empty: int = 0
    """Rows below the header without anything in them, which are left out."""

    def notes(self, shown: str, used: Sequence[str]) -> tuple[str, ...]:
        """What a look at the workbook does not show: other sheets with cells, and what is hidden of the rows and of the
        columns `used`."""
        notes = []
        if self.others:
            notes.append(f"{shown}: the sheet {self.name!r} is read; {self.others:,} more with cells are not")
        if rows := sum(number in self.marks.rows for number, _ in self.rows):
            notes.append(f"{shown}: {counted(rows, 'row')} {'is' if rows == 1 else 'are'} hidden, and read")
        if columns := [name for name in used if self.header.index(name) + 1 in self.marks.columns]:
            notes.append(f"{shown}: hidden columns are read: {listed(columns)}")
        if self.empty:
            notes.append(empty_rows(shown, self.empty))
        return tuple(notes)

    def check_saved(self, shown: str, used: Sequence[str]) -> None:
        """Raise DataError if the columns `used` hold formulas without a saved value."""
        places = {self.header.index(name) + 1 for name in used}
        self.marks.refuse_unsaved(shown, [(row, place) for row, place in self.marks.unsaved if place in places])

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each row with its number, by column."""
        for number, cells in self.rows:
            yield number, {name: cell for name, cell in zip(self.header, cells, strict=True) if name}


def read_sheet(path: Path, shown: str) -> Sheet:
    """The first visible sheet that has cells. Raises DataError if there is none, or if the file is no workbook."""
    import openpyxl

    try:
        refuse_pages(path, shown)
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            visible = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
            filled = [(sheet, *found) for sheet in visible if (found := _rows(sheet))[0]]
            if not filled:
                raise _without_cells(book, visible, shown)
            marks = _marks(filled[0][0])
        finally:
            book.close()
    except _BROKEN as error:
        raise DataError(
            f"{shown} cannot be read as an Excel workbook: {first_line(error)}",
            hint="Open it in a spreadsheet program and save it again, without a password, as .xlsx or CSV (UTF-8).",
        ) from error
    sheet, ((top, first), *rows), last = filled[0]
    header = _names(first, [cells for _, cells in rows])
    check_header(header, shown)
    if not rows:
        marks.refuse_unsaved(shown, marks.unsaved)
        raise DataError(f"{shown} has columns but no rows.", hint="It needs a row for each text.")
    padded = [(number, _padded(cells, len(header))) for number, cells in rows]
    return Sheet(sheet.title, header, padded, len(filled) - 1, marks, last - top - len(rows))


def _without_cells(book: Any, visible: Sequence[Any], shown: str) -> DataError:
    """The error for a workbook whose visible sheets have no cells."""
    for sheet in visible:
        marks = _marks(sheet)
        marks.refuse_unsaved(shown, marks.unsaved)
    if hidden := [sheet.title for sheet in book.worksheets if sheet not in visible and _rows(sheet)[0]]:
        return DataError(
            f"{shown}: the sheet {hidden[0]!r} is hidden, and no other has cells.", hint="Show it, and save the file."
        )
    if not book.worksheets and b"purl.oclc.org/ooxml" in book._archive.read("xl/workbook.xml"):
        return DataError(
            f"{shown} is a workbook of the kind 'Strict Open XML', which is not read.",
            hint="Save it as 'Excel Workbook (.xlsx)', or as CSV (UTF-8).",
        )
    return DataError(f"{shown} is empty.", hint="It needs a row for each text.")


def _marks(sheet: Any) -> _Marks:
    """What openpyxl does not give of a sheet that it streams, from the sheet's XML."""
    from openpyxl.utils.cell import column_index_from_string, coordinate_from_string

    found = _Marks(set(), set(), [])
    for piece in _pieces(sheet):
        for kind, text in _HIDDEN.findall(piece):
            values = _attributes(text)
            if kind == b"row":
                found.rows.add(int(values.get("r", 0)))
            else:
                found.columns.update(range(int(values["min"]), int(values["max"]) + 1))
        for text in _UNSAVED.findall(piece):
            values = _attributes(text)
            if values.get("t") != "str" and "r" in values:
                letters, row = coordinate_from_string(values["r"])
                found.unsaved.append((row, column_index_from_string(letters)))
    return found


def _pieces(sheet: Any) -> Iterator[bytes]:
    """The XML of a sheet, cut at the ends of rows."""
    rest = b""
    with sheet._get_source() as source:
        while data := source.read(_PIECE):
            end = data.rfind(b"row>") + 4
            if end > 3:
                yield rest + data[:end]
                rest = data[end:]
            else:
                rest += data
    yield rest


def _attributes(text: bytes) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in _ATTRIBUTE.findall(text)}


def _names(first: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The names of the columns. One without a name that has cells is called by its letter, so that none is lost."""
    from openpyxl.utils import get_column_letter

    filled = {place for cells in rows for place, cell in enumerate(cells) if cell not in (None, "")}
    names = {place: str(cell).strip() for place, cell in enumerate(first) if cell is not None and str(cell).strip()}
    return [
        names.get(place, f"column {get_column_letter(place + 1)}" if place in filled else "")
        for place in range(max({*names, *filled}) + 1)
    ]


def _rows(sheet: Any) -> tuple[list[tuple[int, Sequence[Any]]], int]:
    """The rows in which something stands, by their number in the sheet, and the number of the last row with a value,
    which may be blanks alone."""
    sheet.reset_dimensions()  # what a file says of them may be wrong
    found, last = list[tuple[int, Sequence[Any]]](), 0
    for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
        values = [cell for cell in cells if cell not in (None, "")]
        last = number if values else last
        if any(not isinstance(value, str) or value.strip() for value in values):
            found.append((number, [_unescaped(cell) for cell in cells]))
    return found, last


def _unescaped(cell: Any) -> Any:
    """A text without the escapes of the file format (`_x000D_`), and with the line ends of every other table."""
    if not isinstance(cell, str) or ("_x" not in cell and "\r" not in cell):
        return cell
    text = _ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), cell).replace("\r\n", "\n").replace("\r", "\n")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")  # joins the halves of a character


def _padded(cells: Sequence[Any], width: int) -> Sequence[Any]:
    return [*cells[:width], *([None] * (width - len(cells)))]


def read_xlsx(path: Path, wanted: Wanted) -> Table:
    """The wanted columns of a workbook's first sheet."""
    sheet = read_sheet(path, wanted.shown)
    found = find_in_header(sheet.header, wanted.columns, wanted.shown)
    sheet.check_saved(wanted.shown, found)
    places = [sheet.header.index(name) for name in found]
    cells = tuple(PackedCells(row[place] for _, row in sheet.rows) for place in places)
    notes = sheet.notes(wanted.shown, found)
    numbers = [number for number, _ in sheet.rows]
    return Table(wanted.shown, numbers, cells, (None,) * len(found), notes=notes, settings=wanted.settings)
