"""A column for each label, or for each person who labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from table_files import fault_of, load, write_csv, write_jsonl

from rir_mlx.data.loading import columns_of
from rir_mlx.data.tables.sources import read_tables
from rir_mlx.errors import RecipeError
from rir_mlx.guide.first_recipe import look_at, scan
from rir_mlx.recipe.loading import validated
from rir_mlx.recipe.schema import DataSection, SourceSpec

NAMES = ("joy", "fear", "anger")
COLUMNS = {"label_column": list(NAMES)}
NONE = {"no_label": "none"}
UNMARKED = "no label: none of the label columns is marked"


def table(path: Path, rows: list[tuple[Any, ...]], names: tuple[str, ...] = NAMES) -> Path:
    texts = [(f"text number {number} of all", *row) for number, row in enumerate(rows)]
    return write_csv(path / "a.csv", texts, header=("text", *names))


def section(path: Path) -> DataSection:
    return DataSection.model_validate({"train": str(path), "val_size": 0, "test_size": 0} | COLUMNS)


def read(path: Path, **keys: Any) -> list[str]:
    return [row.label for row in load(path, **COLUMNS | keys).train]


@pytest.mark.parametrize(
    ("yes", "no"),
    [("1", "0"), ("1.0", "0.0"), ("TRUE", "FALSE"), ("yes", "no"), ("x", ""), ("X", "-"), ("WAHR", "FALSCH")],
)
def test_marked_columns_are_the_labels(tmp_path: Path, yes: str, no: str) -> None:
    path = table(tmp_path, [(yes, no, no), (no, yes, yes), (no, no, yes), (yes, yes, yes)])
    data = load(path, **COLUMNS)
    assert [row.label for row in data.train] == ["joy", "anger, fear", "anger", "anger, fear, joy"]
    assert data.combinations == ("anger", "fear", "joy", "anger, fear", "anger, fear, joy")
    assert list(data.labels) == ["anger", "fear", "joy"]


def test_a_cell_may_repeat_its_columns_name(tmp_path: Path) -> None:
    assert read(table(tmp_path, [("joy", "", ""), ("", "Fear", "anger")])) == ["joy", "anger, fear"]


def test_with_one_mark_a_row_these_are_ordinary_labels(tmp_path: Path) -> None:
    data = load(table(tmp_path, [(1, 0, 0), (0, 1, 0), (0, 0, 1)]), **COLUMNS)
    assert [row.label for row in data.train] == ["joy", "fear", "anger"]
    assert data.combinations == ()


def test_values_of_json_and_of_parquet_are_marks_too(tmp_path: Path) -> None:
    rows = [
        {"text": "a b", "joy": 1, "fear": False, "anger": None},
        {"text": "c d", "joy": 0, "fear": True, "anger": 1.0},
    ]
    assert read(write_jsonl(tmp_path / "a.jsonl", rows)) == ["joy", "anger, fear"]
    datasets.Dataset.from_list([{**row, "joy": bool(row["joy"])} for row in rows]).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ["joy", "anger, fear"]


def test_a_row_without_a_mark_is_refused_unless_such_rows_have_a_label(tmp_path: Path) -> None:
    path = table(tmp_path, [(1, 0, 0), (0, 0, 0), (0, 1, 1)])
    error = fault_of(path, **COLUMNS)
    assert error.faults == (f"row 3: {UNMARKED}",)
    assert "data.no_label=none" in (error.hint or "")
    data = load(path, **COLUMNS, **NONE)
    assert [row.label for row in data.train] == ["joy", "none", "anger, fear"]
    assert "none" in data.labels


def test_a_row_that_nobody_looked_at_is_not_taken_for_one_without_labels(tmp_path: Path) -> None:
    """Where the table writes 0 for what does not hold, nothing means that nobody said."""
    path = table(tmp_path, [(1, 0, 0), ("", "", ""), (0, "", 1)])
    assert fault_of(path, **COLUMNS, **NONE).faults == ("row 3: no label: nothing stands in any of the label columns",)
    crosses = table(tmp_path, [("x", "", ""), ("", "", ""), ("", "", "x")])
    assert read(crosses, **NONE) == ["joy", "none", "anger"]


@pytest.mark.parametrize("cell", ["2", "0.5", "maybe", "-1"])
def test_what_is_no_mark_is_refused_by_column_and_value(tmp_path: Path, cell: str) -> None:
    error = fault_of(table(tmp_path, [(1, 0, 0), (0, cell, 1)]), **COLUMNS)
    assert error.faults == (f"row 3: the label column 'fear' holds {cell!r}, which is no mark such as 1 or 0",)
    assert "data.soft_labels to true" in (error.hint or "")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    error = fault_of(table(tmp_path, [(1, 0, 0)]), label_column=["joy", "feer"])
    assert "there is no column 'feer'. Did you mean 'fear'?" in str(error)


def test_an_empty_cell_of_several_labels_can_have_a_label_too(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("a b", "joy;fear"), ("b c", ""), ("c d", " ; ")])
    assert [row.label for row in load(path, label_separator=";", **NONE).train] == ["fear, joy", "none", "none"]


def shares(path: Path, **keys: Any) -> list[dict[str, float]]:
    found = load(path, **{"label_column": list(NAMES), "soft_labels": True} | keys).train
    return [{label: round(share, 3) for label, share in row.divided} for row in found]


def test_votes_and_probabilities_stand_in_a_column_for_each_label(tmp_path: Path) -> None:
    votes = table(tmp_path, [(3, 1, 0), (0, 5, ""), ("1", "1", "2")])
    assert shares(votes) == [{"joy": 0.75, "fear": 0.25}, {"fear": 1.0}, {"joy": 0.25, "fear": 0.25, "anger": 0.5}]
    assert shares(table(tmp_path, [(0.5, 0.25, 0.25)])) == [{"joy": 0.5, "fear": 0.25, "anger": 0.25}]


def test_each_person_has_a_vote(tmp_path: Path) -> None:
    people = ("ann", "bo", "cy", "dee")
    path = table(
        tmp_path, [("joy", "joy", "fear", "joy"), ("fear", "", "fear", "NaN"), ("joy", "", "", " fear ")], people
    )
    assert shares(path, label_column=list(people)) == [
        {"joy": 0.75, "fear": 0.25},
        {"fear": 1.0},
        {"fear": 0.5, "joy": 0.5},
    ]


def test_class_ids_of_people_get_the_names_of_their_classes(tmp_path: Path) -> None:
    ids = datasets.ClassLabel(names=["joy", "fear"])
    rows = {"text": ["a b", "b c"], "one": [0, 1], "two": [1, 1], "three": [0, 1]}
    features = {"text": datasets.Value("string"), "one": ids, "two": ids, "three": ids}
    datasets.Dataset.from_dict(rows, datasets.Features(features)).to_parquet(tmp_path / "a.parquet")
    found = shares(tmp_path / "a.parquet", label_column=["one", "two", "three"])
    assert found == [{"joy": 0.667, "fear": 0.333}, {"fear": 1.0}]


def test_votes_that_are_none_or_mixed_are_refused(tmp_path: Path) -> None:
    soft = {**COLUMNS, "soft_labels": True}
    path = table(tmp_path, [(1, 2, 3), (0, 0, 0), ("", "", ""), (1, "joy", ""), (-1, 2, 0)])
    assert fault_of(path, **soft).faults == (
        f"row 3: {UNMARKED}",
        "row 4: no label: nothing stands in any of the label columns",
        "row 5: the label column 'fear' holds no number, and 'joy' holds one",
        "row 6: the share of the label 'joy' is '-1.0', not a number from 0 on",
    )
    assert shares(table(tmp_path, [(1, 2, 1), (0, 0, 0)]), **NONE)[1] == {"none": 1.0}


@pytest.mark.parametrize(
    "keys",
    [
        {"label_column": ["a"]},
        {"label_column": ["a", "a"]},
        {"label_column": ["a", "b"], "label_separator": ";"},
        {"no_label": "none"},
        {"label_column": ["a", "b"], "labels": {"a, b": ""}},
    ],
)
def test_keys_that_contradict_each_other_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        validated({"data": {"train": "a.csv"} | keys}, "recipe")


def draft(path: Path, *overrides: str) -> tuple[Any, dict[str, Any], dict[str, int]]:
    found = scan(look_at(path, overrides))
    return found.label.value, dict(found.labels_are), dict(found.facts.counts)


def test_init_finds_columns_with_marks(tmp_path: Path) -> None:
    path = table(tmp_path, [(1, 0, 0), (0, 1, 1), (0, 0, 0)] * 10)
    assert draft(path) == (list(NAMES), {"no_label": "none"}, {"anger": 10, "fear": 10, "joy": 10, "none": 10})
    path = table(tmp_path, [("x", "", ""), ("", "x", "x")] * 10)
    assert draft(path) == (list(NAMES), {}, {"anger": 10, "fear": 10, "joy": 10})


def test_init_finds_the_columns_of_people(tmp_path: Path) -> None:
    people = ("rater_1", "rater_2", "rater_3")
    path = table(tmp_path, [("joy", "joy", "fear"), ("fear", "fear", "joy")] * 10, people)
    assert draft(path) == (list(people), {"soft_labels": True}, {"fear": 20, "joy": 20})


def test_init_takes_a_label_column_before_marks_and_does_not_guess_from_two(tmp_path: Path) -> None:
    path = table(tmp_path, [("joy", 1, 0, 1), ("fear", 0, 1, 1)] * 10, ("label", "is_new", "is_old", "is_open"))
    assert draft(path)[0] == "label"
    two = look_at(table(tmp_path, [(1, 0), (0, 1)] * 10, ("new", "open")))
    assert [guess.column for guess in two.labels] == ["new", "open"]
    other = look_at(table(tmp_path, [("red", 1, 0, 1), ("blue", 0, 1, 1)] * 10, ("colour", "a", "b", "c")))
    assert [guess.column for guess in other.labels] == ["colour", "a", "b"]


def test_named_columns_of_votes_are_seen_to_be_votes(tmp_path: Path) -> None:
    path = table(tmp_path, [(3, 1, 0), (0, 2, 2)] * 10)
    assert draft(path, "data.label_column=[joy, fear, anger]")[1] == {"soft_labels": True}


def test_columns_and_cells_that_say_the_same_are_the_same_rows(tmp_path: Path) -> None:
    """So that all that follows is the same, too."""
    rows = [(1, 0, 0), (0, 1, 1), (1, 0, 1), (0, 0, 0)] * 10
    columns = load(table(tmp_path, rows), **COLUMNS, **NONE, val_size=0.2, test_size=0.2)
    cells = [";".join(name for name, mark in zip(NAMES, row, strict=True) if mark) for row in rows]
    joined = write_csv(
        tmp_path / "b.csv", [(f"text number {number} of all", cell) for number, cell in enumerate(cells)]
    )
    assert columns.digest == load(joined, label_separator=";", **NONE, val_size=0.2, test_size=0.2).digest


def test_rows_that_say_the_same_share_one_object(tmp_path: Path) -> None:
    """So that a million rows of marks take little memory."""
    path = table(tmp_path, [(1, 0, 0), (0, 1, 1)] * 50)
    [read_table] = read_tables(SourceSpec(path=str(path)), columns_of(section(path), "train"), "data.train")
    assert len({id(cell) for cell in read_table.cells[1]}) == 2
