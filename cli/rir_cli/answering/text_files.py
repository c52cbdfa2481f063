"""The file of texts that `classify` is given: which it is, and how it is read and written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rir_cli.context import tell

if TYPE_CHECKING:  # numpy is not needed to print help
    from rir_mlx.data.tables.table import TableFormat


_FIRST_ROWS = 1000


@dataclass(frozen=True)
class TableOptions:
    """How --file is read, and how --output is written."""

    text_column: Sequence[str] | None
    delimiter: str | None
    encoding: str | None
    quotes: bool | None
    formulas: bool
    force: bool
    quiet: bool

    def form(self) -> TableFormat:
        """Raises UserError for an invalid delimiter or encoding."""
        from rir_mlx.data.tables.table import TableFormat
        from rir_mlx.errors import UserError
        from rir_mlx.recipe.values import delimiter_mark, text_encoding

        option, given = "--delimiter", self.delimiter
        try:
            delimiter = delimiter_mark(given)
            option, given = "--encoding", self.encoding
            return TableFormat(delimiter, text_encoding(given), self.quotes)
        except ValueError as error:
            raise UserError(f"{option} {error}, not {given!r}.") from error

    def texts(self, file: Path) -> list[str]:
        """The texts of a file. Notes on how they are read are printed, and the rows without a text. Raises DataError
        with all rows that cannot be read, and if no row has a text."""
        from rir_mlx.classification.files import without_label
        from rir_mlx.data.loading import read_texts
        from rir_mlx.data.tables.table import fault_lines, first_lines

        found = read_texts(file, self.text_column, self.form())
        for note in () if self.quiet else found.notes:
            tell(f"note: {note}", err=True)
        if missing := len(found.left_out):
            rows = without_label(missing, missing + len(found.texts))
            tell(f"note: {file}: {rows}:{first_lines(fault_lines(found.left_out))}", err=True)
            tell("With --output, such rows keep their place beside the others.", err=True)
        return found.texts


def file_given_as_text(text: str | None, file: Path | None) -> tuple[str | None, Path | None]:
    """The text and the file that are meant: the name of a file of texts is taken for the file."""
    from rir_mlx.data.tables.table import TEXT_FILES
    from rir_mlx.errors import UserError, did_you_mean

    if text is None or file is not None or not text.lower().endswith(TEXT_FILES) or "\n" in text:
        return text, file
    path = Path(text)
    try:
        is_file = path.is_file()
    except OSError:  # too long for a name
        return text, file
    if is_file:
        tell(f"note: {text} is a file, and its texts are classified, as with --file.", err=True)
        return None, path
    if " " not in text:
        near = [entry.name for entry in path.parent.iterdir() if entry.is_file()] if path.parent.is_dir() else []
        raise UserError(
            f"There is no file {text}.{did_you_mean(path.name, near)}",
            hint=f"If it is a text: echo {text} | rir-mlx classify",
        )
    return text, file


def with_trained_column(table: TableOptions, file: Path | None, run: str | None, runs: Path) -> TableOptions:
    """The options with the text's columns in the file: those that are given, else those that the run was trained on. A
    single one counts if the file has it; else one with a usual name is looked for."""
    if table.text_column or file is None or file.suffix.lower() == ".txt":
        return table
    from rir_mlx.stages.opening import find_trained_run

    found = find_trained_run(run, runs)
    named = None if found is None else found.recipe().data.text_column
    if isinstance(named, str):
        there = _columns_of(file, table.form())
        if there and named not in there and not table.quiet:
            tell(f"note: {file} has no column {named!r}, which the run was trained on.", err=True)
        named = (named,) if named in there else None
    return replace(table, text_column=named)


def _columns_of(file: Path, form: TableFormat) -> Collection[str]:
    """The columns of a table's first rows; none if it cannot be read, which is said later."""
    from rir_mlx.data.tables.row_streams import Record, open_stream
    from rir_mlx.data.tables.table import Wanted
    from rir_mlx.errors import DataError

    try:
        rows = open_stream(file, Wanted([], str(file), form)).scan()
        first = (row.cells for row in islice(rows, _FIRST_ROWS) if isinstance(row, Record))
        return {name for cells in first for name in cells}
    except DataError:
        return ()
