"""Soft labels: how a row's label is divided among several, by annotators' votes or as probabilities.

The label with the largest share is the row's own; where shares are equal, the first in alphabetical order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from rir_mlx.data.labels.printed_arrays import refuse_printed
from rir_mlx.data.labels.spelling import label_of
from rir_mlx.json_text import literal_of

_MOST, _LEAST = 1e15, 1e-9
"""The largest number of votes, and the smallest share that counts."""
Shares = tuple[tuple[str, float], ...]
"""Labels with shares above 0 that sum to 1, in alphabetical order. Empty where a row has one label."""


def shares_of(cell: Any, known: Collection[str] = ()) -> dict[str, float] | None:
    """The share of each label in a cell that holds an object, also one that is written as JSON, as
    `{"joy": 2, "fear": 1}`. None for another cell, which is a label. `known` are the labels that the recipe names.

    Raises ValueError for a value that is no number, or below 0, and where all are 0."""
    votes = _object_in(cell)
    if votes is None:
        return None
    found: dict[str, float] = {}
    for name, value in votes.items():
        if value is None:  # as Parquet fills the fields that a row lacks
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
            raise ValueError(f"the share of the label {name!r} is {str(value)[:30]!r}, not a number from 0 on")
        if value:
            label = label_of(name, known)
            found[label] = found.get(label, 0.0) + float(value)
    total = math.fsum(found.values()) or 1.0
    found = {label: value / total for label, value in sorted(found.items()) if value / total >= _LEAST}
    if not found:
        raise ValueError("no label has a share above 0")
    return found


def main_label(shares: Mapping[str, float]) -> str:
    """The label with the largest share."""
    return min(shares, key=lambda label: (-shares[label], label))


def _object_in(cell: Any) -> Mapping[str, Any] | None:
    if isinstance(cell, Mapping):
        return cell
    if not isinstance(cell, str) or not cell.lstrip().startswith("{"):
        return None
    refuse_printed(cell)
    try:
        found = literal_of(cell)
    except ValueError as error:
        raise ValueError(f"the label looks like an object, and {error}") from None
    return found if isinstance(found, dict) else None
