"""The file of texts that `classify` is given: which it is, and how it is read and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rir_cli.context import tell

if TYPE_CHECKING:  # numpy is not needed to print help
    from rir_mlx.data.tables.table import TableFormat


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
        """The texts of a file; notes on how they are read are printed. Raises DataError with all faults."""
        from rir_mlx.data.loading import read_texts

        notes: list[str] = []
        found = read_texts(file, self.text_column, self.form(), notes)
        for note in () if self.quiet else notes:
            tell(f"note: {note}", err=True)
        return found


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


def text_columns(given: Sequence[str] | None, file: Path | None, run: str | None, runs: Path) -> Sequence[str] | None:
    """The text's columns in a file: those that are given, else those that the run's texts are joined from, if they are
    several."""
    if given or file is None:
        return given
    from rir_mlx.stages.opening import find_trained_run

    found = find_trained_run(run, runs)
    if found is None:
        return None  # which is an error when the run is opened
    named = found.recipe().data.text_column
    return None if named is None or isinstance(named, str) else named
