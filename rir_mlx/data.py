"""Rows, labels and splits: from a recipe's sources to the training, validation and test rows of a run.

Texts come out exactly as they stand in the file. Every draw is decided by the seed, stratified by label, and leaves the
rows in the order of the file. Tables are read in `tables.py`; nothing here knows a prompt, a tokenizer or a framework.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

from rir_mlx.columns import Column
from rir_mlx.errors import DataError, did_you_mean
from rir_mlx.recipe import DataSection, ReasoningSection, SourceSpec
from rir_mlx.tables import Fault, Table, missing_file, read_file, read_lines, read_tables, refuse

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Row:
    """A text and its label. `reasoning` is one that the user gave with them; `file` and `number` say where it stands,
    counted as the user finds it."""

    text: str
    label: str
    reasoning: str | None = None
    file: str = field(default="", compare=False, repr=False)
    number: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Triple:
    """A question, its answer, and the reasoning between them."""

    question: str
    answer: str
    reasoning: str


@dataclass(frozen=True)
class LabelledData:
    """The rows of a run, as used."""

    labels: dict[str, str]
    """Name and description of each label: in the recipe's order, else that of the data set's class ids, else sorted."""
    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    digest: str
    """SHA-256 over the labels and the rows of the three parts."""
    notes: tuple[str, ...]
    """What the user should know about these rows, in words."""


@dataclass(frozen=True)
class TripleData:
    """The triples that R-Gen learns from, as used."""

    train: tuple[Triple, ...]
    validation: tuple[Triple, ...]
    digest: str
    notes: tuple[str, ...]


Item = TypeVar("Item")
Reader = Callable[[int, Sequence[Any]], Item]
"""Makes a row of its number and cells. Raises ValueError where it cannot be used."""


def load_labelled(
    section: DataSection, seed: int, *, parts: Collection[str] = ("train", "validation", "test")
) -> LabelledData:
    """Read, check and split the labelled rows. Parts that are not asked for come out empty.

    A part comes out the same whichever others are asked for with it; the test part does not depend on `val_size`
    or `max_samples`. Raises DataError with all faults of all files.
    """
    if odd := set(parts) - set(get_args(Part)):
        raise ValueError(f"not parts of the data: {sorted(odd)}")
    sources = {"train": section.train, "validation": section.validation, "test": section.test}
    needed = set(parts)
    if not section.labels or any(sources[part] is None for part in parts):
        needed.add("train")
    notes: list[str] = []
    labels, rows = _read_rows(section, {part: sources[part] for part in sources if part in needed}, notes)
    everything = len(rows.get("train", ()))
    if "train" in rows:
        notes += check_labels(section, labels, rows["train"])
    for part, size in (("test", section.test_size), ("validation", section.val_size)):
        if part in rows:
            if 1 <= size < len(rows[part]):
                notes.append(f"{part}: {int(size):,} of {len(rows[part]):,} rows drawn")
                rows[part] = draw_rows(rows[part], int(size), f"{seed}/{part}")
        elif sources[part] is None and "train" in rows:
            rows[part], rows["train"] = carve(rows["train"], part, size, everything, seed)
            if size > 0:
                notes.append(f"{part} carved out of train: {len(rows[part]):,} rows")
    if "train" in rows:
        rows["train"] = _sample_train(rows["train"], section.max_samples, seed, notes)
    used = {part: tuple(rows[part]) if part in parts and part in rows else () for part in sources}
    digest = _digest([["label", *pair] for pair in labels.items()], used)
    return LabelledData(labels, used["train"], used["validation"], used["test"], digest, tuple(notes))


def load_triples(section: ReasoningSection, seed: int) -> TripleData:
    """Read, check and split the reasoning triples. Raises DataError with all faults of all files.

    Incomplete triples are faults in a file, which the user can mend, and are left out of a published data set. Without
    a source there are none.
    """
    if section.source is None:
        return TripleData((), (), _digest([], {}), ())
    columns = [
        Column("question", "reasoning.question_column", section.question_column),
        Column("answer", "reasoning.answer_column", section.answer_column),
        Column("reasoning", "reasoning.reasoning_column", section.reasoning_column),
    ]
    notes: list[str] = []
    tables = read_tables(section.source, columns, "reasoning.source")
    triples = _collect([(table, _triple_reader(table)) for table in tables], notes)
    if not triples:
        raise DataError(f"reasoning.source: {section.source.path} has no complete triples.")
    count = carved_size(section.val_size, len(triples), len(triples), "reasoning.val_size", "")
    order = _shuffled(range(len(triples)), f"{seed}/triples")
    held, kept = order[:count], order[count:]
    if section.max_samples is not None and len(kept) > section.max_samples:
        notes.append(f"train: {section.max_samples:,} of {len(kept):,} triples drawn")
        kept = kept[: section.max_samples]
    train, validation = (tuple(triples[place] for place in sorted(places)) for places in (kept, held))
    digest = _digest([], {"train": train, "validation": validation})
    return TripleData(train, validation, digest, tuple(notes))


def read_texts(path: Path, text_column: str | None) -> list[str]:
    """The texts of a file to classify: one a line in `.txt`, else the text column. Raises DataError with all faults."""
    if not path.is_file():
        raise missing_file(path)
    lines = path.suffix.lower() == ".txt"
    table = read_lines(path) if lines else read_file(path, [Column("text", "the text column", text_column)])
    return _collect([(table, lambda _, cells: checked_text(cells[0], "text"))], [])


class _UnknownLabelError(ValueError):
    """A fault of the recipe or the row, never one to pass over."""


def checked_text(value: Any, what: str) -> str:
    """The value, where it is a text that a model can be given. Raises ValueError, saying why not."""
    if value is None:
        raise ValueError(f"no {what}")
    if not isinstance(value, str):
        raise ValueError(f"the {what} is not a string but {repr(value)[:60]}")
    if not value.strip():
        raise ValueError(f"the {what} is empty")
    if "\0" in value:
        raise ValueError(f"the {what} holds a NUL byte")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"the {what} holds half a character (a lone surrogate) at {error.start}") from None
    return value


def _optional(value: Any) -> str | None:
    """A reasoning, or None where the cell is empty: R-Gen then writes one."""
    return None if value is None or not str(value).strip() else checked_text(value, "reasoning")


def _name(value: Any, classes: tuple[str, ...] | None, what: str) -> str:
    """A label or answer as text: class ids by their names, other whole numbers by their digits."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if math.isnan(value):
            value = None
        elif value.is_integer():  # a column of whole numbers with gaps
            value = int(value)
    if isinstance(value, int):
        if classes is None:
            return str(value)
        if value == -1:  # how data sets mark rows whose labels are withheld
            value = None
        elif 0 <= value < len(classes):
            return classes[value]
        else:
            raise ValueError(f"class id {value} has no name among {len(classes)}")
    return checked_text(value, what)


def row_reader(table: Table, known: Mapping[str, str]) -> Reader[Row]:
    """Rows from the cells of text, label and perhaps reasoning; of the labels `known`, where there are any."""
    classes, hints = table.class_names[1], dict[str, str]()
    interned = dict[str, str]()

    def read(number: int, cells: Sequence[Any]) -> Row:
        label = _name(cells[1], classes, "label")
        label = interned.setdefault(label, label)
        text, reasoning = checked_text(cells[0], "text"), _optional(cells[2]) if len(cells) > 2 else None
        if known and label not in known:
            if label not in hints:
                hints[label] = did_you_mean(label, known)
            raise _UnknownLabelError(f"the label {label!r} is not one of the {len(known)} labels.{hints[label]}")
        return Row(text, label, reasoning, table.name, number)

    return read


def _triple_reader(table: Table) -> Reader[Triple]:
    classes = table.class_names[1]

    def read(_: int, cells: Sequence[Any]) -> Triple:
        return Triple(
            checked_text(cells[0], "question"), _name(cells[1], classes, "answer"), checked_text(cells[2], "reasoning")
        )

    return read


class Sifted(NamedTuple, Generic[Item]):
    """A table's rows that can be used, and the faults of the others. `unknown`: among them are labels not asked for."""

    rows: list[Item]
    faults: list[Fault]
    unknown: bool


def sift(table: Table, read: Reader[Item], notes: list[str]) -> Sifted[Item]:
    """Read the rows of a table, in order. Those that are at fault and that nobody here can mend are noted alone."""
    rows, faults, passed_over = list[Item](), list(table.faults), Counter[str]()
    unknown = False
    for number, *cells in zip(table.rows, *table.cells, strict=True):
        try:
            rows.append(read(number, cells))
        except ValueError as error:
            meant = isinstance(error, _UnknownLabelError)
            unknown |= meant
            if table.editable or meant:
                faults.append(Fault(number, str(error)))
            else:
                passed_over[str(error)] += 1
    if passed_over:
        why = ", ".join(f"{what} ({times:,})" for what, times in passed_over.most_common(3))
        notes.append(f"{table.name}: {passed_over.total():,} of {table.total:,} rows left out: {why}")
    return Sifted(rows, faults, unknown)


def _collect(tables: Iterable[tuple[Table, Reader[Item]]], notes: list[str]) -> list[Item]:
    """The rows of all tables, in order. Raises DataError with all faults."""
    sifted = [(table, sift(table, read, notes)) for table, read in tables]
    mend = "Mend these rows or take them out."
    if any(one.unknown for _, one in sifted):
        mend += " Labels that are meant go into data.labels."
    refuse([(table.name, table.total, one.faults) for table, one in sifted], mend)
    return [row for _, one in sifted for row in one.rows]


def columns_of(section: DataSection, part: str) -> list[Column]:
    """The columns that a part of the labelled data has."""
    columns = [
        Column("text", "data.text_column", section.text_column),
        Column("label", "data.label_column", section.label_column),
    ]
    if section.reasoning_column is None or part == "test":
        return columns
    return [*columns, Column("reasoning", "data.reasoning_column", section.reasoning_column)]


def labels_in(tables: Sequence[Table], rows: Sequence[Row]) -> dict[str, str]:
    """The labels of the rows, without descriptions: in the order of the tables' class ids, else sorted."""
    present = {row.label for row in rows}
    ordered = dict.fromkeys(name for table in tables for name in table.class_names[1] or () if name in present)
    return dict.fromkeys([*ordered, *sorted(present - set(ordered))], "")


def _read_rows(
    section: DataSection, sources: Mapping[str, SourceSpec | None], notes: list[str]
) -> tuple[dict[str, str], dict[str, list[Row]]]:
    """The labels, and the rows of each part that has a source. Training rows come first: they may give the labels."""
    labels = dict(section.labels)
    rows: dict[str, list[Row]] = {}
    broken: list[DataError] = []
    for part, source in sources.items():
        if source is None:
            continue
        tables = read_tables(source, columns_of(section, part), f"data.{part}")
        try:
            rows[part] = _collect([(table, row_reader(table, labels)) for table in tables], notes)
        except DataError as error:
            broken.append(error)
            continue
        if not rows[part]:
            raise DataError(f"data.{part}: {source.path} has no row with a text and a label.")
        if not labels and part == "train":
            labels = labels_in(tables, rows[part])
    if broken:
        faults = [fault for error in broken for fault in error.faults]
        raise DataError("\n".join(error.what for error in broken), faults=faults, mend=broken[-1].mend)
    return labels, rows


def check_labels(section: DataSection, labels: Mapping[str, str], rows: Sequence[Row]) -> Iterator[str]:
    """Notes on the labels of all training rows. Raises DataError where no classifier can learn from them."""
    counts = Counter(row.label for row in rows)
    if len(counts) < 2:
        raise DataError(
            f"data.train: all {len(rows):,} rows of {section.train.path} have the label {next(iter(counts))!r}. "
            "A classifier needs two labels or more.",
            mend="Give rows of other labels too, or set data.label_column to another column.",
        )
    if not section.labels and len(counts) > 50 and 2 * len(counts) > len(rows):
        raise DataError(
            f"data.train: {section.train.path} has {len(counts):,} different labels in {len(rows):,} rows.",
            mend="Set data.label_column to the column of the label, or name the labels in data.labels.",
        )
    if not section.labels and all(re.fullmatch(r"-?\d+", name) for name in labels):
        yield f"the labels are numbers without names ({', '.join(list(labels)[:6])}): data.labels can describe them"
    if absent := [name for name in labels if name not in counts]:
        yield f"no training row has the label {', '.join(map(repr, absent))}"
    if single := sorted(name for name, count in counts.items() if count == 1):
        yield f"a single row has the label {', '.join(map(repr, single))}: it stays in train"
    alike = defaultdict(list)
    for name in labels:
        alike[" ".join(name.lower().split())].append(name)
    for names in alike.values():
        if len(names) > 1:
            yield f"labels that differ only in capitals or spaces: {', '.join(map(repr, names))}"


def _shuffled(places: Iterable[int], seed: str) -> list[int]:
    """The places in an order decided by the seed, alike on every machine and in every process."""
    order = list(places)
    random.Random(seed).shuffle(order)
    return order


def _shares(counts: Mapping[str, int], total: int, *, at_least: int = 0, spare: int = 0) -> dict[str, int]:
    """How many of `total` rows each label gets, in proportion to its count, by largest remainder.

    A label gets `at_least` so many, and `spare` of its rows are never taken.
    """
    rows = sum(counts.values())
    shares = {name: min(max(total * n // rows, at_least), n - spare) for name, n in sorted(counts.items())}
    while missing := total - sum(shares.values()):
        step = 1 if missing > 0 else -1
        # Furthest below its exact share first; where rows must be given back, furthest above it.
        order = sorted(shares, key=lambda name: step * (shares[name] * rows - total * counts[name]))
        open_to = [name for name in order if at_least <= shares[name] + step <= counts[name] - spare]
        if not open_to:
            break
        for name in open_to[: abs(missing)]:
            shares[name] += step
    return shares


def _draw(rows: Sequence[Row], total: int, seed: str, *, at_least: int = 0, spare: int = 0) -> set[int]:
    """Places of a stratified draw. A larger draw by the same seed holds, label by label, a smaller one."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row.label].append(place)
    counts = {name: len(own) for name, own in places.items()}
    shares = _shares(counts, total, at_least=at_least, spare=spare)
    return {place for name, n in shares.items() for place in _shuffled(places[name], f"{seed}/{name}")[:n]}


def draw_rows(rows: Sequence[Row], total: int, seed: str, *, at_least: int = 0) -> list[Row]:
    """So many of the rows in their order, every label in proportion, or `at_least` so many of each."""
    drawn = _draw(rows, total, seed, at_least=at_least)
    return [rows[place] for place in sorted(drawn)]


def carve(rows: Sequence[Row], part: str, size: float, everything: int, seed: int) -> tuple[list[Row], list[Row]]:
    """A stratified part of the training rows, and the rest, which keeps a row of every label. `size` is a share of
    `everything` below 1, else a count. Raises DataError where it is more than half of the rows."""
    key = f"data.{'val' if part == 'validation' else part}_size"
    total = carved_size(size, everything, len(rows), key, f", or give rows of its own in data.{part}")
    drawn = _draw(rows, total, f"{seed}/{part}", spare=1)
    return [rows[place] for place in sorted(drawn)], [row for place, row in enumerate(rows) if place not in drawn]


def carved_size(size: float, rows: int, left: int, key: str, otherwise: str) -> int:
    """How many rows to carve: a share of all `rows` below 1, else a count. `left` are still to be carved from."""
    count = round(size * rows) if size < 1 else int(size)
    if 2 * count > left:
        raise DataError(
            f"{key}: {count:,} rows would be more than half of the {left:,} training rows that they are carved out of.",
            mend=f"Set {key} to a smaller number or to a share such as 0.1{otherwise}.",
        )
    return count


def _sample_train(rows: list[Row], most: int | None, seed: int, notes: list[str]) -> list[Row]:
    if most is None or len(rows) <= most:
        return rows
    labels = len({row.label for row in rows})
    if most < labels:
        raise DataError(
            f"data.max_samples: {most:,} rows cannot hold each of the {labels:,} labels.",
            mend=f"Set data.max_samples to {labels:,} or more.",
        )
    notes.append(f"train: {most:,} of {len(rows):,} rows drawn (data.max_samples)")
    return draw_rows(rows, most, f"{seed}/train", at_least=1)


def _digest(head: Iterable[Sequence[str]], parts: Mapping[str, Sequence[Row] | Sequence[Triple]]) -> str:
    """SHA-256 over lines of JSON: the head, then each row with its part's name."""
    digest = hashlib.sha256()
    for line in head:
        digest.update(json.dumps(line).encode() + b"\n")
    for part, rows in parts.items():
        for row in rows:
            values = [row.question, row.answer] if isinstance(row, Triple) else [row.text, row.label]
            values += [row.reasoning] if row.reasoning is not None else []
            digest.update(json.dumps([part, *values]).encode() + b"\n")
    return digest.hexdigest()
