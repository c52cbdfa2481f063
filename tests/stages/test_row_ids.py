"""A row keeps its id from the table to the prediction, and what is written about it is found again by that id."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Run

from rir_mlx.augmentation.augmented_rows import read_reasonings
from rir_mlx.backends import open_backend
from rir_mlx.data.loading import load_labelled
from rir_mlx.errors import UserError
from rir_mlx.models.hub import ModelFiles
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.recipe.schema import DataSection
from rir_mlx.stages import Context, augment_rows, train_classifier
from rir_mlx.stages.baselines import measure_baseline
from rir_mlx.storage.layout import RunDir
from rir_mlx.training.recipe_model import RecipeModel

LABELS = ("joy", "sadness")


@pytest.fixture
def opened(tmp_path: Path, tiny: Path, tiny_files: ModelFiles, codec: Codec) -> Callable[..., Context]:
    """A run whose rows have reasonings of their own. Every text stands twice, with a reasoning of its own each; two
    only restate the label, which a filter rejects."""
    told = [(w, n, f"it says that the {n}th friend came home" if n else w) for w in LABELS for n in range(12)]
    rows = [f"{w[0]} text {n // 2},{w},{why}\n" for w, n, why in told]
    (tmp_path / "rows.csv").write_text("text,label,why\n" + "".join(rows), encoding="utf-8")
    (tmp_path / "own.yaml").write_text(
        f"model: {tiny}\nbackend: fake\nmax_seq_length: 320\n"
        f"data: {{train: {tmp_path / 'rows.csv'}, val_size: 4, test_size: 4, reasoning_column: why}}\n"
        "reasoning: {source: null}\nclassifier: {iters: 1}\nevaluate: {max_reasoning_tokens: 8}\n",
        encoding="utf-8",
    )

    def open_again() -> Context:
        model = RecipeModel(load_recipe(tmp_path / "own.yaml"), open_backend("fake"), tiny_files)
        model.codec = codec
        return Context(RunDir(tmp_path / "run"), model)

    return open_again


def records_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def test_a_shuffled_file_joins_and_equal_texts_get_their_own_reasonings(opened: Callable[..., Context]) -> None:
    """They were joined by order and text: of two equal texts, one could get the other's reasoning."""
    context = opened()
    augment_rows(context)
    path, rows = context.run.augmented_rows("train"), context.data.train
    assert len({row.text for row in rows}) < len(rows)
    own = [None if row.reasoning == row.label else row.reasoning for row in rows]
    assert read_reasonings(path, rows) == own
    for seed in range(5):
        records = records_of(path)
        random.Random(seed).shuffle(records)
        write_records(path, records)
        assert read_reasonings(path, rows) == own
    write_records(path, records_of(path)[3:])
    left = {record["id"] for record in records_of(path)}
    expected = [row.reasoning if row.id in left else None for row in rows]
    assert read_reasonings(path, rows) == expected
    assert expected.count(None) == 3 + own.count(None)
    rejected = {record["id"]: record["reasoning"] for record in records_of(context.run.rejected_rows)}
    everything = (*rows, *context.data.validation)
    assert rejected == {row.id: row.label for row in everything if row.reasoning == row.label}


def test_a_row_that_is_not_of_the_run_or_stands_twice_is_refused(opened: Callable[..., Context]) -> None:
    context = opened()
    augment_rows(context)
    path, rows = context.run.augmented_rows("train"), context.data.train
    records = records_of(path)
    for changed, words in (
        ([*records, records[0]], "twice"),
        ([records[0] | {"id": "train:999"}], "not one of this run: train:999"),
        ([records[0] | {"text": "another"}], "not one of this run"),
    ):
        write_records(path, changed)
        with pytest.raises(UserError, match=words):
            read_reasonings(path, rows)


def test_a_run_without_ids_says_how_to_write_them_and_that_works(opened: Callable[..., Context]) -> None:
    context = opened()
    augment_rows(context)
    whole = context.run.augmented_rows("train").read_bytes()
    for part in ("train", "validation"):
        path = context.run.augmented_rows(part)
        write_records(path, [{k: v for k, v in record.items() if k != "id"} for record in records_of(path)])
    done = json.loads((context.run.augmented.folder / "done.json").read_text(encoding="utf-8"))
    del done["inputs"]["row_ids"]
    (context.run.augmented.folder / "done.json").write_text(json.dumps(done), encoding="utf-8")
    with pytest.raises(UserError, match=r"do not name the rows(.|\n)*`rir-mlx augment`"):
        train_classifier(opened(), "qra")
    with pytest.raises(UserError, match="its rows have no ids"):
        read_reasonings(context.run.augmented_rows("train"), context.data.train)
    augment_rows(opened())
    assert context.run.augmented_rows("train").read_bytes() == whole
    train_classifier(opened(), "qra")


def test_rows_that_moved_within_their_file_are_joined_anew(opened: Callable[..., Context], tmp_path: Path) -> None:
    """A blank line changes no row and no digest of the rows, and yet every row's number."""
    context = opened()
    augment_rows(context)
    table = tmp_path / "rows.csv"
    table.write_text(table.read_text().replace("\n", "\n\n", 1))
    moved = opened()
    assert moved.data.digest == context.data.digest
    assert moved.data.train[0].id != context.data.train[0].id
    with pytest.raises(UserError, match="have moved"):
        train_classifier(moved, "qra")
    augment_rows(moved)
    train_classifier(moved, "qra")


def test_baselines_give_the_ids_of_rows_that_moved_within_their_file(
    opened: Callable[..., Context], tmp_path: Path
) -> None:
    measure_baseline(opened(), "majority")
    table = tmp_path / "rows.csv"
    table.write_text(table.read_text().replace("\n", "\n\n", 1))
    moved = opened()
    measure_baseline(moved, "majority")
    predictions = records_of(moved.run.predictions("majority"))
    assert [row["id"] for row in predictions] == [row.id for row in moved.data.test]


def test_ids_tell_all_rows_of_all_parts_and_files_apart(tmp_path: Path) -> None:
    for name in ("a", "b", "test"):
        rows = "".join(f"{name} {w} {n},{w}\n" for w in LABELS for n in range(10))
        (tmp_path / f"{name}.csv").write_text("text,label\n" + rows)
    section = DataSection.model_validate(
        {"train": str(tmp_path / "[ab].csv"), "validation": None, "test": str(tmp_path / "test.csv"), "val_size": 6}
    )
    data = load_labelled(section, 0)
    rows = (*data.train, *data.validation, *data.test)
    assert len({row.id for row in rows}) == len(rows) == 60
    assert {row.id for row in rows if row.text == "b joy 0"} == {"train:2:2"}
    assert {row.id for row in data.test if row.text == "test joy 0"} == {"test:2"}


@pytest.mark.slow
def test_predictions_carry_their_ids(rir: Run, recipe: Path, tiny_files: ModelFiles) -> None:
    assert rir("run", str(recipe), "--set", "classifier.arms=[qa, qra]", "-q").code == 0
    run = Path("runs/small")
    context = Context(RunDir(run), RecipeModel(RunDir(run).recipe(), open_backend("fake"), tiny_files))
    texts = {row.id: row.text for row in context.data.test}
    predictions = records_of(run / "evaluation/qra/predictions.jsonl")
    assert [row["id"] for row in predictions] == [row.id for row in context.data.test]
    assert [row["id"] for row in records_of(run / "evaluation/tf-idf/predictions.jsonl")] == [
        row["id"] for row in predictions
    ]
    assert all(texts[row["id"]] == row["text"] for row in predictions)
