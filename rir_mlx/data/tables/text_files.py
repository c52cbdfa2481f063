"""The text of a file: its encoding, its lines, and what in it is not text.

Files are UTF-8 unless the user names another encoding. A file in another one is refused with a guess; the guess is
offered, never used.
"""

from __future__ import annotations

import codecs
import io
import re
from array import array
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from rir_mlx.data.packed_cells import PackedCells
from rir_mlx.data.tables.table import ANY_FORMAT, Fault, Table, TableFormat, Wanted
from rir_mlx.errors import DataError

_BOM = b"\xef\xbb\xbf"
_WIDE = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks of wide encodings. UTF-32's begins with that of UTF-16."""
_OTHER_KINDS = {
    b"PK\x03\x04": ("an Excel workbook or a ZIP archive", "Name it .xlsx if it is a workbook, or unpack it."),
    b"PAR1": ("a Parquet file", "Name it .parquet."),
    b"\x1f\x8b": ("compressed with gzip", "Unpack it: gunzip < {name} > new{suffix}"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "Unpack it: zstd -d < {name} > new{suffix}"),
    b"\xd0\xcf\x11\xe0": ("a file of an old Office program", "Save it as .xlsx, or the sheet as CSV (UTF-8)."),
    b"%PDF-": ("a PDF file", "Save its table as CSV (UTF-8)."),
    b"SQLite format 3\0": ("an SQLite data base", "Write its table as CSV: sqlite3 -csv -header."),
}
"""The first bytes of files that are named after text and are none."""
_PAGES = (
    (
        re.compile(rb"version https://git-lfs\.github\.com/spec/"),
        "a Git LFS pointer: the file itself was not fetched",
        "Fetch it: git lfs pull",
    ),
    (
        re.compile(rb"<(?:!doctype\s+html|html[\s>])", re.IGNORECASE),
        "an HTML page, as of a site that asks to log in",
        "Download the file itself, or save the page's table as CSV (UTF-8).",
    ),
    (re.compile(rb"<\?xml\s"), "an XML file", "Save its table as CSV (UTF-8)."),
)
"""The same for files that are text, but neither a table nor a text a line."""
_PAGE_LINE = re.compile(rb"^(?:<html[\s>]|<\?xml\s)", re.IGNORECASE | re.MULTILINE)
_SAMPLE_BYTES = 1 << 16
_MOST_LINES = 2000
"""So many lines that are not UTF-8, and none that is, settle that the file is in another encoding."""
_BYTES = re.compile(rb"[\x80-\xff]")


def read_lines(path: Path, wanted: Wanted) -> Table:
    """A text a line, empty lines too."""
    check_encoding(path, wanted)
    rows, cells, faults = array("L"), PackedCells(), list[Fault]()
    for number, line in enumerate(open_lines(path, wanted.form), 1):
        if why := not_utf8(line):
            faults.append(Fault(number, why))
        else:
            rows.append(number)
            cells.append(line.rstrip("\r\n"))
    if not faults and not any(map(str.strip, cells)):
        raise empty_file(wanted)
    return Table(wanted.shown, rows, (cells,), (None,), tuple(faults), settings=wanted.settings)


def empty_file(wanted: Wanted) -> DataError:
    return DataError(f"{wanted.shown} is empty.", hint="It needs a row for each text.")


def open_lines(path: Path, form: TableFormat = ANY_FORMAT) -> Iterator[str]:
    """The lines of a file with their ends, without a byte order mark. Bytes that are not UTF-8 come out as lone
    surrogates, so that the other lines can still be read."""
    encoding = form.encoding or "utf-8"
    utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    codec, errors = ("utf-8", "surrogateescape") if utf8 else (encoding, "strict")
    with path.open(encoding=codec, errors=errors, newline="") as file:
        if first := next(file, "").removeprefix("\ufeff"):
            yield first
        yield from file


def not_utf8(text: str) -> str | None:
    """What is wrong with a text that holds bytes that are not UTF-8."""
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            return f"not UTF-8 text: byte 0x{code & 0xFF:02X} at column {error.start + 1}"
        return "half a character (a lone surrogate)"
    return None


def check_encoding(path: Path, wanted: Wanted) -> None:
    """Raise DataError if a file cannot be read, is not text, or is not in the encoding that the user named, else UTF-8.

    Single broken lines of a UTF-8 file are left to the reader, which names each."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
            _refuse_other_kinds(start, path, wanted)
            _refuse_pages(start, wanted.shown)
            if wanted.form.encoding is not None:
                _check_named(path, wanted)
                return
            _refuse_wide_text(start, path, wanted)
            file.seek(0)
            _refuse_other_encoding(file, path, wanted)
    except OSError as error:
        raise DataError(f"{wanted.shown} cannot be read: {error.strerror}.") from error


def _check_named(path: Path, wanted: Wanted) -> None:
    number = 0
    try:
        for _ in open_lines(path, wanted.form):
            number += 1
    except UnicodeError as error:
        raise DataError(
            f"{wanted.shown} is not {wanted.form.encoding} text: after row {number}: "
            f"{getattr(error, 'reason', error)}.",
            hint=f"Set {wanted.settings.text('encoding')} to the encoding of the file, or leave it out for UTF-8.",
        ) from error


class OtherEncoding(DataError):
    """A text that is not UTF-8. `encoding` is what it probably is, None if nothing is likely."""

    def __init__(self, encoding: str | None, what: str, hint: str) -> None:
        super().__init__(what, hint=hint)
        self.encoding = encoding


def _refuse_other_kinds(start: bytes, path: Path, wanted: Wanted) -> None:
    """Raise DataError if the first bytes of a file are those of another kind."""
    kind = next((kind for mark, kind in _OTHER_KINDS.items() if start.startswith(mark)), None)
    if kind is not None and (b"\0" in start or not start.isascii()):
        what, hint = kind
        raise DataError(
            f"{wanted.shown} is no text: it is {what}.", hint=hint.format(name=path.name, suffix=path.suffix)
        )


def refuse_pages(path: Path, shown: str) -> None:
    """Raise DataError if a file is a Git LFS pointer or a page, whatever its name."""
    with path.open("rb") as file:
        _refuse_pages(file.read(4096), shown)


def _refuse_pages(start: bytes, shown: str) -> None:
    start = start.removeprefix(_BOM).lstrip()
    if len(_PAGE_LINE.findall(start)) > 1:
        return  # texts that are pages, one a line
    while start.startswith(b"<!--") and (end := start.find(b"-->")) > 0:
        start = start[end + 3 :].lstrip()
    for pattern, what, hint in _PAGES:
        if pattern.match(start):
            raise DataError(f"{shown} is no table: it is {what}.", hint=hint)


def _refuse_wide_text(start: bytes, path: Path, wanted: Wanted) -> None:
    """Raise DataError if the first bytes of a file show that it is UTF-16 or no text."""
    if mark := next((mark for mark in _WIDE if start.startswith(mark)), None):
        name = _WIDE[mark]
        raise OtherEncoding(name, f"{wanted.shown} is {name.upper()} text, not UTF-8.", _conversion(name, path, wanted))
    if start.count(0) <= len(start) // 8:
        return
    even, odd = start[::2].count(0), start[1::2].count(0)
    if min(even, odd) * 4 < max(even, odd):
        guess = "utf-16-le" if odd > even else "utf-16-be"
        raise OtherEncoding(
            guess,
            f"{wanted.shown} is not UTF-8 text: it is full of NUL bytes. It looks like {guess}.",
            _conversion(guess, path, wanted),
        )
    raise DataError(f"{wanted.shown} is not a text file: it is full of NUL bytes.", hint="Save it as UTF-8 text.")


def _refuse_other_encoding(file: io.BufferedReader, path: Path, wanted: Wanted) -> None:
    """Raise DataError if lines are not UTF-8, and no line holds a character that is: the whole file then is in another
    encoding."""
    broken, first, sample = 0, "", bytearray()
    offset = 0
    for number, line in enumerate(file, 1):
        if number == 1 and line.startswith(_BOM):
            return
        if not line.isascii():
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                broken += 1
                first = first or f"row {number}: byte 0x{line[error.start]:02X} at offset {offset + error.start:,}"
                if len(sample) < _SAMPLE_BYTES:
                    sample += line
            else:
                return
        if broken >= _MOST_LINES:
            break
        offset += len(line)
    if broken:
        guess = _guess_encoding(bytes(sample))
        looks = f" It looks like {guess}." if guess else ""
        hint = _conversion(guess or "ENCODING", path, wanted)
        raise OtherEncoding(guess, f"{wanted.shown} is not UTF-8 text ({first}).{looks}", hint)


def _guess_encoding(sample: bytes) -> str | None:
    """The likeliest encoding of some text. Of the many that western text reads alike in, Windows-1252 is the usual."""
    from charset_normalizer import from_bytes

    found = from_bytes(sample)
    names = [name for match in found for name in (match.encoding, *match.could_be_from_charset)]
    if "cp1252" in names and not _is_mojibake(sample):
        return "cp1252"
    return names[0] if names else None


def _is_mojibake(sample: bytes) -> bool:
    """Whether most bytes beyond ASCII stand side by side, as letters of other scripts do."""
    beyond = len(_BYTES.findall(sample))
    pairs = sum(left >= 0x80 and right >= 0x80 for left, right in pairwise(sample))
    return 2 * pairs > beyond


def _conversion(encoding: str, path: Path, wanted: Wanted) -> str:
    return (
        f"Set {wanted.settings.text('encoding', encoding)} if that is right, or save it as UTF-8: "
        f"iconv -f {encoding.upper()} -t UTF-8 {path.name} > new{path.suffix}"
    )
