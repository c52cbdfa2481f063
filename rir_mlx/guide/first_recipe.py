"""A first recipe for a table: each choice with its reason, so that a user can disagree.

The caller asks what only the user knows, and passes it on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rir_mlx.data.audit.findings import Audit, Material
from rir_mlx.data.audit.scan import scan_sources
from rir_mlx.data.loading import format_of
from rir_mlx.data.rows import Row
from rir_mlx.data.tables.text_files import OtherEncoding
from rir_mlx.errors import DataError, UserError
from rir_mlx.guide.columns import (
    Guess,
    TableColumns,
    guess_reasoning,
    guess_text,
    headline_of,
    label_columns,
    read_columns,
)
from rir_mlx.guide.draft import Draft
from rir_mlx.guide.labels import LabelFacts, label_examples, label_facts
from rir_mlx.guide.models import EMBEDDED_MODEL, BaseModel, default_model, fitting, models_here, unknown_model
from rir_mlx.guide.planning import Sizes
from rir_mlx.hub_access import cached_names, hub_answers
from rir_mlx.progress import counted, shortened
from rir_mlx.recipe.loading import load_recipe, name_from
from rir_mlx.recipe.schema import Recipe
from rir_mlx.recipe.values import ENOUGH_OWN_REASONINGS
from rir_mlx.training.cost import memory_size
from rir_mlx.types import TABLE_SUFFIXES

_FEW_BAD = 0.1
"""Up to this share, bad rows are left out; a table with more of them is probably read wrongly."""
_MANY_ROWS = 5000
"""From so many rows on, fixed numbers of validation and test rows are enough."""
_MOST_ROWS = 4000
_STEPS, _MOST_EPOCHS = 150, 8
_TINY_STEPS, _TINY_EPOCHS = 400, 12
"""Optimizer steps that a small table should give, and at most how many passes over its rows for that."""
_EXAMPLE_LABELS = 20
"""Up to so many labels, the recipe shows rows of each."""
_SHOWN = 90
_TRIPLES = "syvai/reasoning-gen"
_NAMED = "you named it"
ENCODING = "the file is not UTF-8, and looks like this"
_BYTES_OF_A_STORED_WEIGHT = 2


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
    named = (named,) if isinstance(named, str) else named
    text = Guess(named[0], _NAMED, tuple(named[1:])) if named else guess_text(table)
    headline = headline_of(table, text.column) if text and not named else None
    taken = {*(text.columns if text else ()), *((headline,) if headline else ())}
    labels = [Guess(section.label_column, _NAMED)] if section.label_column else label_columns(table, taken)
    taken |= {guess.column for guess in labels[:1]}
    reasoning = None if section.reasoning_column else guess_reasoning(table, taken)
    return TableLook(path, table, text, labels, reasoning, tuple(overrides), encoding, headline)


def scan(look: TableLook, text: Sequence[str] = (), label: str | None = None) -> ScannedTable:
    """Read all rows and their labels, from the columns named here, else from the guessed ones.

    Raises DataError if there is no guess, if two columns may be the label, or if the rows cannot be read at all."""
    names = ", ".join(look.table.names)
    chosen = Guess(text[0], _NAMED, tuple(text[1:])) if text else look.text
    if chosen is None:
        raise DataError(
            f"{look.path}: no column looks like the text. Columns: {names}.",
            hint="Name it: -s data.text_column=NAME. In a CSV file, the first line must name the columns.",
        )
    labels = [Guess(label, _NAMED)] if label is not None else look.labels
    if len(labels) != 1:
        may = " and ".join(repr(guess.column) for guess in labels)
        what = f"{may} may each be the label." if labels else "no column looks like the label."
        raise DataError(f"{look.path}: {what} Columns: {names}.", hint="Name it: -s data.label_column=NAME")
    used = (*chosen.columns, labels[0].column)
    if used[-1] in used[:-1]:
        raise DataError(
            f"{look.path}: {used[-1]!r} cannot be both the text and the label. Columns: {names}.",
            hint="Name another one: -s data.text_column=NAME or -s data.label_column=NAME",
        )
    reasoning = look.reasoning if look.reasoning and look.reasoning.column not in used else None
    keys = {"data.train": str(look.path), "data.text_column": chosen.value, "data.label_column": used[-1]}
    keys |= {"data.reasoning_column": reasoning.column} if reasoning else {}
    keys |= {"data.encoding": look.encoding} if look.encoding else {}
    wanted = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]
    material = scan_sources(load_recipe(None, [*wanted, *look.overrides]).data, 0)
    if not material.parts["train"]:
        raise DataError(f"{look.path}: no row has a text and a label.", hint="Name other columns with -s data.…")
    if whole := [fault.what for fault in material.refused if not fault.number]:
        raise DataError("\n".join(whole), hint="Name other columns with -s data.…, or give more rows.")
    return ScannedTable(
        look.path,
        chosen,
        labels[0],
        reasoning,
        material,
        label_facts(material),
        tuple(look.overrides),
        encoding=look.encoding,
    )


def with_all_labels(table: ScannedTable) -> ScannedTable:
    """The table with every label as it is spelled, those included that look misspelt."""
    return replace(table, facts=label_facts(table.material, spot_slips=False))


def as_split(table: ScannedTable) -> ScannedTable:
    """The table with the parts that its recipe will split it into. The labels' examples are training rows: whoever
    writes a description from them has read no test row."""
    draft = Draft()
    _set_columns(draft, table)
    _set_labels(draft, table, {})
    _set_sizes(draft, table)
    for text in table.overrides:
        draft.override(text, "")
    recipe = draft.recipe()
    parts = scan_sources(recipe.data, recipe.seed).parts
    examples = label_examples(parts["train"], table.facts.counts)
    return replace(table, parts=parts, facts=replace(table.facts, examples=examples))


@dataclass(frozen=True)
class ModelChoice:
    """A base model with the reason for it."""

    model: BaseModel
    reason: str

    @property
    def tiny(self) -> bool:
        return self.model.name == EMBEDDED_MODEL


def model_choices(memory: int, overrides: Sequence[str] = ()) -> list[ModelChoice]:
    """The model that the user has set among the `overrides`, alone. Without one, the models to choose from, the best
    one first: the default model if it is here or can be fetched, and fits; then the largest on this machine that fits;
    the embedded one always. `memory` is this machine's, in bytes."""
    here, found = models_here(memory), list[ModelChoice]()
    usual = default_model(memory, here)
    set_ = [text for text in overrides if text.partition("=")[0].strip() == "model"]
    if set_:
        named = load_recipe(None, set_).model
        return [ModelChoice(next((model for model in here if model.name == named), unknown_model(named)), _NAMED)]
    has = f"this machine has {memory_size(memory)}"
    if usual.fits and (usual.here or hub_answers()):
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


def draft_recipe(table: ScannedTable, choice: ModelChoice, descriptions: Mapping[str, str] | None = None) -> Draft:
    """The recipe for a scanned table. `descriptions` say what labels mean."""
    table = table if table.parts else as_split(table)
    draft = Draft()
    draft.set("name", name_from(table.path.stem))
    draft.set("model", choice.model.name, f"Chosen because {choice.reason}.")
    _set_columns(draft, table)
    _set_labels(draft, table, descriptions or {})
    _set_sizes(draft, table)
    _set_reasonings(draft, table, choice)
    if choice.tiny:
        _set_tiny(draft)
    for text in table.overrides:
        draft.override(text, "You set it.")
    _set_training(draft, table, choice)
    return draft


def _set_columns(draft: Draft, table: ScannedTable) -> None:
    draft.set("data.train", str(table.path))
    if table.encoding:
        draft.set("data.encoding", table.encoding, f"Chosen because {ENCODING}.")
    draft.set("data.text_column", table.text.value, f"Chosen because {table.text.reason}.")
    draft.set("data.label_column", table.label.column, f"Chosen because {table.label.reason}.")
    if table.reasoning:
        draft.set("data.reasoning_column", table.reasoning.column, f"Chosen because {table.reasoning.reason}.")


def _set_labels(draft: Draft, table: ScannedTable, descriptions: Mapping[str, str]) -> None:
    facts = table.facts
    left_out = f" Left out as misspelt: {strays_text(facts)}." if facts.strays else ""
    why = f"<- The model reads the descriptions: say in a few words what each label means.{left_out}"
    draft.set("data.labels", {label: descriptions.get(label, "") for label in facts.counts}, why)
    if len(facts.counts) <= _EXAMPLE_LABELS:
        draft.notes["data.labels"] = {
            label: [f"{counted(rows, 'row')}, such as:", *(shortened(text, _SHOWN) for text in facts.examples[label])]
            for label, rows in facts.counts.items()
            if not descriptions.get(label)
        }
    question = f"Which {table.label.column.replace('_', ' ')} fits the text?"
    draft.set("data.instruction", question, "<- Make it yours.")


def strays_text(facts: LabelFacts) -> str:
    """The misspelt labels: `'biling' (2 rows) for 'billing'`."""
    return ", ".join(
        f"{label!r} ({counted(count, 'row')}) for {meant!r}" for label, (meant, count) in facts.strays.items()
    )


def _set_sizes(draft: Draft, table: ScannedTable) -> None:
    """How many rows are used for what."""
    bad, rows = table.bad_rows, len(table.rows)
    if 0 < bad <= _FEW_BAD * (rows + bad):
        why = f"{counted(bad, 'row')} cannot be used; `rir-mlx check` and this recipe list them."
        draft.set("data.on_bad_rows", "skip", why)
    if rows >= _MANY_ROWS:
        draft.set("data.val_size", 500)
        draft.set("data.test_size", min(2000, rows // 5))
    else:
        draft.set("data.val_size", 0.1, "A tenth, which decides when to stop and calibrates.")
        draft.set("data.test_size", 0.2, "A fifth, on which everything is measured and nothing trained.")
    if rows > _MOST_ROWS:
        draft.set("data.max_samples", _MOST_ROWS, f"There are {rows:,} rows: fewer take less time, null takes all.")


def _set_reasonings(draft: Draft, table: ScannedTable, choice: ModelChoice) -> None:
    """What R-Gen learns from."""
    own = sum(row.reasoning is not None for row in table.parts["train"])
    if own >= ENOUGH_OWN_REASONINGS:
        draft.set(
            "reasoning.source", None, f"{own:,} training rows of yours have a reasoning: R-Gen learns from these alone."
        )
    elif choice.tiny or not (hub_answers() or _TRIPLES in cached_names("dataset")):
        why = "They suit the embedded model." if choice.tiny else "The hub cannot be reached to fetch others."
        draft.set("reasoning.source", "builtin:reasoning.jsonl", f"Synthetic examples that ship with rir-mlx. {why}")
        draft.set("reasoning.max_samples", None)
        draft.set("reasoning.val_size", 40)
    else:
        why = "General ones, not about your rows: a hundred reasonings of your own in a column are better."
        draft.set("reasoning.source", {"path": _TRIPLES, "split": "train"}, why)


def _set_tiny(draft: Draft) -> None:
    """What the embedded model needs."""
    draft.set("dtype", "float32")
    draft.set("max_seq_length", 256)
    draft.set("fine_tune_type", "full", "So small a model is trained whole.")
    draft.set("rgen.learning_rate", 2e-3)
    draft.set("rgen.epochs", 3)
    draft.set("rgen.batch_size", 16)
    draft.set("rgen.grad_accumulation_steps", 1)
    draft.set("augment.max_tokens", 64)
    draft.set("augment.batch_size", 64)
    draft.set("classifier.learning_rate", 1e-3)
    draft.set("classifier.batch_size", 8)
    draft.set("classifier.grad_accumulation_steps", 1)
    draft.set("evaluate.max_reasoning_tokens", 64)
    draft.set("evaluate.batch_size", 64)


def _set_training(draft: Draft, table: ScannedTable, choice: ModelChoice) -> None:
    """What the classifiers learn to write, and for how long, where the user has not set it."""
    if not draft.has("classifier.arms"):
        why = "qa is the fair comparison: without it, nothing is measured."
        draft.set("classifier.arms", ["qa", "qra", "qar"], why)
    if draft.has("classifier.epochs") or draft.has("classifier.iters"):
        return
    recipe = draft.recipe()
    rows = _training_rows(table, recipe)
    wanted, most = (_TINY_STEPS, _TINY_EPOCHS) if choice.tiny else (_STEPS, _MOST_EPOCHS)
    of_a_step = recipe.classifier.batch_size * recipe.classifier.grad_accumulation_steps
    epochs = max(2, min(most, math.ceil(wanted * of_a_step / rows)))
    why = f"{math.ceil(rows / of_a_step) * epochs:,} steps for {counted(rows, 'row')}; the best weights are kept."
    draft.set("classifier.epochs", epochs, why)


def sizes(table: ScannedTable, choice: ModelChoice) -> Sizes:
    """What the time of a split table's recipe depends on."""
    train = table.parts["train"]
    own = sum(row.reasoning is not None for row in train)
    counts = [len(table.parts.get(part, ())) for part in ("validation", "test")]
    return Sizes(len(train), counts[0], counts[1], own, choice.model.size / _BYTES_OF_A_STORED_WEIGHT)


def _training_rows(table: ScannedTable, recipe: Recipe) -> int:
    """The rows that the recipe trains on: what is left once its validation and test rows are set aside."""
    data, parts = recipe.data, table.material.parts
    sizes = {"validation": data.val_size, "test": data.test_size}
    carved = [part for part in sizes if getattr(data, part) is None]
    rows = [row for part in ("train", *carved) for row in parts.get(part, ())]
    known = sum(row.label in table.facts.counts for row in rows)
    left = known - sum(int(size if size >= 1 else size * known) for size in (sizes[part] for part in carved))
    return max(1, min(left, data.max_samples or left))


def widen(draft: Draft, audit: Audit) -> bool:
    """Raise `max_seq_length` where many texts would be cut; whether it was."""
    long = [finding for finding in audit.of("warning") if finding.name.startswith("trimmed texts")]
    if audit.lengths is None or not long:
        return False
    before = draft.recipe().max_seq_length
    more = max(0.0, audit.lengths.p99 - min(audit.lengths.room.values()))
    wanted = min(2048, 64 * math.ceil((before + more) / 64))
    if wanted > before:
        longest = f"{audit.lengths.p99:.0f} tokens"
        why = f"Room for 99 % of the texts: {longest}."
        if wanted < before + more:
            why = f"As long as `init` sets it: 99 % of the texts have up to {longest}, and the longest are cut."
        draft.set("max_seq_length", wanted, why)
    return wanted > before
