"""The recipe and the rows of a pilot: small parts of a run's training and validation rows, none of its test rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rir_mlx.data.labels.combinations import parts_of
from rir_mlx.data.loading import LabelledData
from rir_mlx.data.rows import Row, chosen
from rir_mlx.data.splits import draw_rows
from rir_mlx.errors import UserError
from rir_mlx.recipe.schema import Recipe
from rir_mlx.storage.atomic import make_folder, write_jsonl
from rir_mlx.storage.layout import OTHER_RUNS
from rir_mlx.types import CONTROLS, PARTS

ROWS = 300
"""Training rows of a pilot, unless the user says otherwise."""
INFORMED = 120
"""At most as many rows a pilot measures the mutual information of reasoning and text of: a few seconds beside writing
the reasonings, as each is scored with four texts."""
_FEWEST = 80
_VALIDATION, _TEST, _TRIPLES = 100, 400, 1000
_PASSES = 5.0
"""Passes over the rows, at least: two passes over 300 rows are too few steps to learn from."""
_CONTROL = "qra-scrambled"


def pilot_recipe(recipe: Recipe, data: LabelledData, folder: Path) -> Recipe:
    """The recipe of a pilot of this one, for the rows that `write_pilot_rows` writes into `folder`.

    It has label-only and the recipe's first reasoning arm, with the first seed, and beside `qra` the control with other
    rows' reasonings. Label-only has a learning curve. Raises UserError if the recipe has no reasoning arm, or too few
    training rows."""
    reasoning = next((arm for arm in recipe.classifier.arms if arm != "qa" and arm not in CONTROLS), None)
    if reasoning is None:
        raise UserError("classifier.arms has no arm that reasons: there is nothing to try out.", hint="Add qra to it.")
    if len(data.train) < _FEWEST:
        raise UserError(
            f"{len(data.train):,} training rows are too few to train on some and to measure on others: it takes "
            f"{_FEWEST}.",
            hint="Run the recipe itself with `rir-mlx run RECIPE`; so few rows do not take long.",
        )
    values = recipe.model_dump(mode="json")
    values["name"] = f"{recipe.name}-pilot"
    own = any(row.reasoning is not None for row in data.train + data.validation)
    rows: dict[str, Any] = {part: {"path": str((folder / f"{part}.jsonl").absolute())} for part in PARTS}
    rows |= {"text_column": "text", "label_column": "label", "reasoning_column": "reasoning" if own else None}
    rows |= {"label_separator": "," if data.combinations else None, "no_label": None}  # labels are written as lists
    rows |= {"delimiter": None, "encoding": None, "quotes": None, "max_samples": None, "labels": dict(data.labels)}
    rows |= {"val_size": _VALIDATION, "test_size": _TEST}
    if not data.validation:
        rows |= {"validation": None, "val_size": 0}
    values["data"] |= rows
    values["reasoning"]["max_samples"] = min(_TRIPLES, recipe.reasoning.max_samples or _TRIPLES)
    values["classifier"] |= {
        "arms": ["qa", reasoning, *([_CONTROL] if reasoning == "qra" else [])],
        "seeds": recipe.classifier.seeds[:1],
        "learning_curve": "qa",
        "iters": None,
        "batch_tokens": None,  # which needs iters
        "epochs": max(_PASSES, recipe.classifier.epochs or 0.0),
    }
    return Recipe.model_validate(values)


def write_pilot_rows(data: LabelledData, folder: Path, rows: int, seed: int) -> None:
    """Of the training rows, `rows` are trained on, and at most 400 others are measured on, drawn with the seed. The
    recipe's test rows stay unseen. Up to half of the rows that are trained on are those with a reasoning of their own:
    R-Gen learns from them, or is shown some, as in the whole run."""
    labels = len({data.strata.get(row.label, row.label) for row in data.train})
    count = min(rows, len(data.train) // 2)

    def those(wanted: Callable[[Row], bool]) -> Sequence[Row]:
        return chosen(data.train, (place for place, row in enumerate(data.train) if wanted(row)))

    own = those(lambda row: row.reasoning is not None)
    reasoned = draw_rows(own, min(len(own), count // 2), f"{seed}/pilot")
    known = {row.id for row in reasoned}
    rest = those(lambda row: row.id not in known)
    train = [
        *reasoned,
        *draw_rows(rest, max(labels, count - len(reasoned)), f"{seed}/pilot", at_least=1, strata=data.strata),
    ]
    taken = {row.id for row in train}
    left = those(lambda row: row.id not in taken)
    parts = {
        "train": train,
        "validation": draw_rows(data.validation, min(_VALIDATION, len(data.validation)), f"{seed}/pilot"),
        "test": draw_rows(left, min(_TEST, len(left)), f"{seed}/pilot"),
    }

    def label_of(row: Row) -> Any:
        return dict(row.shares) or (parts_of(row.label) if data.combinations else row.label)

    make_folder(folder, OTHER_RUNS)
    for part, drawn in parts.items():
        lines = ({"text": row.text, "label": label_of(row), "reasoning": row.reasoning or ""} for row in drawn)
        write_jsonl(folder / f"{part}.jsonl", lines)
