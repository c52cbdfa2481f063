"""Tables from files and data sets: the cells of the wanted columns, with the number of each row.

CSV, TSV, JSONL and Parquet files, patterns of them, and data sets in Hugging Face's format, from the hub or from a
folder. What cannot be read is collected as faults with row numbers; cells come out exactly as they stand. Nothing here
knows what a text or a label may be, or what a split is.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rir_mlx.data.columns import Column, find_columns
from rir_mlx.errors import DataError, did_you_mean
from rir_mlx.recipe.schema import SourceSpec

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
ACCEPTED = (
    f"Accepted: files ending in {', '.join(SUFFIXES)}, a pattern of such files (data/*.jsonl), "
    "the id of a Hugging Face data set, or a folder in its format (data/train-*.parquet)."
)
FAULTS_SHOWN = 20
EMBEDDED = Path(__file__).parents[1] / "embedded"

_OTHER_FILES = (".txt", ".json", ".xls", ".xlsx", ".ods", ".gz", ".zip", ".arrow", ".feather", ".md", ".yaml", ".yml")
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
_SHORT, _KNOWN = 40, 10_000
"""Cells shorter than this are held once, as long as there are not too many different ones."""
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


class Fault(NamedTuple):
    """Something that keeps a row from being used. `row` is numbered as the user finds it."""

    row: int
    what: str


@dataclass(frozen=True)
class Table:
    """The wanted columns of one file or data set."""

    name: str
    rows: Sequence[int]
    """The number of each row: its line in a text file, else counted from 1."""
    cells: tuple[Sequence[Any], ...]
    """One sequence a wanted column, in the order in which they were asked for."""
    class_names: tuple[tuple[str, ...] | None, ...]
    """For a column of class ids: the name of each id."""
    faults: tuple[Fault, ...] = ()
    editable: bool = True
    """Whether the user can mend a row: not in a data set that others published."""

    @property
    def total(self) -> int:
        return len(self.rows) + len({fault.row for fault in self.faults})


def read_tables(source: SourceSpec, columns: Sequence[Column], key: str) -> list[Table]:
    """Read the wanted columns from wherever a recipe's source points. `key` is the source's place in the recipe.

    Raises DataError where nothing is found, a file cannot be read at all, or a column is not to be found.
    """
    path = source.path
    if path.startswith("builtin:"):
        name = path.removeprefix("builtin:")
        known = sorted(file.name for file in EMBEDDED.glob("*") if file.suffix in SUFFIXES)
        if name not in known:
            raise DataError(
                f"{key}: there is no embedded data called {name!r}.{did_you_mean(name, known)}",
                hint=f"Known: {', '.join(known) or 'none'}.",
            )
        return [read_file(EMBEDDED / name, columns, shown=path)]
    place = Path(path).expanduser()
    if place.is_file():
        return [read_file(place, columns)]
    if place.is_dir():
        if not _holds_data_set(place):
            raise DataError(f"{key}: {path} is a folder.", hint=ACCEPTED)
        return [_read_data_set(source, columns, key, str(place))]
    if glob.has_magic(path):
        files = [Path(file) for file in sorted(glob.glob(str(place), recursive=True)) if Path(file).is_file()]
        if not files:
            raise DataError(f"{key}: no file fits the pattern {path}, seen from {Path.cwd()}.", hint=ACCEPTED)
        return [read_file(file, columns) for file in files]
    if place.suffix.lower() in SUFFIXES + _OTHER_FILES or not _HUB_ID.fullmatch(path):
        raise missing_file(place, key)
    return [_read_data_set(source, columns, key, path)]


def read_file(path: Path, columns: Sequence[Column], *, shown: str = "") -> Table:
    """Read the wanted columns of one file. `shown` is its name in messages."""
    shown = shown or str(path)
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return _read_csv(path, columns, shown)
        case ".jsonl" | ".ndjson":
            return _read_jsonl(path, columns, shown)
        case ".parquet":
            return _read_parquet(path, columns, shown)
    raise DataError(f"{shown}: files ending in {path.suffix or 'nothing'} cannot be read.", hint=ACCEPTED)


def read_lines(path: Path) -> Table:
    """A text a line, empty lines too."""
    text, bad_lines = decode(path, str(path))
    lines = {n: line for n, line in enumerate(io.StringIO(text, newline=None), 1) if n not in bad_lines}
    cells = [line.removesuffix("\n") for line in lines.values()]
    return Table(str(path), list(lines), (cells,), (None,), tuple(Fault(*bad) for bad in bad_lines.items()))


def missing_file(path: Path, key: str = "") -> DataError:
    """The error for a file that is not there, with the closest name in its folder."""
    where = f"{key}: " if key else ""
    if not path.parent.is_dir():
        return DataError(f"{where}there is no file {path}: there is no folder {path.parent}.", hint=ACCEPTED)
    near = [file.name for file in path.parent.iterdir() if file.is_file()]
    return DataError(f"{where}there is no file {path}.{did_you_mean(path.name, near)}", hint=ACCEPTED)


def refuse(tables: Iterable[tuple[str, int, Sequence[Fault]]], hint: str = "Mend these lines.") -> None:
    """Raise one DataError for all faults of all files, given as (file, rows in all, faults); none, and it passes."""
    blocks, lines = [], []
    for name, total, faults in tables:
        if not faults:
            continue
        own = [f"row {fault.row}: {fault.what}" for fault in sorted(faults)]
        count = len({fault.row for fault in faults})
        shown = own[:FAULTS_SHOWN] + ([f"and {len(own) - FAULTS_SHOWN:,} more"] if len(own) > FAULTS_SHOWN else [])
        numbering = "" if Path(name).suffix.lower() in (*SUFFIXES[:-1], ".txt") else " (counted from 1)"
        blocks.append(f"{name}: {count:,} of {total:,} rows cannot be used{numbering}:\n  " + "\n  ".join(shown))
        lines += [f"{name}, {line}" for line in own]
    if len(blocks) == 1:
        lines = [line.removeprefix(f"{name}, ") for line in lines]
    if blocks:
        raise DataError("\n".join(blocks), faults=lines, hint=hint)


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


@contextmanager
def long_fields(characters: int) -> Iterator[None]:
    """Let the csv module read fields of any length, for as long as it takes: its limit is the process's."""
    before = csv.field_size_limit(max(characters, 131_072))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _lines(text: str) -> Iterator[str]:
    """The lines with their ends, as a file without translation gives them; `io.StringIO` takes four bytes for each
    character, and `splitlines` all lines at once."""
    return (found.group() for found in _LINE.finditer(text))


def delimiter_of(header: str, path: Path) -> str:
    """The mark between cells, by the file's name and its first line."""
    if path.suffix.lower() != ".csv":
        return "\t"
    return next((mark for mark in ",;\t" if mark in header), ",")  # spreadsheets of many countries write semicolons


def csv_records(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, int, list[str] | Fault]]:
    """Each record with its first and last line. A record that is not CSV comes as a fault. Empty lines are skipped."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            record: list[str] | Fault = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = f"not valid CSV: {error}"
            if "unexpected end" in str(error):
                what = "a quotation mark opened here is never closed, so all that follows is one field"
            record = Fault(first, what)
        if record:
            yield first, reader.line_num, record


def _read_csv(path: Path, columns: Sequence[Column], shown: str) -> Table:
    text, bad_lines = decode(path, shown)
    delimiter = delimiter_of(next(line for line in _lines(text) if line.strip()), path)
    rows = array("L")
    faults: list[Fault] = []
    known: dict[str, str] = {}  # labels come again and again
    with long_fields(len(text)):
        everything = csv_records(_lines(text), delimiter)
        head_first, head_last, header = next(everything)
        if isinstance(header, Fault):
            raise DataError(f"{shown}, line {head_first}: {header.what}.", hint="The first line must name the columns.")
        wanted = [header.index(name) for name in find_columns(header, columns, shown)]
        cells: tuple[list[str], ...] = tuple([] for _ in wanted)
        faults += [Fault(line, what) for line, what in bad_lines.items() if head_first <= line <= head_last]
        for first, last, record in everything:
            bad = next((line for line in bad_lines if first <= line <= last), None) if bad_lines else None
            if isinstance(record, Fault):
                faults.append(record)
            elif bad is not None:
                faults.append(Fault(first, bad_lines[bad]))
            elif len(record) != len(header):
                faults.append(Fault(first, wrong_length(record, header)))
            else:
                rows.append(first)
                for column, place in zip(cells, wanted, strict=True):
                    cell = record[place]
                    column.append(known.setdefault(cell, cell) if len(cell) < _SHORT and len(known) < _KNOWN else cell)
    if not rows and not faults:
        raise DataError(f"{shown} has a header but no rows.", hint="It needs a row for each text.")
    return Table(shown, rows, cells, (None,) * len(wanted), tuple(faults))


def wrong_length(record: Sequence[str], header: Sequence[str]) -> str:
    return f"{len(record):,} field{'' if len(record) == 1 else 's'} where the header has {len(header)}"


def _read_jsonl(path: Path, columns: Sequence[Column], shown: str) -> Table:
    text, bad_lines = decode(path, shown)
    if text.lstrip().startswith("["):
        raise not_lines_of_json(path, shown)
    rows: list[int] = []
    records: list[dict[str, Any]] = []
    faults: list[Fault] = []
    for number, line in enumerate(_lines(text), 1):
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


def _read_parquet(path: Path, columns: Sequence[Column], shown: str) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            found = find_columns(schema.names, columns, shown)
            table = file.read(columns=found)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shown} cannot be read as Parquet: {_first_line(error)}") from error
    if not table.num_rows:
        raise DataError(f"{shown} has columns but no rows.", hint="It needs a row for each text.")
    # The `datasets` library keeps its features, and with them the names of class ids, in the schema's metadata.
    features: dict[str, Any] = {}
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored:
        features = json.loads(stored).get("info", {}).get("features", {})
    names = [features.get(name) for name in found]
    classes = tuple(
        tuple(f["names"]) if isinstance(f, dict) and f.get("_type") == "ClassLabel" else None for f in names
    )
    cells = tuple(table.column(name).to_pylist() for name in found)
    return Table(shown, range(1, table.num_rows + 1), cells, classes)


def _holds_data_set(folder: Path) -> bool:
    """Whether a folder is laid out like a data set on the hub: a card that starts with YAML, or Parquet files."""
    if any(folder.glob("*.parquet")) or any(folder.glob("*/*.parquet")):
        return True
    try:
        return (folder / "README.md").read_bytes().startswith(b"---")
    except OSError:
        return False


def _read_data_set(source: SourceSpec, columns: Sequence[Column], key: str, path: str) -> Table:
    import datasets

    split = source.split or "train"
    try:
        with _no_bars_off_a_terminal():
            data = datasets.load_dataset(path, source.config, split=split, revision=source.revision)
    except Exception as error:  # a dozen kinds, from four libraries; those that are not known keep their own words
        raise _explain(error, source, key) from error
    shown = f"{source.path} ({split})"
    if not data.num_rows:
        raise DataError(f"{shown} has no rows.", hint=f"Set {key}.split to another split.")
    found = find_columns(data.column_names, columns, shown)
    features = [data.features[name] for name in found]
    classes = tuple(tuple(f.names) if isinstance(f, datasets.ClassLabel) else None for f in features)
    part: dict[str, list[Any]] = data.select_columns(found)[:]
    cells = tuple(part[name] for name in found)
    return Table(shown, range(1, data.num_rows + 1), cells, classes, editable=False)


@contextmanager
def _no_bars_off_a_terminal() -> Iterator[None]:
    import datasets

    hide = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()


def _explain(error: Exception, source: SourceSpec, key: str) -> DataError:
    """Why a data set could not be loaded, in one sentence, and the edit or command that helps."""
    path, words = source.path, str(error)
    if listed := re.search(r"Unknown split .* Should be one of \[(.*)\]", words):
        splits = re.findall(r"'([^']*)'", listed[1])
        split = source.split or "train"
        return DataError(
            f"{key}: {path} has no split {split!r}.{did_you_mean(split, splits)}",
            hint=f"Set {key}.split to one of: {', '.join(splits)}.",
        )
    if listed := re.search(r"(?:not found. Available|available configs): \[(.*?)\]", words):
        configs = re.findall(r"'([^']*)'", listed[1])
        what = f"has no configuration {source.config!r}" if source.config else "has several configurations"
        return DataError(f"{key}: {path} {what}.", hint=f"Set {key}.config to one of: {', '.join(configs)}.")
    if "gated" in words:
        return DataError(
            f"{key}: the data set {path} is gated: its owner asks for consent first.",
            hint=f"Accept the terms at https://huggingface.co/datasets/{path}, then run: hf auth login",
        )
    if words.startswith("Revision "):
        return DataError(f"{key}: {path} has no revision {source.revision!r}.", hint=f"Mend {key}.revision.")
    if type(error).__name__ == "DatasetNotFoundError":
        return DataError(
            f"{key}: there is no data set {path} on the Hugging Face hub, no such file here, or it is private.",
            hint="Check the id or the path; for a private data set run: hf auth login",
        )
    if isinstance(error, ConnectionError) or "OfflineModeIsEnabled" in words:
        return DataError(
            f"{key}: {path} is no file here, and the Hugging Face hub cannot be reached to look it up.",
            hint=f"Connect to a network or leave out --offline, or set {key} to a file of your own.",
        )
    return DataError(f"{key}: {path} cannot be loaded as a data set: {_first_line(error)}", hint=ACCEPTED)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
