"""Tables: CSV, TSV and JSONL, through `check`, training and `classify --file`.

The oracle knows no quotation: it counts lines. Every line after the header that is not blank belongs to a row that is
read or to one that is refused; a row that takes several lines is said; and the three ways of reading agree.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

from fuzz.cases import Loss, Outcome
from fuzz.mutations import VALUES, mutated_bytes, mutated_text, mutated_value
from rir_mlx.classification.files import ClassifyFileOptions, classify_file
from rir_mlx.classification.scores import Prediction
from rir_mlx.data.audit.scan import scan_sources
from rir_mlx.data.loading import load_labelled
from rir_mlx.data.tables.row_streams import Record, Stream, open_stream
from rir_mlx.data.tables.table import Fault, TableFormat, wanted_text
from rir_mlx.errors import DataError, UserError
from rir_mlx.recipe.schema import DataSection

TEXTS = ("i feel fine", 'she said "no", twice', '"quoted"', "a, b; c\td|e", "two\nlines", '5" tall', " café – déjà vu ")
LABELS = ("joy", "fear", "joy, relief", "1", "1.0", "True", "nan", " JOY ", "")
_MARK = re.compile(r"#\d+#")


class Tables:
    """CSV and TSV files in any dialect, then mutated."""

    name = "CSV and TSV"

    def attempt(self, rng: random.Random, folder: Path) -> Outcome:
        path = folder / f"rows{rng.choice(('.csv', '.tsv'))}"
        delimiter = rng.choice(",,;|\t") if path.suffix == ".csv" else "\t"
        encoding = rng.choice(("utf-8",) * 8 + ("cp1252", "utf-16"))
        data = _table(rng, delimiter).encode(encoding, "replace")
        path.write_bytes(mutated_bytes(data, rng) if rng.random() < 0.1 else data)
        quotes = rng.choice((None, None, None, True, False))
        form = TableFormat(rng.choice((None, None, delimiter)), rng.choice((None, encoding)), quotes)
        return _read_everywhere(path, form, rng)


class JsonLines:
    """JSONL files with any values, then mutated."""

    name = "JSONL"

    def attempt(self, rng: random.Random, folder: Path) -> Outcome:
        path = folder / "rows.jsonl"
        lines = []
        for number in range(rng.randint(2, 8)):
            row = {"text": f"#{number}# {rng.choice(TEXTS)}", "label": rng.choice(LABELS[:6])}
            row["label"] = rng.choice(VALUES) if rng.random() < 0.1 else row["label"]
            row = mutated_value(row, rng) if rng.random() < 0.05 else row
            line = json.dumps(row, ensure_ascii=rng.random() < 0.5, allow_nan=True)
            lines.append(mutated_text(line, rng) if rng.random() < 0.1 else line)
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
        path.write_bytes(mutated_bytes(data, rng) if rng.random() < 0.2 else data)
        return _read_everywhere(path, TableFormat(), rng)


def _table(rng: random.Random, delimiter: str) -> str:
    file = io.StringIO(newline="")
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=rng.choice(("\n", "\n", "\r\n")))
    header = ["text", "label", "id"]
    places = rng.sample(range(3), 3)
    writer.writerow([header[place] for place in places])
    for number in range(rng.choice((2, 6, 30))):
        row = [f"#{number}# {rng.choice(TEXTS)}", rng.choice(LABELS[:5] if rng.random() < 0.9 else LABELS), number]
        writer.writerow([row[place] for place in places])
    text = file.getvalue()
    return text if rng.random() < 0.2 else mutated_text(text, rng)


def _read_everywhere(path: Path, form: TableFormat, rng: random.Random) -> Outcome:
    keys = {"delimiter": form.delimiter, "encoding": form.encoding, "quotes": form.quotes}
    sizes = {"val_size": 0, "test_size": 0, "max_samples": None}
    section = DataSection.model_validate({"train": str(path)} | sizes | keys)
    wanted = wanted_text(path, None, form)
    try:
        stream = open_stream(path, wanted)
        scanned = list(stream.scan())
    except DataError:
        stream, scanned = None, []
    if stream is not None:
        _check_lines(path, form, stream, scanned)
    refused = _check_training(section, scanned if stream is not None else None)
    if stream is None:
        return "refused"
    _check_classified(path, form, scanned, rng)
    return "refused" if refused else "read"


def _check_lines(path: Path, form: TableFormat, stream: Stream, scanned: Sequence[Record | Fault]) -> None:
    """Every line is in a row or in a fault, once."""
    text = path.read_bytes().decode(
        form.encoding or "utf-8", "surrogateescape" if form.encoding in (None, "utf-8") else "strict"
    )
    lines = list(io.StringIO(text, newline=""))
    covered: list[int] = []
    several = 0
    for row in scanned:
        taken = 1 if isinstance(row, Fault) else len(list(io.StringIO(row.raw, newline="")))
        covered += range(row.row, row.row + taken)
        several += taken > 1
    if len(set(covered)) < len(covered):
        raise Loss(f"a line is in two rows: {sorted(covered)}")
    header = next((number for number, line in enumerate(lines, 1) if line.strip()), 0)
    for number, line in enumerate(lines, 1):
        if number in covered or not line.strip("\r\n\ufeff " if path.suffix == ".jsonl" else "\r\n\ufeff"):
            continue
        if covered and (number > min(covered) or (number > header and _MARK.search(line))):
            raise Loss(f"line {number} is in no row: {line!r}")
    said = any("line breaks: " in note for note in stream.notes())
    if several and not said:
        raise Loss(f"{several} rows take several lines, and no note says so")


def _check_training(section: DataSection, scanned: Sequence[Record | Fault] | None) -> bool:
    """What `check` counts and what training reads are the rows of the file. Returns whether rows are refused."""
    try:
        found = scan_sources(section, 0)
    except DataError:
        found = None
    try:
        loaded = load_labelled(section, 0)
    except DataError as error:
        loaded = None
        if not error.what.strip():
            raise Loss("an error without words") from error
    if loaded is not None and found is None:
        raise Loss("training reads what check refuses")
    if found is None or scanned is None:
        if loaded is not None:
            raise Loss("training reads what classify refuses")
        return True
    numbers = [row.number for row in found.parts["train"]]
    refused = {row.number for row in found.refused if row.number}
    rows = {row.row for row in scanned}
    # Training knows the labels, and so finds swallowed rows where `classify` sees a cell of several lines.
    several = {row.row + n for row in scanned if isinstance(row, Record) for n in range(1, 1 + row.raw.count("\n"))}
    if not rows <= {*numbers, *refused} <= rows | several or not refused.isdisjoint(numbers):
        raise Loss(f"the file has the rows {sorted(rows)}; read {numbers}, refused {sorted(refused)}")
    if loaded is not None and [row.number for row in loaded.train] != numbers:
        raise Loss("training reads other rows than check")
    return loaded is None


def _check_classified(path: Path, form: TableFormat, scanned: Sequence[Record | Fault], rng: random.Random) -> None:
    """A classified file has every row, cell by cell."""
    target = path.with_name(f"out{path.suffix}")
    label = rng.choice(("joy", "=1+1", 'a "b"', "c, d\te"))
    prediction = Prediction(label, {label: 1.0}, 1.0, rng.choice((None, "because\nof this", '-x "y"')))
    options = ClassifyFileOptions(form=form, chunk=rng.choice((1, 3, 1000)))
    try:
        result = classify_file(path, target, lambda texts: [prediction] * len(texts), options)
    except (DataError, UserError):
        if target.exists():
            raise Loss("a refused file has an output") from None
        return
    rows = [row for row in scanned if isinstance(row, Record)]
    if len(rows) != len(scanned) or result.rows != len(rows):
        raise Loss(f"{len(scanned)} rows, {result.rows} of them classified")
    column = next(name for row in rows for name in row.cells)  # the first row may be an empty object
    wanted = wanted_text(target, column, TableFormat(form.delimiter, None, form.quotes))
    written = list(open_stream(target, wanted).scan())
    if len(written) != len(rows):
        raise Loss(f"{len(rows)} rows came out as {len(written)}")
    for before, after in zip(rows, written, strict=True):
        if isinstance(after, Fault):
            raise Loss(f"row {before.row} came out broken: {after.what}")
        changed = [name for name, cell in before.cells.items() if repr(after.cells.get(name)) != repr(cell)]
        if changed:
            raise Loss(f"row {before.row}: {changed[0]} was {before.cells[changed[0]]!r}, is {after.cells}")
