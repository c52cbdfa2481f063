"""The settings of a table's first recipe, from its rows and the chosen model, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from rir_mlx import hub_access
from rir_mlx.data.audit.findings import Audit
from rir_mlx.data.audit.scan import scan_sources
from rir_mlx.data.labels.combinations import BETWEEN
from rir_mlx.data.labels.printed_arrays import ARRAY, NUMBERS
from rir_mlx.guide.draft import Draft
from rir_mlx.guide.first_recipe import ENCODING, ModelChoice, ScannedTable
from rir_mlx.guide.planning import Sizes
from rir_mlx.guide.table.labels import LabelFacts, label_examples
from rir_mlx.guide.table.reading import labels_reason
from rir_mlx.progress import counted, shortened
from rir_mlx.prompting.arms import examples_of
from rir_mlx.recipe.loading import name_from
from rir_mlx.recipe.schema import Recipe
from rir_mlx.recipe.values import ENOUGH_OWN_REASONINGS

_FEW_BAD = 0.1
"""Up to this share, bad rows are left out; a table with more of them is probably read wrongly."""
_MANY_ROWS = 5000
"""From so many rows on, fixed numbers of validation and test rows are enough."""
_MOST_ROWS = 4000
_STEPS, _MOST_EPOCHS = 150, 10
_TINY_STEPS, _TINY_EPOCHS = 400, 12
"""Optimizer steps that a small table should give, and at most how many passes over its rows for that."""
_EXAMPLE_LABELS = 20
"""Up to so many labels, the recipe shows rows of each."""
_SHOWN = 90
_SET = "You set it."
_WIDEST = 2048
"""The longest rows that `init` sets."""
_TRIPLES = "syvai/reasoning-gen"


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
    examples = label_examples(parts["train"], table.facts.counts, table.material)
    return replace(table, parts=parts, facts=replace(table.facts, examples=examples))


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
    elif choice.small:
        _set_small(draft)
    for text in table.overrides:
        draft.override(text, _SET)
    _set_training(draft, table, choice)
    return draft


def _set_columns(draft: Draft, table: ScannedTable) -> None:
    draft.set("data.train", str(table.path))
    if table.encoding:
        draft.set("data.encoding", table.encoding, f"Chosen because {ENCODING}.")
    draft.set("data.text_column", table.text.value, f"Chosen because {table.text.reason}.")
    draft.set("data.label_column", table.label.value, f"Chosen because {table.label.reason}.")
    for key, value in table.labels_are.items():
        why = (
            "Some texts have none of the labels."
            if key == "no_label"
            else f"Chosen because {labels_reason(table.label, table.labels_are)}."
        )
        draft.set(f"data.{key}", value, why)
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
    named = "label" if table.label.more else table.label.column.replace("_", " ")
    question = f"Which {'label' if named.lower() == 'labels' else named} fits the text?"
    if "label_separator" in table.labels_are or (
        "soft_labels" not in table.labels_are and any(BETWEEN in row.label for row in table.rows)
    ):
        question = f"Which {named if named.endswith('s') else f'{named}s'} fit the text?"
    draft.set("data.instruction", question, "<- Make it yours.")


def strays_text(facts: LabelFacts) -> str:
    """The misspelt labels: `'biling' (2 rows) for 'billing'`."""
    return ", ".join(
        f"{label!r} ({counted(count, 'row')}) for {meant!r}" for label, (meant, count) in facts.strays.items()
    )


def _set_sizes(draft: Draft, table: ScannedTable) -> None:
    """How many rows are used for what."""
    bad, rows = table.bad_rows, len(table.rows)
    arrays = {ARRAY, NUMBERS}.intersection(fault.what for fault in table.material.refused)
    if 0 < bad <= _FEW_BAD * (rows + bad) and not arrays:  # without them, all rows with several labels would be lost
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
    few = f" {counted(own, 'training row')} of yours have a reasoning, which R-Gen learns from as well: from "
    few = f"{few}{ENOUGH_OWN_REASONINGS} on it learns from these alone." if own else ""
    if own >= ENOUGH_OWN_REASONINGS:
        draft.set(
            "reasoning.source", None, f"{own:,} training rows of yours have a reasoning: R-Gen learns from these alone."
        )
    elif choice.tiny or not (hub_access.hub_answers() or _TRIPLES in hub_access.cached_names("dataset")):
        why = "They suit the embedded model." if choice.tiny else "The hub cannot be reached to fetch others."
        why = f"Synthetic examples that ship with rir-mlx. {why}{few}"
        draft.set("reasoning.source", "builtin:reasoning.jsonl", why)
        draft.set("reasoning.max_samples", None)
        draft.set("reasoning.val_size", 40)
    else:
        why = f"General ones, not about your rows: a hundred reasonings of your own in a column are better.{few}"
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


def _set_small(draft: Draft) -> None:
    """What a small pretrained model was measured with on few rows (recipes/emotion-small.yaml)."""
    learned = "So small a model learned more from few rows with larger steps, and more of them."
    for stage, rows, why in (("rgen", 16, "As it was measured."), ("classifier", 8, learned)):
        draft.set(f"{stage}.learning_rate", 2e-4, why)
        draft.set(f"{stage}.batch_size", rows)
        draft.set(f"{stage}.grad_accumulation_steps", 1)


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
    return Sizes(len(train), counts[0], counts[1], own, choice.model.weights)


def _training_rows(table: ScannedTable, recipe: Recipe) -> int:
    """The rows that the recipe trains on: what is left once its validation and test rows are set aside."""
    data, parts = recipe.data, table.material.parts
    sizes = {"validation": data.val_size, "test": data.test_size}
    carved = [part for part in sizes if getattr(data, part) is None]
    rows = [row for part in ("train", *carved) for row in parts.get(part, ())]
    named, labels = set(table.facts.counts), table.material.labels_of
    kept = [row for row in rows if named.issuperset(labels(row))]
    known = examples_of(kept)  # of which a row with a divided label gives several
    left = known - sum(int(size if size >= 1 else size * known) for size in (sizes[part] for part in carved))
    return max(1, min(left, data.max_samples or left))


def widen(draft: Draft, audit: Audit) -> bool:
    """Raise `max_seq_length` where many texts would be cut or have no room, unless the user set it; whether it was."""
    if draft.reasons.get("max_seq_length") == _SET:
        return False
    before = draft.recipe().max_seq_length
    none = [finding for finding in audit.of("error") if finding.name == "no room for a text"]
    needed = max((finding.metrics["needed"] for finding in none), default=0)
    if before < needed <= _WIDEST:
        draft.set("max_seq_length", int(needed), "Room for the instruction, the labels, a reasoning and every text.")
        return True
    long = [finding for finding in audit.of("warning") if finding.name.startswith("trimmed texts")]
    if audit.lengths is None or not long:
        return False
    more = max(0.0, audit.lengths.p99 - min(audit.lengths.room.values()))
    wanted = min(_WIDEST, 64 * math.ceil((before + more) / 64))
    if wanted > before:
        longest = f"{audit.lengths.p99:.0f} tokens"
        why = f"Room for 99 % of the texts: {longest}."
        if wanted < before + more:
            why = f"As long as `init` sets it: 99 % of the texts have up to {longest}, and the longest are cut."
        draft.set("max_seq_length", wanted, why)
    return wanted > before
