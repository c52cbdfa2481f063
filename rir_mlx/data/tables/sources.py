"""Where a source points: an embedded file, a file, a pattern of files, a folder, or a data set on the hub."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rir_mlx.data.columns import Column, joined_text, taken_apart
from rir_mlx.data.labels.columns_of_labels import joined_labels
from rir_mlx.data.packed_cells import PackedCells
from rir_mlx.data.tables.delimited import read_csv
from rir_mlx.data.tables.hub import HUB_ID, holds_data_set, read_data_set, refuse_saved_data_set
from rir_mlx.data.tables.json_lines import read_jsonl
from rir_mlx.data.tables.table import (
    ACCEPTED,
    ANY_FORMAT,
    Settings,
    Table,
    TableFormat,
    Wanted,
    missing_file,
    unreadable_kind,
)
from rir_mlx.data.tables.typed_files import read_parquet, read_xlsx
from rir_mlx.errors import DataError, did_you_mean
from rir_mlx.recipe.builtin import BUILTIN, EMBEDDED
from rir_mlx.recipe.schema import SourceSpec
from rir_mlx.types import TABLE_SUFFIXES

_OTHER_FILES = (".txt", ".json", ".xls", ".ods", ".gz", ".zip", ".arrow", ".feather", ".md", ".yaml", ".yml")
_LOCK = "~$"
"""What the name of the file begins with that Excel puts beside an open workbook."""


def read_tables(source: SourceSpec, columns: Sequence[Column], key: str, form: TableFormat = ANY_FORMAT) -> list[Table]:
    """Read the wanted columns from wherever a recipe's source points. `key` is the source's place in the recipe.

    Raises DataError if nothing is found, a file cannot be read at all, or a column is missing."""
    path, settings = source.path, Settings(key.partition(".")[0])
    if path.startswith(BUILTIN):
        name = path.removeprefix(BUILTIN)
        known = sorted(file.name for file in EMBEDDED.glob("*") if file.suffix in TABLE_SUFFIXES)
        if name not in known:
            raise DataError(
                f"{key}: there is no embedded data called {name!r}.{did_you_mean(name, known)}",
                hint=f"Known: {', '.join(known) or 'none'}.",
            )
        return [read_file(EMBEDDED / name, Wanted(columns, path))]
    place = place_of(path)
    if place.is_dir():
        refuse_saved_data_set(place, key)
        if not holds_data_set(place):
            raise DataError(f"{key}: {path} is a folder.", hint=ACCEPTED)
        return [_joined(read_data_set(source, taken_apart(columns), key, str(place)), columns)]
    if files := files_of(source):
        _refuse_split(source, key)
        return [read_file(file, Wanted(columns, str(file), form, settings)) for file in files]
    if glob.has_magic(path):
        raise DataError(f"{key}: no file fits the pattern {path}, seen from {Path.cwd()}.", hint=ACCEPTED)
    if place.suffix.lower() in TABLE_SUFFIXES + _OTHER_FILES or not HUB_ID.fullmatch(path):
        raise missing_file(place, key)
    return [_joined(read_data_set(source, taken_apart(columns), key, path), columns)]


def _refuse_split(source: SourceSpec, key: str) -> None:
    """Raise DataError if a part of a file of labelled rows is wanted: all of its rows would be taken. A split that
    stands beside a config is what is left of a data set whose `path` alone was set."""
    if source.split and source.config is None and key.startswith("data."):
        raise DataError(
            f"{key}.split is {source.split!r}, and {source.path} is a file, all rows of which are read.",
            hint="Save each part as a table and name it, or leave out the split. "
            "data.val_size and data.test_size split a table at random.",
        )


def files_of(source: SourceSpec) -> list[Path]:
    """The files of this machine that a source names: none for a data set on the hub, all for that of a folder."""
    path = source.path
    if path.startswith(BUILTIN):
        return [EMBEDDED / path.removeprefix(BUILTIN)]
    place = place_of(path)
    if place.is_file():
        return [place]
    found = place.rglob("*") if place.is_dir() else map(Path, glob.glob(str(place), recursive=True))
    return sorted(file for file in found if file.is_file() and not file.name.startswith(_LOCK))


def place_of(path: str) -> Path:
    """The place of that name on this machine: `~` is the home folder, unless a file is called so."""
    place = Path(path)
    with suppress(RuntimeError):  # there is no such user
        return place if place.exists() else place.expanduser()
    return place


def read_file(path: Path, wanted: Wanted) -> Table:
    """Read the wanted columns of one file. A text of several columns is one cell, and so is a label of several."""
    return _joined(_read_columns(path, replace(wanted, columns=taken_apart(wanted.columns))), wanted.columns)


def _joined(table: Table, columns: Sequence[Column]) -> Table:
    """The table with the columns of a text as one, and those of a label."""
    if not any(column.more for column in columns):
        return table
    cells, classes, place = list[Sequence[Any]](), [], 0
    for column in columns:
        names = (column.name or "", *column.more)
        own = slice(place, place + len(names))
        rows = zip(*table.cells[own], strict=True)
        if not column.more:
            cells.append(table.cells[place])
        elif column.role == "label":
            cells.append(PackedCells(joined_labels(names, rows, table.class_names[own])))
        else:
            cells.append(PackedCells(joined_text(names, row) for row in rows))
        classes.append(None if column.more else table.class_names[place])
        place += len(names)
    return replace(table, cells=tuple(cells), class_names=tuple(classes))


def _read_columns(path: Path, wanted: Wanted) -> Table:
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return read_csv(path, wanted)
        case ".jsonl" | ".ndjson":
            return read_jsonl(path, wanted)
        case ".parquet":
            return read_parquet(path, wanted)
        case ".xlsx":
            return read_xlsx(path, wanted)
    raise unreadable_kind(path, wanted)
