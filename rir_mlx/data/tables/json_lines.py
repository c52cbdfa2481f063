"""JSONL files: a JSON object a line."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rir_mlx.data.columns import find_columns
from rir_mlx.data.packed_cells import PackedCells
from rir_mlx.data.tables.table import Fault, Table, Wanted, as_lines_of_json, refuse
from rir_mlx.data.tables.text_files import check_encoding, empty_file, not_utf8, open_lines
from rir_mlx.errors import DataError
from rir_mlx.json_text import distinct


def read_jsonl(path: Path, wanted: Wanted) -> Table:
    """The wanted keys of a JSONL file."""
    rows, names = array("L"), dict[str, None]()
    faults: list[Fault] = []
    check_encoding(path, wanted)
    for number, _, record in json_records(path, wanted):
        if isinstance(record, Fault):
            faults.append(record)
        else:
            rows.append(number)
            names.update(dict.fromkeys(record))
    if not rows and not faults:
        raise empty_file(wanted)
    if not rows:
        refuse([(wanted.shown, len(faults), faults)])
    found = find_columns(list(names), wanted.columns, wanted.shown)
    cells = tuple(PackedCells() for _ in found)
    # Read a second time, for it is not known before which keys there are: all that other keys hold would not fit.
    for _, _, record in json_records(path, wanted):
        if not isinstance(record, Fault):
            for column, name in zip(cells, found, strict=True):
                column.append(record.get(name))
    if len(cells[0]) != len(rows):
        raise DataError(f"{wanted.shown} was changed while it was read.", hint="Run the same command again.")
    return Table(wanted.shown, rows, cells, (None,) * len(found), tuple(faults), settings=wanted.settings)


def json_records(path: Path, wanted: Wanted) -> Iterator[tuple[int, str, dict[str, Any] | Fault]]:
    """Each row with its number and how it stands in the file. Raises DataError if the file is one JSON array."""
    started = False
    for number, line in enumerate(open_lines(path, wanted.form), 1):
        raw = line.strip()
        if not raw:
            continue
        if not started and raw.startswith("["):
            what = f"{wanted.shown} is one JSON array, not one JSON object a line."
            raise DataError(what, hint=as_lines_of_json(path))
        started = True
        why = not_utf8(raw)
        yield number, raw, Fault(number, why) if why else json_record(number, raw)


def json_record(number: int, line: str) -> dict[str, Any] | Fault:
    """The JSON object of a line, or what is wrong with it."""
    try:
        record = json.loads(line, object_pairs_hook=distinct)
    except json.JSONDecodeError as error:
        return Fault(number, f"broken JSON at column {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:  # a number with too many digits, nesting without end
        return Fault(number, f"JSON that cannot be read: {error}")
    return record if isinstance(record, dict) else Fault(number, f"not a JSON object but {json.dumps(record)[:40]}")
