"""JSONL files: a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rir_mlx.data.columns import Column, find_columns
from rir_mlx.data.tables.table import Fault, Table, refuse
from rir_mlx.data.tables.text_files import decode, lines_of
from rir_mlx.errors import DataError


def read_jsonl(path: Path, columns: Sequence[Column], shown: str) -> Table:
    text, bad_lines = decode(path, shown)
    if text.lstrip().startswith("["):
        raise not_lines_of_json(path, shown)
    rows: list[int] = []
    records: list[dict[str, Any]] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        if number in bad_lines:
            faults.append(Fault(number, bad_lines[number]))
            continue
        record = json_record(number, line)
        if isinstance(record, Fault):
            faults.append(record)
        else:
            rows.append(number)
            records.append(record)
    if not rows:
        refuse([(shown, len(faults), faults)])
    found = find_columns(list(dict.fromkeys(name for record in records for name in record)), columns, shown)
    cells = tuple([record.get(name) for record in records] for name in found)
    return Table(shown, rows, cells, (None,) * len(found), tuple(faults))


def not_lines_of_json(path: Path, shown: str) -> DataError:
    return DataError(
        f"{shown} is one JSON array, not one JSON object a line.",
        hint=f"Turn it into lines, for example: jq -c '.[]' {path.name} > new.jsonl",
    )


def json_record(number: int, line: str) -> dict[str, Any] | Fault:
    """The JSON object of a line, or what is wrong with it."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return Fault(number, f"broken JSON at column {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:  # a number with too many digits, nesting without end
        return Fault(number, f"JSON that cannot be read: {error}")
    return record if isinstance(record, dict) else Fault(number, f"not a JSON object but {json.dumps(record)[:40]}")
