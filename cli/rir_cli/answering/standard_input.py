"""Texts from the command line and from standard input, whose lines are given on as they arrive, so that a pipe is
answered while it is still open."""

from __future__ import annotations

import codecs
import os
import select
from collections.abc import Iterator
from itertools import islice
from typing import TextIO

from rir_mlx.data.cells import checked_text
from rir_mlx.errors import UserError
from rir_mlx.progress import Progress, counted

_READ_BYTES = 1 << 16
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def given_text(text: str, hint: str) -> str:
    """The text of an argument. Raises UserError if it is empty, or not in the terminal's encoding."""
    if not text.strip():
        raise UserError("The text is empty.", hint=hint)
    try:
        return checked_text(text, "text")
    except ValueError:
        raise UserError("The text is not UTF-8.", hint="Convert it: iconv -f ENCODING -t UTF-8") from None


def arriving_lines(stream: TextIO, most: int, progress: Progress) -> Iterator[list[str]]:
    """Lists of up to `most` lines, without empty ones, which are counted in a warning at the end. A list is yielded as
    soon as lines have arrived, full or not.

    Lines end with \\n or \\r\\n. Bytes that are not UTF-8 are replaced, with a warning at the end. Raises UserError for
    UTF-16 and for a line with a NUL byte."""
    replaced = number = empty = 0
    for lines in _raw_lines(stream, most):
        texts = []
        for line in lines:
            number += 1
            _check_line(line, number)
            text = line.decode("utf-8", "replace").removesuffix("\r").removeprefix("\ufeff")
            replaced += "\ufffd" in text and b"\xef\xbf\xbd" not in line
            if text.strip():
                texts.append(text)
            else:
                empty += 1
        if texts:
            yield texts
    if empty and empty < number:
        progress.warn(f"Left out of standard input: {counted(empty, 'empty line')}.")
    if replaced:
        progress.warn(f"{replaced:,} lines of standard input are not UTF-8: their invalid bytes were replaced.")


def _check_line(line: bytes, number: int) -> None:
    if number == 1 and line.startswith(_UTF16):
        raise UserError(
            "Standard input is UTF-16 text, not UTF-8.",
            hint="Convert it: iconv -f UTF-16 -t UTF-8 FILE | rir-mlx classify",
        )
    if b"\0" in line:
        raise UserError(
            f"Line {number:,} of standard input holds a NUL byte.",
            hint="Take it out, or save the texts as UTF-8 if all lines have some.",
        )


def _raw_lines(stream: TextIO, most: int) -> Iterator[list[bytes]]:
    try:
        descriptor = stream.fileno()
    except OSError:  # a stream in memory
        while lines := list(islice(stream, most)):
            yield [line.removesuffix("\n").encode("utf-8", "surrogatepass") for line in lines]
        return
    waiting: list[bytes] = []
    rest, ended = b"", False
    while not ended or waiting:
        while not ended and len(waiting) < most and (not waiting or _has_data(descriptor)):
            data = os.read(descriptor, _READ_BYTES)
            *whole, rest = (rest + data).split(b"\n")
            waiting += whole
            if not data:
                ended = True
                waiting += [rest] if rest else []
        yield waiting[:most]
        waiting = waiting[most:]


def _has_data(descriptor: int) -> bool:
    """Whether a read would return at once."""
    return bool(select.select([descriptor], [], [], 0)[0])
