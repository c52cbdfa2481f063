"""Small tables that tests load as training rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rir_mlx.data.loading import (
    LabelledData,
    load_labelled,
)
from rir_mlx.data.rows import Row
from rir_mlx.errors import DataError
from rir_mlx.recipe.schema import DataSection

SHARED = Path(__file__).parents[2] / "shared" / "data"
LABELS = ("anger", "fear", "joy")


def write_csv(path: Path, rows: list[Any], header: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def some_rows(count: int, labels: tuple[str, ...] = LABELS) -> list[tuple[str, str]]:
    return [(f"text number {n}", labels[n % len(labels)]) for n in range(count)]


def load(path: Path | str, *, seed: int = 0, **keys: Any) -> LabelledData:
    """Everything as train, unless the keys say otherwise."""
    sizes = {"val_size": 0, "test_size": 0, "max_samples": None}
    return load_labelled(DataSection.model_validate({"train": str(path)} | sizes | keys), seed)


def fault_of(path: Path | str, **keys: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        load(path, **keys)
    return caught.value


def pairs(rows: tuple[Row, ...]) -> list[tuple[str, str]]:
    return [(row.text, row.label) for row in rows]


def write_xlsx(path: Path, rows: Sequence[Sequence[Any]], *, title: str = "rows", before: Sequence[str] = ()) -> Path:
    """A workbook with these rows, behind empty sheets with the titles `before`."""
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = [*before, title][0]
    for name in [*before, title][1:]:
        book.create_sheet(name)
    for row in rows:
        book[title].append(list(row))
    book.save(path)
    return path
