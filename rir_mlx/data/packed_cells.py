"""The cells of a column in little memory: some 100 million characters of text take a few bytes a row.

Distinct strings are held packed, thousands together as UTF-8, and decoded as they are asked for. From some megabytes on
they are moved to a temporary file without a name, which goes with the process. Cells that come again and again, as
labels do, are held once. Knows no file format.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby, islice
from typing import IO, Any, overload

TOGETHER = 4096
"""Cells that are packed together."""
IN_MEMORY = 1 << 22
"""Bytes of a column that stay in memory."""
_KNOWN = 10_000
"""So many different cells that come again and again are held once."""
_LONE = "surrogatepass"
"""A string from JSON may hold half a character, which UTF-8 has no place for."""


class PackedCells(Sequence[Any]):
    """The cells in their order, each equal to the one that was added. Cells of any type can be added, until somebody
    reads from several threads; reading alone is safe."""

    def __init__(self, cells: Iterable[Any] = ()) -> None:
        self._full: list[list[Any] | _Strings] = []
        self._last: list[Any] = []
        self._known: dict[str, str] = {}
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._file_size = 0
        cells = iter(cells)
        while stretch := list(islice(cells, TOGETHER)):
            self.extend(stretch)

    def append(self, cell: Any) -> None:
        self.extend((cell,))

    def extend(self, cells: Iterable[Any]) -> None:
        self._last += cells
        while len(self._last) >= TOGETHER:
            self._full.append(self._packed(self._last[:TOGETHER]))
            del self._last[:TOGETHER]

    def _packed(self, cells: list[Any]) -> list[Any] | _Strings:
        if not all(type(cell) is str for cell in cells):
            return cells
        if 2 * len(set(cells)) <= len(cells):
            return [self._known.setdefault(cell, cell) if len(self._known) < _KNOWN else cell for cell in cells]
        encoded = [cell.encode("utf-8", _LONE) for cell in cells]
        packed = b"".join(encoded)
        self._bytes += len(packed)
        kind = "I" if len(packed) < 1 << 32 else "Q"
        return _Strings(self._stored(packed), array(kind, accumulate(map(len, encoded), initial=0)))

    def _stored(self, packed: bytes) -> bytes | _InFile:
        """In memory, or in the file; in memory too where no file can be written."""
        if self._bytes <= IN_MEMORY or not hasattr(os, "pread"):
            return packed
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed with the cells)
            written = 0
            while written < len(packed):
                written += self._file.write(packed[written:])
        except OSError:
            if self._file is not None:
                self._file.seek(self._file_size)
            return packed
        place = self._file_size
        self._file_size += len(packed)
        return _InFile(self._file, place)

    def __len__(self) -> int:
        return len(self._full) * TOGETHER + len(self._last)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        group, place = divmod(range(len(self))[index], TOGETHER)
        return self._full[group][place] if group < len(self._full) else self._last[place]

    def __iter__(self) -> Iterator[Any]:
        return self.at(range(len(self)))

    def at(self, places: Iterable[int]) -> Iterator[Any]:
        """The cells at these places. What is packed together is read once for places that follow each other."""
        for group, found in groupby(places, lambda place: place // TOGETHER):
            cells = self._full[group] if group < len(self._full) else self._last
            if isinstance(cells, _Strings):
                cells = cells.in_memory()
            for place in found:
                yield cells[place % TOGETHER]


def cells_at(cells: Sequence[Any], places: Sequence[int]) -> Iterator[Any]:
    """The cells at these places, in that order."""
    if isinstance(cells, PackedCells) and len(places) > 1:
        return cells.at(places)
    return map(cells.__getitem__, places)


class _InFile:
    """Bytes of an open file, from a place on."""

    def __init__(self, file: IO[bytes], place: int) -> None:
        self.file, self.place = file, place

    def __getitem__(self, part: slice) -> bytes:
        """The bytes from part.start to part.stop. Raises OSError if the file does not hold them."""
        read = os.pread(self.file.fileno(), part.stop - part.start, self.place + part.start)
        if len(read) != part.stop - part.start:
            raise OSError("the temporary file of the rows is cut short")
        return read


class _Strings:
    """Strings as the UTF-8 of all, one after the other; string i ends where string i + 1 starts."""

    def __init__(self, packed: bytes | _InFile, starts: array[int]) -> None:
        self.packed, self.starts = packed, starts

    def __getitem__(self, place: int) -> str:
        return self.packed[self.starts[place] : self.starts[place + 1]].decode("utf-8", _LONE)

    def in_memory(self) -> _Strings:
        return _Strings(self.packed[0 : self.starts[-1]], self.starts)
