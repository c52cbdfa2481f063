"""Rows, labels and splits: from a recipe's sources to the training, validation and test rows of a run.

Texts are exactly those of the file. Every draw is decided by the seed and stratified by label, and keeps the rows in
the order of the file. Knows no prompt, tokenizer or framework.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rir_mlx.data.cells import checked_text
from rir_mlx.data.columns import Column
from rir_mlx.data.labels.columns_of_labels import ColumnStyle
from rir_mlx.data.labels.combinations import BETWEEN, MOST_COMBINATIONS, combinations_of, parts_of
from rir_mlx.data.labels.spelling import Spellings
from rir_mlx.data.row_reading import RowRules, collect, read_rows, triple_reader
from rir_mlx.data.rows import AnyRows, Row, Rows, Triple
from rir_mlx.data.splits import carve_missing_parts, carved_size, draw_rows, sample_train, shuffled, strata_of
from rir_mlx.data.tables.sources import read_file, read_tables
from rir_mlx.data.tables.table import ANY_FORMAT, Fault, Table, TableFormat, advice, missing_file, refuse, wanted_text
from rir_mlx.data.tables.text_files import read_lines
from rir_mlx.errors import DataError
from rir_mlx.progress import counted
from rir_mlx.recipe.schema import DataSection, ReasoningSection
from rir_mlx.types import PARTS, TABLE_SUFFIXES

_TEST_PART = re.compile(r"(?<![a-z])test(?![a-z])", re.IGNORECASE)
NO_TEST_ROWS = "Name another file or split in data.train and data.validation; rename it if it is no test part."
"""What helps if a part is a test part by its name."""


@dataclass(frozen=True)
class LabelledData:
    """The rows of a run, as used."""

    labels: dict[str, str]
    """Name and description of each label: in the recipe's order, else that of the data set's class ids, else sorted."""
    train: Rows
    validation: Rows
    test: Rows
    digest: str
    """SHA-256 over the labels and the rows of the three parts."""
    notes: tuple[str, ...]
    """What the user should know about these rows, in words."""
    spellings: Spellings
    """How each label is spelled in the files, with counts."""
    combinations: tuple[str, ...] = ()
    """What a text can be answered with, if it may have several labels: each label alone, and the labels that rows have
    together."""
    strata: Mapping[str, str] = field(default_factory=dict)
    """What training rows' labels are drawn as, where that is another label: rare combinations are."""


@dataclass(frozen=True)
class TripleData:
    """The triples that R-Gen learns from, as used."""

    train: tuple[Triple, ...]
    validation: tuple[Triple, ...]
    digest: str
    notes: tuple[str, ...]


def load_labelled(section: DataSection, seed: int) -> LabelledData:
    """Read, check and split the labelled rows. The test part does not depend on `val_size` or `max_samples`.

    Raises DataError with all faults of all files."""
    notes: list[str] = []
    spellings: Spellings = {}
    labels, rows = _read_rows(section, notes, spellings)
    draw_held_out(rows, section, seed, notes)
    notes += check_labels(section, labels, rows["train"])
    combinations = together_of(section, labels, rows, notes)
    notes += carve_missing_parts(rows, section, seed)
    strata = strata_of(section, rows["train"])
    rows["train"] = sample_train(rows["train"], section.max_samples, seed, notes, strata)
    used: dict[str, Rows] = {part: rows.get(part, Rows()) for part in PARTS}
    together = [["together", name] for name in combinations]
    digest = _digest([*(["label", *pair] for pair in labels.items()), *together], used)
    parts = (used["train"], used["validation"], used["test"])
    return LabelledData(labels, *parts, digest, tuple(notes), spellings, combinations, strata)


def draw_held_out(rows: dict[str, AnyRows], section: DataSection, seed: int, notes: list[str]) -> None:
    """Of test and validation rows that are more than the section asks for, draw as many."""
    for part, size in (("test", section.test_size), ("validation", section.val_size)):
        if part in rows and 1 <= size < len(rows[part]):
            notes.append(f"{part}: {int(size):,} of {len(rows[part]):,} rows drawn")
            rows[part] = draw_rows(rows[part], int(size), f"{seed}/{part}")


def load_triples(section: ReasoningSection, seed: int) -> TripleData:
    """Read, check and split the reasoning triples. Raises DataError with all faults of all files.

    Incomplete triples are faults in a file, which the user can correct; in a published data set they are left out.
    Without a source there are no triples.
    """
    if section.source is None:
        return TripleData((), (), _digest([], {}), ())
    columns = [
        Column("question", "reasoning.question_column", section.question_column),
        Column("answer", "reasoning.answer_column", section.answer_column),
        Column("reasoning", "reasoning.reasoning_column", section.reasoning_column),
    ]
    notes: list[str] = []
    tables = read_tables(section.source, columns, "reasoning.source", format_of(section))
    triples = collect([(table, triple_reader(table)) for table in tables], notes)
    if not triples:
        raise DataError(f"reasoning.source: {section.source.path} has no complete triples.")
    count = carved_size(section.val_size, len(triples), len(triples), "reasoning.val_size", "")
    order = shuffled(range(len(triples)), f"{seed}/triples")
    held, kept = order[:count], order[count:]
    if section.max_samples is not None and len(kept) > section.max_samples:
        notes.append(f"train: {section.max_samples:,} of {len(kept):,} triples drawn")
        kept = kept[: section.max_samples]
    train, validation = (tuple(triples[place] for place in sorted(places)) for places in (kept, held))
    digest = _digest([], {"train": train, "validation": validation})
    return TripleData(train, validation, digest, tuple(notes))


class Texts(NamedTuple):
    """The texts of a file to classify, the rows without one, and what the user should know of how it was read."""

    texts: list[str]
    left_out: list[Fault]
    notes: list[str]


def read_texts(path: Path, text_column: str | Sequence[str] | None, form: TableFormat = ANY_FORMAT) -> Texts:
    """The texts of a file to classify: one a line in `.txt`, else the text column. Raises DataError with all rows that
    cannot be read, and if no row has a text."""
    if not path.is_file():
        raise missing_file(path)
    wanted = wanted_text(path, text_column, form)
    table = read_lines(path, wanted) if path.suffix.lower() == ".txt" else read_file(path, wanted)
    refuse([(table.name, table.total, table.faults)], advice((fault.what for fault in table.faults), wanted.settings))
    found = Texts([], [], list(table.notes))
    for number, cell in zip(table.rows, table.cells[0], strict=True):
        try:
            found.texts.append(checked_text(cell, "text"))
        except ValueError as error:
            found.left_out.append(Fault(number, str(error), table.sheet_row(number)))
    if not found.texts:
        why = ", ".join(f"{what} ({count:,})" for what, count in Counter(row.what for row in found.left_out).items())
        raise DataError(f"{path}: no row has a text: {why}.", hint=advice((), wanted.settings))
    return found


def format_of(section: DataSection | ReasoningSection) -> TableFormat:
    """How the user says the section's files are written."""
    return TableFormat(section.delimiter, section.encoding, section.quotes)


def columns_of(section: DataSection, part: str) -> list[Column]:
    """The columns that a part of the labelled data has."""
    columns = [
        Column.of("text", "data.text_column", section.text_column),
        Column.of("label", "data.label_column", section.label_column),
    ]
    if section.reasoning_column is None or part == "test":
        return columns
    return [*columns, Column("reasoning", "data.reasoning_column", section.reasoning_column)]


def labels_in(tables: Sequence[Table], present: Collection[str]) -> dict[str, str]:
    """The labels that are present, without descriptions: in the order of the tables' class ids, else sorted."""
    ordered = dict.fromkeys(name for table in tables for name in table.class_names[1] or () if name in present)
    return dict.fromkeys([*ordered, *sorted(set(present) - set(ordered))], "")


def _read_rows(section: DataSection, notes: list[str], spellings: Spellings) -> tuple[dict[str, str], dict[str, Rows]]:
    """The labels, and the rows of each part that has a source. Training rows come first: they may give the labels."""
    labels = dict(section.labels)
    rows: dict[str, Rows] = {}
    broken = list[DataError]()
    read, style = read_parts(section)
    for part, tables in read.items():
        source = getattr(section, part)
        try:
            rules = row_rules(section, labels, spellings, style)
            rows[part] = read_rows(tables, part, rules, notes, section.on_bad_rows)
        except DataError as error:
            broken.append(error)
            continue
        if not rows[part]:
            raise DataError(f"data.{part}: {source.path} has no row with a text and a label.")
        if not labels and part == "train":
            labels = labels_in(tables, spellings)
    if broken:
        faults = [fault for error in broken for fault in error.faults]
        raise DataError("\n".join(error.what for error in broken), faults=faults, hint=broken[-1].hint)
    return labels, rows


def read_parts(section: DataSection) -> tuple[dict[str, list[Table]], ColumnStyle]:
    """The tables of each part that has a source, training rows first, and how all of them fill label columns.

    Raises DataError if a source is missing or cannot be read at all."""
    style, found = ColumnStyle(), dict[str, list[Table]]()
    for part in PARTS:
        source = getattr(section, part)
        if source is not None:
            found[part] = read_tables(source, columns_of(section, part), f"data.{part}", format_of(section))
            for table in found[part]:
                style.see(table.cells[1], section.labels)
    return found, style


def row_rules(
    section: DataSection,
    labels: Mapping[str, str],
    spellings: Spellings,
    style: ColumnStyle,
    *,
    lenient: bool = False,
) -> RowRules:
    """How the section's rows are read. `style` is one for all its parts."""
    if section.no_label is not None and not (section.several or section.soft_labels):
        raise DataError("data.no_label is for texts that may have several labels, or votes.", hint="Leave it out.")
    columns = section.label_column if isinstance(section.label_column, tuple) else ()
    names = {*labels, *(" ".join(name.split()) for name in columns), *([section.no_label] if section.no_label else ())}
    ways = (section.several, section.label_separator, section.soft_labels, section.no_label)
    return RowRules(labels, spellings, lenient, *ways, names, style)


def together_of(
    section: DataSection, labels: Mapping[str, str], rows: Mapping[str, Rows], notes: list[str]
) -> tuple[str, ...]:
    """What texts that may have several labels can be answered with. Where each row has one of several columns marked,
    these are ordinary labels. Raises DataError if there are too many."""
    if not section.several:
        return ()
    of_part = {part: Counter(found.labels()) for part, found in rows.items()}
    if section.label_separator is None and not any(BETWEEN in name for counts in of_part.values() for name in counts):
        return ()
    together = combinations_of((name for counts in of_part.values() for name in counts), labels)
    if len(together) > MOST_COMBINATIONS:
        raise DataError(
            f"data.train: the labels occur in {len(together):,} combinations; at most {MOST_COMBINATIONS:,} can be "
            "told apart.",
            hint="Leave out rare labels, or train a classifier for each label with a column of yes and no.",
        )
    notes.append(f"labels that may hold together: {len(labels):,}, in {len(together):,} combinations")
    for part in ("validation", "test"):
        unseen = Counter({name: count for name, count in of_part.get(part, {}).items() if name not in of_part["train"]})
        if unseen:
            rows_have = f"{counted(unseen.total(), 'row')} {'has' if unseen.total() == 1 else 'have'}"
            notes.append(f"{part}: {rows_have} labels together that no training row has together")
    return together


def label_counts(section: DataSection, rows: Rows) -> Counter[str]:
    """How many rows have each label."""
    if section.soft_labels:
        return Counter(label for row in rows for label, _ in row.divided)
    return Counter(label for name in rows.labels() for label in (parts_of(name) if section.several else (name,)))


def check_labels(section: DataSection, labels: Mapping[str, str], rows: Rows) -> Iterator[str]:
    """Notes on the labels of all training rows. Raises DataError if a classifier cannot learn from them."""
    counts = label_counts(section, rows)
    if len(counts) < 2:
        raise DataError(
            f"data.train: all {len(rows):,} rows of {section.train.path} have the label {next(iter(counts))!r}. "
            "A classifier needs two labels or more.",
            hint="Give rows of other labels too, or set data.label_column to another column.",
        )
    if not section.labels and len(counts) > 50 and 2 * len(counts) > len(rows):
        raise DataError(
            f"data.train: {section.train.path} has {len(counts):,} different labels in {len(rows):,} rows.",
            hint="Set data.label_column to the column of the label, or name the labels in data.labels.",
        )
    if not section.labels and all(re.fullmatch(r"-?\d+", name) for name in labels):
        yield f"the labels are numbers without names ({', '.join(list(labels)[:6])}): data.labels can describe them"
    columns = section.label_column if isinstance(section.label_column, tuple) and section.several else ()
    plain = (" ".join(name.split()) for name in columns)
    if never := [name for name in plain if name not in counts and name not in labels]:
        yield f"no training row is marked in {', '.join(map(repr, never))}"
    if absent := [name for name in labels if name not in counts]:
        yield f"no training row has the label {', '.join(map(repr, absent))}: take it out of data.labels if it is none"
    if single := sorted(name for name, count in counts.items() if count == 1):
        one = "it stays" if len(single) == 1 else "each stays"
        yield f"a single row has the label {' or '.join(map(repr, single))}: {one} in train"


def named_as_test(section: DataSection) -> str | None:
    """What to say of a training or validation part that is a test part by its name, if one is: reasonings are made from
    the labels, so that they would tell what is to be measured."""
    for part in ("train", "validation"):
        source = getattr(section, part)
        if source is None:
            continue
        file = Path(source.path).stem if Path(source.path).suffix in TABLE_SUFFIXES else ""
        if _TEST_PART.search(source.split or "") or _TEST_PART.search(file):
            return (
                f"data.{part} is a test part ({source.split or source.path}). Its reasonings would be made from the "
                "labels, and a classifier trained on them could no longer be measured on it."
            )
    return None


def refuse_test_rows(section: DataSection) -> None:
    """Raise DataError for a training or validation part that is a test part by its name."""
    what = named_as_test(section)
    if what is not None:
        raise DataError(what, hint=NO_TEST_ROWS)


def _digest(head: Iterable[Sequence[str]], parts: Mapping[str, Rows] | Mapping[str, Sequence[Triple]]) -> str:
    """SHA-256 over lines of JSON: the head, then each row with its part's name."""
    digest = hashlib.sha256()
    for line in head:
        digest.update(json.dumps(line).encode() + b"\n")
    for part, rows in parts.items():
        for row in rows:
            values = [row.question, row.answer] if isinstance(row, Triple) else [row.text, row.label]
            values += [row.reasoning] if row.reasoning is not None else []
            values += [str(row.shares)] if isinstance(row, Row) and row.shares else []
            digest.update(json.dumps([part, *values]).encode() + b"\n")
    return digest.hexdigest()
