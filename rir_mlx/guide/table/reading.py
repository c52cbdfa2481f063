"""How the cells of a table's label are read: as one label, several, or votes. Reads all rows to tell."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rir_mlx.data.audit.findings import Material
from rir_mlx.data.audit.scan import scan_sources
from rir_mlx.data.audit.several_labels import reading_of
from rir_mlx.data.labels.columns_of_labels import people_labelled
from rir_mlx.data.tables.table import NONE_MARKED
from rir_mlx.guide.table.columns import Guess, TableColumns
from rir_mlx.recipe.loading import load_recipe

_JOINS = re.compile(r"[;|,/+&\n]|^\s*[\[({]")
"""What stands in a label's cell that may hold several, or votes."""
_VOTES = re.compile(r"holds '\d+(?:[.,]\d+)?(?:\s?%)?', which is no mark$")


def rows_of(keys: Mapping[str, Any], overrides: Sequence[str]) -> tuple[Material, dict[str, Any]]:
    """The rows, and the keys by which their labels are read as several or as votes, if they seem to be. What the user
    has set about labels decides."""

    def read(keys: Mapping[str, Any]) -> Material:
        wanted = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]
        return scan_sources(load_recipe(None, [*wanted, *overrides]).data, 0)

    material = read(keys)
    set_ = {text.partition("=")[0].strip() for text in overrides}
    if set_ & {"data.labels", "data.label_separator", "data.soft_labels", "data.no_label"}:
        return material, {}
    found = dict[str, Any]()
    while True:
        known = {**keys, **{f"data.{key}": value for key, value in found.items()}}
        of_columns = isinstance(keys["data.label_column"], list)
        more = _reading_of_columns(material, known) if of_columns else reading_of(material) if not found else {}
        again = read(known | {f"data.{key}": value for key, value in more.items()}) if more else material
        if not more or not again.parts["train"] or _loses_rows(material, again, more):
            return material, found
        material, found = again, found | more


def _loses_rows(material: Material, again: Material, keys: Mapping[str, Any]) -> bool:
    """Whether labels seem to be something else than what was read again with these keys, since rows are refused then.
    Objects and lists are no names: where most labels are such, a few broken ones change nothing."""
    lost = len(again.refused) - len(material.refused)
    structured = "soft_labels" in keys or keys.get("label_separator") == ","
    return 2 * lost > len(again.parts["train"]) + lost if structured else lost > 0


def _reading_of_columns(material: Material, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `data` with which rows can be used that were refused when each label column was read by its marks."""
    columns = keys["data.label_column"]
    refused = Counter(fault.what.rpartition(", ")[2] for fault in material.refused if fault.number)
    soft = keys.get("data.soft_labels", False)
    if not soft and 2 * refused["which is no mark"] > len(material.parts["train"]):
        odd = [fault.what for fault in material.refused if fault.what.endswith("which is no mark")]
        votes = sum(_VOTES.search(what) is not None for what in odd)
        return {"soft_labels": True} if 2 * votes > len(odd) or people_labelled(columns) else {}
    if any(fault.what == NONE_MARKED for fault in material.refused):
        taken = {name.casefold() for name in columns}
        return {"no_label": next(name for name in ("none", "no label", "nothing") if name not in taken)}
    return {}


def labels_reason(label: Guess, labels_are: Mapping[str, Any]) -> str:
    """Why a row's label is read as several, or as votes: by the column and the keys of `data`."""
    if label.more:
        held = "votes, probabilities, or each person's label" if "soft_labels" in labels_are else "marks"
        return f"the columns hold {held}"
    if "soft_labels" in labels_are:
        return "labels are objects, with votes or probabilities"
    mark = labels_are["label_separator"]
    return f"labels are {'lists, or ' if mark == ',' else ''}combined with {mark!r}"


def how_labels_are_read(label: Guess, labels_are: Mapping[str, Any]) -> str:
    """How a row's label is read, and why."""
    how = "Labels are votes" if "soft_labels" in labels_are else "A text may have several labels"
    none = f", and texts without one get {labels_are['no_label']!r}" if "no_label" in labels_are else ""
    return f"{how}, because {labels_reason(label, labels_are)}{none}"


def may_say_several(table: TableColumns, label: Guess) -> bool:
    """Whether a label's cells may hold several labels or votes, which only reading all rows tells."""
    column = table.named(label.column)
    return column is None or bool(label.more or column.structured or any(map(_JOINS.search, column.values)))
