"""The augmented rows that a run keeps, and their statistics, read back: each row finds its reasoning by its id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rir_mlx.data.rows import Row
from rir_mlx.errors import UserError
from rir_mlx.storage.atomic import read_json, read_jsonl
from rir_mlx.storage.digests import digest_of_file
from rir_mlx.storage.layout import Stage

_WRITES_AGAIN = "Run `rir-mlx augment`: it writes the file again. Reasonings in the journal are not generated again."


def read_reasonings(path: Path, rows: Sequence[Row]) -> list[str | None]:
    """The reasoning that each row has in a file of augmented rows, found by its id; None if no reasoning was kept.

    Raises UserError if the file holds other rows than these, or rows without ids."""
    rows_by_id = {row.id: row for row in rows}
    reasonings: dict[str, str] = {}
    for record in read_jsonl(path, _mend(path)):
        row_id = record.get("id")
        if row_id is None:
            raise _other_rows(f"{path} was written by an earlier version: its rows have no ids.")
        row = rows_by_id.get(row_id)
        if row is None or (row.text, row.label) != (record["text"], record["label"]):
            raise _other_rows(f"{path} holds a row that is not one of this run: {row_id}, {record['text'][:60]!r}.")
        if row_id in reasonings:
            raise _other_rows(f"{path} holds the row {row_id} twice.")
        reasonings[row_id] = record["reasoning"]
    return [reasonings.get(row.id) for row in rows]


def digest_of_rows(path: Path) -> str:
    """A short hash of a file of augmented rows. Raises UserError if it is missing."""
    try:
        return digest_of_file(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", hint=_mend(path)) from error


def read_stats(path: Path) -> dict[str, Any]:
    """The statistics of the augmentation. Raises UserError if the file is damaged."""
    return read_json(path, _mend(path))


def _mend(path: Path) -> str:
    return f"Delete {Stage(path.parent).record}. {_WRITES_AGAIN}"


def _other_rows(what: str) -> UserError:
    return UserError(what, hint=_WRITES_AGAIN)
