"""Classify a whole file: every row keeps its cells and gets a label, a probability and a reasoning at its end.

The file is streamed, and an interrupted job resumes. Knows no model: any function from texts to predictions will do.
The new columns are

- `label`: the most probable label; empty (null in JSONL) if the row has no text or `threshold` is not reached,
- `probability`: of the most probable label, whether or not it is given, to 6 digits,
- `reasoning`: what was generated; empty if nothing was,
- `labels`, only where a text may have several: those that are likely enough one by one, with commas between (a list in
  JSONL); `label` is then the likeliest combination,
- `first_label` and `first_probability`, only of an arm that answers twice: what it had answered before the reasoning,
- `abstained`, only with a `threshold`: true if the probability is below it, false if a label is given,
- with `top_k` above 1, the next labels: `label_2`, `probability_2` and so on in CSV and TSV; in JSONL a list `top` of
  all k, best first. Where a text may have several labels, they are single ones, from `label_1` on. They do not depend
  on the threshold.

If the file has a column of one of these names, all new columns are called `predicted_label`, `predicted_probability`
and so on; `predicted2_label` if those exist too. A row without a text (missing, empty, not a string) keeps its place,
and its new cells are empty; one in which nothing stands is no row of a CSV file or a workbook. A broken row (a wrong
number of cells, not UTF-8, not JSON) is a fault, found before any text is classified.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rir_mlx.classification.scores import Prediction, unfit_texts
from rir_mlx.data.cells import checked_text
from rir_mlx.data.columns import joined_text
from rir_mlx.data.labels.combinations import BETWEEN
from rir_mlx.data.tables.row_streams import (
    Outline,
    Record,
    Stream,
    check_unchanged,
    in_chunks,
    open_stream,
    outline,
)
from rir_mlx.data.tables.table import ANY_FORMAT, TableFormat, wanted_text
from rir_mlx.errors import DataError, UserError
from rir_mlx.interrupts import Interrupts
from rir_mlx.progress import Progress, Silent
from rir_mlx.statistics.calibration import NO_ANSWER, abstains
from rir_mlx.storage.resumable_file import ResumableFile

Classify = Callable[[Sequence[str]], Sequence[Prediction]]
_VERSION = 3
"""Raised when the same inputs give other bytes."""
_DIGITS = 6
_SILENT = Silent()


@dataclass(frozen=True)
class ClassifyFileOptions:
    """How a file is classified. `identity` stands for everything that decides the answers of `classify`: a job that
    began with another one is not resumed. `chunk` rows are handed over at once; a kill loses no more than these.
    `form` describes the file if its format cannot be detected. `safe_cells` puts an apostrophe before
    new CSV and TSV cells that a spreadsheet would take for a formula (they begin with =, +, -, @ and are no number).
    `firsts`: the classifier answers twice; `several`: a text may have several labels."""

    text_column: str | Sequence[str] | None = None
    top_k: int = 1
    threshold: float | None = None
    identity: str = ""
    chunk: int = 1024
    force: bool = False
    form: TableFormat = ANY_FORMAT
    safe_cells: bool = True
    firsts: bool = False
    several: bool = False

    def __post_init__(self) -> None:
        if self.top_k < 1 or self.chunk < 1:
            raise UserError("top_k and chunk are 1 or more.")
        if self.threshold is not None and not 0 <= self.threshold <= 1 and self.threshold != NO_ANSWER:
            raise UserError(f"A threshold is a probability, from 0 to 1, not {self.threshold}.")


@dataclass
class ClassifyFileResult:
    """What came of a file's rows. `without_text` counts rows by reason, `trimmed` those too long for the model,
    `unfit` those that may fit no label,
    `resumed` those that an earlier process had classified. The new columns' names begin with `prefix`."""

    rows: int
    resumed: int = 0
    abstained: int = 0
    trimmed: int = 0
    unfit: int = 0
    prefix: str = ""
    labels: Counter[str] = field(default_factory=Counter)
    without_text: Counter[str] = field(default_factory=Counter)

    @property
    def classified(self) -> int:
        """Rows with a text."""
        return self.rows - self.without_text.total()


_DEFAULT_OPTIONS = ClassifyFileOptions()


def classify_file(
    source: Path,
    target: Path,
    classify: Classify,
    options: ClassifyFileOptions = _DEFAULT_OPTIONS,
    progress: Progress = _SILENT,
) -> ClassifyFileResult:
    """Classify the rows of `source` into `target`: CSV, TSV and JSONL in their own format; `.txt` (a text a line) and
    Parquet as JSONL. Memory does not grow with the file.

    Chunks are written to `TARGET.partial`. If the process is killed, the same call resumes after the last whole chunk,
    and the file ends with the same bytes. If the source, `identity` or options changed, it says so and starts over.
    Ctrl-C stops after a chunk with KeyboardInterrupt.

    Raises DataError with the faults of the file, UserError if `target` is a folder, exists (`options.force` replaces
    it), is being written by another process, or is named after another format, and Failure if the disk is full.
    """
    if target.is_dir():
        raise UserError(f"{target} is a folder.", hint="Name a file to write.")
    wanted = wanted_text(source, options.text_column, options.form)
    stream = open_stream(source, wanted, safe=options.safe_cells)
    if target.suffix.lower() not in _alike(stream):
        raise UserError(
            f"{source.name} comes out as {stream.suffix[1:].upper()}, and {target.name} is named after another format.",
            hint=f"Name it {target.with_suffix(stream.suffix).name}.",
        )
    if target.exists() and target.samefile(source):
        raise UserError(f"{target} is the file that is read.", hint="Name another file to write.")
    about = outline(source, stream, wanted)
    job = _FileJob(source, stream, about, options)
    for note in stream.notes():
        progress.say(f"note: {note}")
    if job.prefix:
        progress.warn(
            f"{source} has a column {job.clash!r}: the new columns are called {', '.join(job.names.values())}."
        )
    with ResumableFile(target, _inputs(about, options), force=options.force, progress=progress) as file:
        result = _result(file.state, about.rows, job.prefix)
        if file.finished:
            progress.say(f"{target} is already finished.")
            return result
        if result.resumed:
            progress.say(f"{target}: resuming after row {result.resumed:,} of {about.rows:,}.")
        job.run(file, result, classify, progress)
        if not result.classified:
            file.discard()
            why = ", ".join(f"{what} ({count:,})" for what, count in result.without_text.most_common())
            raise DataError(
                f"{source}: no row has a text in the column {' or '.join(map(repr, about.text_columns))}: {why}."
            )
        file.finish()
    _warn(result, progress)
    return result


class _FileJob:
    """A file's rows, and the lines that they become."""

    def __init__(self, source: Path, stream: Stream, about: Outline, options: ClassifyFileOptions) -> None:
        self.source, self.stream, self.about, self.options = source, stream, about, options
        self.table = stream.suffix != ".jsonl"
        keys = ["label", "probability", "reasoning", *(["labels"] if options.several else [])]
        keys += ["first_label", "first_probability"] if options.firsts else []
        keys += ["abstained"] if options.threshold is not None else []
        if options.top_k > 1 and self.table:
            places = range(1 if options.several else 2, options.top_k + 1)
            keys += [f"{key}_{place}" for place in places for key in ("label", "probability")]
        elif options.top_k > 1:
            keys.append("top")
        self.prefix = next(prefix for prefix in _prefixes() if not {prefix + key for key in keys} & set(about.columns))
        self.clash = next((key for key in keys if key in about.columns), "")
        self.names = {key: self.prefix + key for key in keys}
        self.nothing = dict.fromkeys(self.names.values())

    def run(self, file: ResumableFile, result: ClassifyFileResult, classify: Classify, progress: Progress) -> None:
        """Classify the remaining rows, chunk by chunk. Raises KeyboardInterrupt after a chunk if the user asks to
        stop."""
        done, size, started = result.resumed, self.options.chunk, time.monotonic()
        with (
            Interrupts(
                loud=not isinstance(progress, Silent), first=f"Stopping after these {size:,} rows"
            ) as interrupts,
            progress.task(f"classify {self.source.name}", result.rows, done) as task,
        ):
            for chunk in in_chunks(islice(self.stream.scan(), done, None), size):
                lines = self.lines(chunk, classify, result)
                if done == 0:
                    lines = self.stream.header_line(list(self.names.values())) + lines
                done += len(chunk)
                check_unchanged(self.source, self.about)
                file.append(lines.encode("utf-8", "replace"), vars(result) | {"rows": done})
                speed = (done - result.resumed) / max(time.monotonic() - started, 1e-9)
                task.advance(len(chunk), rows_per_second=speed)
                if interrupts.asked:
                    break

    def lines(self, rows: Sequence[Record], classify: Classify, result: ClassifyFileResult) -> str:
        """The rows as lines of the target; `result` counts them."""
        texts: dict[int, str] = {}
        columns = self.about.text_columns
        for place, row in enumerate(rows):
            try:
                texts[place] = checked_text(joined_text(columns, [row.cells.get(name) for name in columns]), "text")
            except ValueError as error:
                result.without_text[_kind(str(error))] += 1
        predictions = classify(list(texts.values())) if texts else []
        answers = dict(zip(texts, predictions, strict=True))
        lines = []
        for place, row in enumerate(rows):
            values = self._values(answers[place], result) if place in answers else self.nothing
            lines.append(self.stream.extended(row.raw, values))
        return "".join(lines)

    def _values(self, prediction: Prediction, result: ClassifyFileResult) -> dict[str, Any]:
        """The new cells, in the order of `names`."""
        threshold = self.options.threshold
        abstained = abstains(prediction.probability, threshold)
        result.abstained += abstained
        result.trimmed += prediction.trimmed > 0
        result.unfit += prediction.fits_no_label
        labels = [] if abstained else list(prediction.labels or [prediction.label])
        result.labels.update(labels)
        values: list[Any] = [None if abstained else prediction.label, round(prediction.probability, _DIGITS)]
        values.append(prediction.reasoning)
        if self.options.several:
            values.append((BETWEEN.join(labels) or None) if self.table else labels)
        if self.options.firsts:
            first = prediction.first
            values += [None, None] if first is None else [first.label, round(first.probability, _DIGITS)]
        if threshold is not None:
            values.append(abstained)
        if self.options.top_k > 1:
            best = top_labels(prediction, self.options.top_k)
            if self.table:
                best += [(None, None)] * (self.options.top_k - len(best))
                values += [cell for pair in best[0 if self.options.several else 1 :] for cell in pair]
            else:
                values.append([{"label": label, "probability": probability} for label, probability in best])
        return dict(zip(self.names.values(), values, strict=True))


def top_labels(prediction: Prediction, most: int) -> list[tuple[str | None, float | None]]:
    """The most probable labels with their probabilities to 6 digits, best first; among equals the predicted one is
    first. Where a text may have several, each is taken by itself."""
    probabilities = prediction.by_label
    best = heapq.nlargest(most, probabilities, key=lambda label: (probabilities[label], label == prediction.label))
    return [(label, round(probabilities[label], _DIGITS)) for label in best]


def _prefixes() -> Iterator[str]:
    yield ""
    yield "predicted_"
    number = 2
    while True:
        yield f"predicted{number}_"
        number += 1


def _kind(why: str) -> str:
    """The reason without the row's own details, so that a million rows have a few reasons."""
    return why.split(" but ")[0].split(" (a lone")[0]


def _alike(stream: Stream) -> tuple[str, ...]:
    return (".jsonl", ".ndjson") if stream.suffix == ".jsonl" else (stream.suffix,)


def _inputs(about: Outline, options: ClassifyFileOptions) -> dict[str, Any]:
    """Everything that decides the bytes of the target."""
    return {
        "version": _VERSION,
        "source": {"sha256": about.digest, "text_column": ", ".join(about.text_columns)},
        "classifier": options.identity,
        "options": {
            "top_k": options.top_k,
            "threshold": options.threshold,
            "chunk": options.chunk,
            "form": asdict(options.form),
            "safe_cells": options.safe_cells,
            "firsts": options.firsts,
        },
    }


def _result(state: Mapping[str, Any], rows: int, prefix: str) -> ClassifyFileResult:
    counted = dict(state) | {"rows": rows, "resumed": state.get("rows", 0), "prefix": prefix}
    for key in ("labels", "without_text"):
        counted[key] = Counter(state.get(key, {}))
    return ClassifyFileResult(**counted)


def without_label(missing: int, rows: int) -> str:
    """What is said of the rows that have no text to label."""
    return f"{missing:,} of {rows:,} rows have no label"


def _warn(result: ClassifyFileResult, progress: Progress) -> None:
    if missing := result.without_text.total():
        why = ", ".join(f"{what} ({count:,})" for what, count in result.without_text.most_common())
        progress.warn(f"{without_label(missing, result.rows)}: {why}.")
    if result.trimmed:
        progress.warn(f"{result.trimmed:,} texts are too long for this model: their ends were cut.")
    if result.unfit:
        progress.warn(unfit_texts(result.unfit))
