"""The text of a UTF-8 file, and its lines that are not UTF-8."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

from rir_mlx.data.tables.table import Fault, Table
from rir_mlx.errors import DataError

_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")


def read_lines(path: Path) -> Table:
    """A text a line, empty lines too."""
    text, bad_lines = decode(path, str(path))
    lines = {n: line for n, line in enumerate(io.StringIO(text, newline=None), 1) if n not in bad_lines}
    cells = [line.removesuffix("\n") for line in lines.values()]
    return Table(str(path), list(lines), (cells,), (None,), tuple(Fault(*bad) for bad in bad_lines.items()))


def decode(path: Path, shown: str) -> tuple[str, dict[int, str]]:
    """The text of a UTF-8 file, with or without byte order mark, and its lines that are not UTF-8, in words.

    Such lines come out with lone surrogates, so that the other lines can still be read.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{shown} cannot be read: {error.strerror}.") from error
    refuse_other_text(raw[:4096], path, shown)
    body = raw.removeprefix(b"\xef\xbb\xbf")
    if not body.strip():
        raise DataError(f"{shown} is empty.", hint="It needs a row for each text.")
    try:
        return body.decode("utf-8"), {}
    except UnicodeDecodeError:
        return body.decode("utf-8", "surrogateescape"), dict(_lines_not_utf8(body, len(raw) - len(body)))


def refuse_other_text(start: bytes, path: Path, shown: str) -> None:
    """Raise DataError where the first bytes of a file say that it is not UTF-8 text."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{shown} is UTF-16 text, not UTF-8.",
            hint=f"Save it as UTF-8, for example: iconv -f UTF-16 -t UTF-8 {path.name} > new{path.suffix}",
        )
    if start.count(0) > len(start) // 8:
        raise DataError(f"{shown} is not a text file: it is full of NUL bytes.", hint="Save it as UTF-8 text.")


def _lines_not_utf8(body: bytes, offset: int) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(body.splitlines(keepends=True), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = line[error.start]
            yield number, f"not UTF-8 text: byte 0x{byte:02X} at offset {offset + error.start:,} of the file"
        offset += len(line)


def lines_of(text: str) -> Iterator[str]:
    """The lines with their ends, as a file without translation gives them; `io.StringIO` takes four bytes for each
    character, and `splitlines` all lines at once."""
    return (found.group() for found in _LINE.finditer(text))
