"""Lines of standard input as they arrive, so that a pipe is answered while it is still open."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from itertools import islice
from typing import TextIO

from rir_mlx.progress import Progress

_READ_BYTES = 1 << 16


def arriving_lines(stream: TextIO, most: int, progress: Progress) -> Iterator[list[str]]:
    """Lists of up to `most` lines, without empty ones. A list is yielded as soon as lines have arrived, full or not.

    Lines end with \\n or \\r\\n. Bytes that are not UTF-8 are replaced, with a warning at the end."""
    replaced = 0
    for lines in _raw_lines(stream, most):
        texts = []
        for line in lines:
            text = line.decode("utf-8", "replace").removesuffix("\r").removeprefix("\ufeff")
            replaced += "\ufffd" in text and b"\xef\xbf\xbd" not in line
            if text.strip():
                texts.append(text)
        if texts:
            yield texts
    if replaced:
        progress.warn(f"{replaced:,} lines of standard input are not UTF-8: their invalid bytes were replaced.")


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
