"""Runs to review, made without training: the files that a review reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rir_mlx.data.loading import LabelledData
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.recipe.schema import Recipe
from rir_mlx.storage.atomic import write_json, write_jsonl
from rir_mlx.storage.layout import RunDir

TABLE = "text,label,note\n" + "".join(
    f'"{word}, said {number}",{label},{number}\n'
    for number in range(12)
    for word, label in (("hooray", "joy"), ("alas", "sadness"))
)


def make_run(folder: Path, table: str = TABLE, **data: Any) -> tuple[RunDir, Recipe]:
    """A run whose rows are in `rows.csv`; 4 of them are validation rows, and 6 test rows."""
    (folder / "rows.csv").write_text(table, encoding="utf-8", newline="")
    section = {"train": str(folder / "rows.csv"), "val_size": 4, "test_size": 6} | data
    recipe = load_recipe(Recipe.model_validate({"name": "small", "data": section}), ())
    run = RunDir(folder / "runs/small")
    run.save_recipe(recipe)
    return run, recipe


def write_results(run: RunDir, data: LabelledData, shares: Mapping[str, Mapping[str, float]]) -> None:
    """A kept reasoning for each training row but the first, which has a rejected one, and predictions of the validation
    and test rows: `shares` has the probabilities of some row ids, and others agree with their label."""
    first, *others = data.train
    write_jsonl(run.augmented_rows("train"), ({**named(row), "reasoning": f"because {row.text}"} for row in others))
    rejected = {**named(first), "reasoning": "Joy, joy, joy.", "rejected": "restating", "part": "train", "lost": True}
    write_jsonl(run.rejected_rows, [rejected])
    for path, rows in ((run.predictions("qra"), data.test), (run.validation_predictions("qra"), data.validation)):
        write_jsonl(path, (predicted(row, data.labels, shares.get(row.id)) for row in rows))
    write_json(run.classifier("qra").record, {"inputs": {"data": data.digest}, "results": {}})


def named(row: Any) -> dict[str, Any]:
    return {"id": row.id, "text": row.text, "label": row.label}


def predicted(row: Any, labels: Iterable[str], shares: Mapping[str, float] | None) -> dict[str, Any]:
    shares = shares or {label: float(label == row.label) for label in labels}
    best = max(shares, key=lambda label: shares[label])
    return {**named(row), "predicted": best, "probabilities": dict(shares), "mass": 0.9, "reasoning": "a thought"}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def large_table(rows: int, labels: Sequence[str], special: Sequence[tuple[str, str]] = ()) -> str:
    """A table of that many rows, in which each label occurs about as often, and `special` ones at its start."""
    plain = ((f"customer {n} writes about case {n * 7919 % 100_003}", labels[n % len(labels)]) for n in range(rows))
    lines = (f'"{text}","{label}",{place}' for place, (text, label) in enumerate([*special, *plain][:rows]))
    return "text,label,note\n" + "\n".join(lines) + "\n"
