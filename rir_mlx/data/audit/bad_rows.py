"""A file taken apart into the rows that can be used and those that cannot, each as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rir_mlx.data.tables.delimited import DelimitedFile
from rir_mlx.data.tables.json_lines import json_records
from rir_mlx.data.tables.quoting import quoted, split_records
from rir_mlx.data.tables.table import Fault, Wanted
from rir_mlx.data.tables.text_files import check_encoding, open_lines
from rir_mlx.errors import UserError
from rir_mlx.json_text import json_of

_LINE, _WHY = "line_in_file", "why_rejected"


class Sorted(NamedTuple):
    """The text of two files: `clean` has the usable rows, `rejects` the others behind their line and what is wrong."""

    clean: str
    rejects: str
    kept: int
    rejected: int


def sort_rows(path: Path, wanted: Wanted, faults: Mapping[int, str]) -> Sorted:
    """Take a CSV, TSV or JSONL file apart. `faults` has what is wrong with the row at a line.

    Raises UserError for files of another kind."""
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return _sort_delimited(path, wanted, faults)
        case ".jsonl" | ".ndjson":
            return _sort_json(path, wanted, faults)
    raise UserError(f"--write takes CSV, TSV and JSONL files apart, not {path}.", hint="Save it as one of these.")


def _sort_delimited(path: Path, wanted: Wanted, faults: Mapping[int, str]) -> Sorted:
    check_encoding(path, wanted)
    file = DelimitedFile(lambda: open_lines(path, wanted.form), path.suffix.lower(), wanted)
    file.survey()
    mark, end = file.delimiter, file.newline
    head = f"{file.declaration}{end}" if file.declaration else ""
    with path.open("rb") as opened:
        head = ("\ufeff" if opened.read(3) == b"\xef\xbb\xbf" else "") + head
    clean = [head + file.header_raw]
    rejects = [head + mark.join([_LINE, _WHY, file.header_raw])]
    for record in file.rows():
        why = faults.get(record.first)
        if why is None:
            clean.append(record.raw)
            continue
        alone = list(split_records([record.raw], mark, quotes=file.quotes)) if file.quotes else []
        whole = not file.quotes or (len(alone) == 1 and not isinstance(alone[0].cells, Fault))
        because = quoted(why, mark) if file.quotes else why.replace(mark, " ")
        rejects.append(mark.join([str(record.first), because, record.raw if whole else quoted(record.raw, mark)]))
    return Sorted(end.join([*clean, ""]), end.join([*rejects, ""]), len(clean) - 1, len(rejects) - 1)


def _sort_json(path: Path, wanted: Wanted, faults: Mapping[int, str]) -> Sorted:
    clean, rejects = [], []
    for number, raw, record in json_records(path, wanted):
        if (why := faults.get(number)) is None:
            clean.append(raw)
            continue
        row = {"row": raw} if isinstance(record, Fault) else record
        about = {_LINE: number, _WHY: why}
        rejects.append(json_of(about | {key: value for key, value in row.items() if key not in about}))
    return Sorted("\n".join([*clean, ""]), "\n".join([*rejects, ""]), len(clean), len(rejects))
