"""What a first recipe rests on: the table, its columns, rows and labels, and the base models that could be trained.

The caller asks what only the user knows, and passes it on.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from rir_mlx import hub_access
from rir_mlx.data.audit.findings import Material
from rir_mlx.data.columns import Role, usually_named
from rir_mlx.data.labels.columns_of_labels import people_labelled
from rir_mlx.data.loading import format_of
from rir_mlx.data.rows import Row
from rir_mlx.data.tables.table import advice_on
from rir_mlx.data.tables.text_files import OtherEncoding
from rir_mlx.errors import DataError, UserError
from rir_mlx.guide.models import EMBEDDED_MODEL, BaseModel, default_model, fitting, models_here, named_model
from rir_mlx.guide.table.columns import (
    Guess,
    TableColumns,
    column_of_parts,
    columns_of_labels,
    guess_reasoning,
    guess_text,
    headline_of,
    label_columns,
    marked_columns,
    other_texts,
    read_columns,
)
from rir_mlx.guide.table.labels import LabelFacts, label_facts
from rir_mlx.guide.table.reading import how_labels_are_read, may_say_several, rows_of
from rir_mlx.progress import counted
from rir_mlx.recipe.loading import dump_yaml, load_recipe
from rir_mlx.training.cost import memory_size
from rir_mlx.types import TABLE_SUFFIXES

_NAMED = "you named it"
_SENTENCE = 5
"""Words from which on a column's name may be a text."""
_SMALL = 500_000_000
"""Below so many weights a pretrained model is small."""
ENCODING = "the file is not UTF-8, and looks like this"


def find_table(name: str | None, overrides: Sequence[str] = ()) -> Path:
    """The table that is meant: the file that the key `data.train` names among the `overrides`; else the named one, or
    the only one in this folder. Raises UserError if there is none, or several."""
    sets = any(text.partition("=")[0].strip() in ("data.train", "data.train.path") for text in overrides)
    if sets and (other := Path(load_recipe(None, overrides).data.train.path)).is_file():
        return other
    if name is not None:
        return Path(name)
    found = sorted(path for path in Path.cwd().iterdir() if path.suffix.lower() in TABLE_SUFFIXES and path.is_file())
    if len(found) == 1:
        return Path(found[0].name)
    names = ", ".join(path.name for path in found[:10])
    raise UserError(
        f"Which table? There are {len(found):,} here: {names}." if found else "There is no table in this folder.",
        hint=f"Name it: rir-mlx init {found[0].name if found else 'FILE'}",
    )


@dataclass(frozen=True)
class TableLook:
    """The columns of a table, and what each probably is: None or nothing if no column looks like it. `overrides` are
    keys that the user has set."""

    path: Path
    table: TableColumns
    text: Guess | None
    labels: Sequence[Guess]
    reasoning: Guess | None
    overrides: Sequence[str] = ()
    encoding: str | None = None
    """What a text that is not UTF-8 looks like."""
    headline: str | None = None
    """A column that may stand above the text, such as a subject."""
    texts: Sequence[str] = ()
    """Columns of texts that are left out."""
    parts: str | None = None
    """A column that says which rows are for testing. Nothing reads it."""


@dataclass(frozen=True)
class ScannedTable:
    """A table whose rows were read: the chosen columns, the rows and the labels."""

    path: Path
    text: Guess
    label: Guess
    reasoning: Guess | None
    material: Material
    facts: LabelFacts
    overrides: Sequence[str]
    parts: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """The rows as the recipe will split them, by part; empty before its sizes are chosen."""
    encoding: str | None = None
    labels_are: Mapping[str, Any] = field(default_factory=dict)
    """Keys of `data` that say how the label's cells are read, where a text may have several labels, or votes."""

    @property
    def rows(self) -> list[Row]:
        return [row for part in self.material.parts.values() for row in part]

    @property
    def bad_rows(self) -> int:
        """Rows that cannot be used, misspelt labels included."""
        refused = {(fault.file, fault.number) for fault in self.material.refused if fault.number}
        return len(refused) + sum(count for _, count in self.facts.strays.values())


def look_at(path: Path, overrides: Sequence[str] = ()) -> TableLook:
    """The columns of a table and what each probably is. `overrides` are keys that the user has set.

    Raises DataError if the file cannot be read."""
    section = load_recipe(None, overrides).data
    encoding = None
    try:
        table = read_columns(path, format_of(section))
    except OtherEncoding as error:
        if error.encoding is None:
            raise
        encoding = error.encoding
        table = read_columns(path, replace(format_of(section), encoding=encoding))
    named = section.text_column
    text = _named(named) if named else guess_text(table)
    headline = headline_of(table, text.column) if text and not named else None
    taken = {*(text.columns if text else ()), *((headline,) if headline else ())}
    alone = section.label_separator is not None  # several labels stand in one column
    guesses = label_columns(table, taken) if alone else _label_guesses(table, taken)
    labels = [_named(section.label_column)] if section.label_column else guesses
    taken |= {name for guess in labels[:1] for name in guess.columns}
    reasoning = None if section.reasoning_column else guess_reasoning(table, taken)
    taken |= {section.reasoning_column or "", reasoning.column if reasoning else ""}
    texts = other_texts(table, taken) if text and not named else ()
    parts = column_of_parts(table, taken)
    return TableLook(path, table, text, labels, reasoning, tuple(overrides), encoding, headline, texts, parts)


def _named(columns: str | Sequence[str]) -> Guess:
    """Columns that the user named."""
    first, *more = (columns,) if isinstance(columns, str) else columns
    return Guess(first, _NAMED, tuple(more))


def _label_guesses(table: TableColumns, taken: Collection[str]) -> list[Guess]:
    """What may be the label: a column, or several that say it together where none has a usual name."""
    single = label_columns(table, taken)
    if len(single) == 1 or usually_named(table.names, "label") or (together := columns_of_labels(table, taken)) is None:
        return single
    return [together] if {guess.column for guess in single} <= set(together.columns) else single


def scan(look: TableLook, text: Sequence[str] = (), label: Sequence[str] = ()) -> ScannedTable:
    """Read all rows and their labels, from the columns named here, else from the guessed ones.

    Raises DataError if there is no guess, if two columns may be the label, or if the rows cannot be read at all."""
    chosen = _chosen_columns(look, text, label)
    material, labels_are = rows_of(chosen.keys(look), look.overrides)
    if not material.parts["train"]:
        raise _no_row(look, [fault.what for fault in material.refused if fault.number])
    if whole := [fault.what for fault in material.refused if not fault.number]:
        many = any("combinations" in what for what in whole)
        raise DataError("\n".join(whole), hint="" if many else "Name other columns with -s data.…, or give more rows.")
    return ScannedTable(
        look.path,
        chosen.text,
        chosen.label,
        chosen.reasoning,
        material,
        label_facts(material),
        tuple(look.overrides),
        encoding=look.encoding,
        labels_are=labels_are,
    )


def _no_row(look: TableLook, faults: Sequence[str]) -> DataError:
    """The error for a table of which no row can be used."""
    kinds = Counter(faults).most_common(1)
    why = "".join(f": {what} ({counted(count, 'row')})" for what, count in kinds)
    hint = f"Name other columns with -s data.…{advice_on(faults)}"
    return DataError(f"{look.path}: no row has a text and a label{why}.", hint=hint)


class _Chosen(NamedTuple):
    """The columns that a table is read from."""

    text: Guess
    label: Guess
    reasoning: Guess | None

    def keys(self, look: TableLook) -> dict[str, Any]:
        """The recipe's keys for them."""
        keys = {"data.train": str(look.path), "data.text_column": self.text.value}
        keys["data.label_column"] = self.label.value
        keys |= {"data.reasoning_column": self.reasoning.column} if self.reasoning else {}
        return keys | ({"data.encoding": look.encoding} if look.encoding else {})


def _chosen_columns(look: TableLook, text: Sequence[str] = (), label: Sequence[str] = ()) -> _Chosen:
    """The named columns, else the guessed ones. Raises DataError if there is no guess, or two of a label."""
    names = ", ".join(look.table.names)
    chosen = _named(text) if text else look.text
    if chosen is None:
        raise DataError(
            f"{look.path}: no column looks like the text. Columns: {names}.",
            hint="Name it: -s data.text_column=NAME. In a CSV file, the first line must name the columns.",
        )
    labels = [_named(label)] if label else look.labels
    if len(labels) != 1:
        may = " and ".join(repr(guess.column) for guess in labels)
        what = f"{may} may each be the label." if labels else _no_label(look.table)
        raise DataError(f"{look.path}: {what} Columns: {names}.", hint=_how_to_name_labels(look, chosen))
    used = (*chosen.columns, *labels[0].columns)
    if both := set(chosen.columns) & set(labels[0].columns):
        raise DataError(
            f"{look.path}: {min(both)!r} cannot be both the text and the label. Columns: {names}.",
            hint="Name another one: -s data.text_column=NAME or -s data.label_column=NAME",
        )
    reasoning = look.reasoning if look.reasoning and look.reasoning.column not in used else None
    return _Chosen(chosen, labels[0], reasoning)


def _how_to_name_labels(look: TableLook, text: Guess) -> str:
    """What to do where the column of the label is not sure."""
    hint = "Name it: -s data.label_column=NAME"
    if len(look.table.names) - len(text.columns) < 2:
        return f"{hint}. In a CSV file, the first line must name the columns; data.delimiter says what stands between."
    marked = marked_columns(look.table, text.columns)
    marked = [] if people_labelled(marked) else marked
    columns = "[A, B]" if len(marked) < 2 else dump_yaml(marked, default_flow_style=True, width=10**9).strip()
    option = shlex.quote(f"data.label_column={columns}")
    several = f"If several columns are a label each, for example: -s {option}"
    return f"{hint}. {several} (where they are votes, or people who labelled, add -s data.soft_labels=true)"


def _no_label(table: TableColumns) -> str:
    """Why no column looks like the label."""
    lone = [column for name in usually_named(table.names, "label") if (column := table.named(name))]
    if len(lone) == 1 and len(lone[0].values) == 1:
        [value] = lone[0].values
        rows = f"the {counted(table.rows, 'row')} that were read" if table.partly else counted(table.rows, "row")
        return f"in {rows}, the column {lone[0].name!r} has a single label, {value!r}; a classifier needs two or more."
    return "no column looks like the label."


def reading_keys(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """The keys of `data` with which a table is read, as far as the user has not set them and they are not found anyway;
    and what is said of each.

    Raises DataError if the text or the label is not found."""
    try:
        look = look_at(path, overrides)
    except DataError:  # of a column that is not needed, perhaps
        return {}, []
    if _may_have_no_header(look):
        return {}, []
    keys, said = dict[str, Any](), list[str]()
    if look.encoding:
        keys["encoding"] = look.encoding
        said.append(f"Encoding: {look.encoding}, because {ENCODING}.")
    roles: tuple[tuple[Role, Sequence[Guess]], ...] = (
        ("text", [look.text] if look.text else []),
        ("label", look.labels),
    )
    unknown = False
    for role, guesses in roles:
        usual = usually_named(look.table.names, role)
        unknown |= len(guesses) != 1 and len(usual) != 1
        if len(guesses) == 1 and guesses[0].reason != _NAMED and usual != [guesses[0].value]:
            keys[f"{role}_column"] = guesses[0].value
            said.append(f"{role.capitalize()}: {guesses[0].shown}, because {guesses[0].reason}.")
    try:
        chosen = _chosen_columns(look)
    except DataError:
        if unknown:
            raise
        return keys, said  # an audit shows all faults
    if not may_say_several(look.table, chosen.label):
        return keys, said
    labels_are = rows_of(chosen.keys(look), look.overrides)[1]
    said += [f"{how_labels_are_read(chosen.label, labels_are)}."] if labels_are else []
    return keys | labels_are, said


def _may_have_no_header(look: TableLook) -> bool:
    """Whether the first line may be the first row: there is one column, or no usual name, and one is a label that
    comes again below it, or a sentence."""
    table = look.table
    if len(table.names) == 1:
        return True
    if usually_named(table.names, "text") or usually_named(table.names, "label"):
        return False
    again = any(column.name in column.values for column in table.columns)
    return again or any(len(name.split()) >= _SENTENCE for name in table.names)


def with_all_labels(table: ScannedTable) -> ScannedTable:
    """The table with every label as it is spelled, those included that look misspelt."""
    return replace(table, facts=label_facts(table.material, spot_slips=False))


@dataclass(frozen=True)
class ModelChoice:
    """A base model with the reason for it."""

    model: BaseModel
    reason: str

    @property
    def tiny(self) -> bool:
        return self.model.name == EMBEDDED_MODEL

    @property
    def small(self) -> bool:
        """Whether it is a pretrained model that gains from larger steps, and more of them."""
        return not self.tiny and 0 < self.model.weights < _SMALL


def model_choices(memory: int, overrides: Sequence[str] = ()) -> list[ModelChoice]:
    """The model that the user has set among the `overrides`, alone. Without one, the models to choose from, the best
    one first: the default model if it is here or can be fetched, and fits; then the largest on this machine that fits;
    the embedded one always. `memory` is this machine's, in bytes."""
    here, found = models_here(memory), list[ModelChoice]()
    usual = default_model(memory, here)
    set_ = [text for text in overrides if text.partition("=")[0].strip() == "model"]
    if set_:
        named = load_recipe(None, set_).model
        return [ModelChoice(next((model for model in here if model.name == named), named_model(named, memory)), _NAMED)]
    has = f"this machine has {memory_size(memory)}"
    if usual.fits and (usual.here or hub_access.hub_answers()):
        where = "is on this machine" if usual.here else f"is fetched once ({memory_size(usual.size)})"
        found.append(ModelChoice(usual, f"it {where}; training takes about {_memory(usual)}, and {has}"))
    for model in fitting(here):
        if model.name not in (usual.name, EMBEDDED_MODEL):
            reason = f"it is on this machine; training takes about {_memory(model)}, and {has}"
            found.append(ModelChoice(model, reason))
    embedded = next(model for model in here if model.name == EMBEDDED_MODEL)
    why = "it ships with rir-mlx and trains in minutes, but is far too small to reason well"
    if not found:
        away = "the hub cannot be reached" if usual.fits else f"{usual.name} needs {_memory(usual)}, and {has}"
        why = f"no other is on this machine, and {away}; {why}"
    return [*found, ModelChoice(embedded, why)]


def _memory(model: BaseModel) -> str:
    return memory_size(model.memory or 0)
