"""A column for each label, or for each person who labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from table_files import fault_of, load, write_csv, write_jsonl

from rir_mlx.data.loading import columns_of, load_labelled
from rir_mlx.data.tables.sources import read_tables
from rir_mlx.errors import DataError, RecipeError
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


@pytest.mark.parametrize("cell", ["2", "0.5", "maybe", "-1", "✗", "❌"])
def test_what_is_no_mark_is_refused_by_column_and_value(tmp_path: Path, cell: str) -> None:
    """A cross says yes in one table, and no in another."""
    error = fault_of(table(tmp_path, [(1, 0, 0), (0, cell, 1)]), **COLUMNS)
    assert error.faults == (f"row 3: the label column 'fear' holds {cell!r}, which is no mark",)
    assert "Marks are 1 and 0, true and false" in (error.hint or "")
    assert ("data.soft_labels to true" in (error.hint or "")) == (cell != "-1")


def test_columns_may_be_called_what_reads_like_a_mark_or_like_a_missing_value(tmp_path: Path) -> None:
    names = ("yes", "no", "None")
    path = table(tmp_path, [("yes", "", ""), ("", "no", ""), ("", "no", "none"), ("", "", "")], names)
    rows = load(path, label_column=list(names), no_label="NA").train
    assert [row.label for row in rows] == ["yes", "no", "None, no", "NA"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path, [(1, 0), (0, 1)], ("a b", "a  b"))
    assert "Two label columns are called 'a b'" in str(fault_of(path, label_column=["a b", "a  b"]))


def test_whether_nothing_is_a_mark_is_decided_for_all_files_and_parts(tmp_path: Path) -> None:
    header = "text,joy,fear,anger\n"
    (tmp_path / "a.csv").write_text(f"{header}one,1,0,0\ntwo,0,1,1\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text(f"{header}three,1,,\nfour,,,\n", encoding="utf-8")
    train, other = str(tmp_path / "a.csv"), str(tmp_path / "b.csv")
    for sources in (
        {"train": str(tmp_path / "?.csv")},
        {"train": train, "test": other},
        {"train": other, "test": train},
    ):
        with pytest.raises(DataError, match="row 3: no label: nothing stands in any of the label columns"):
            load_labelled(DataSection.model_validate(sources | COLUMNS | NONE | {"val_size": 0, "test_size": 0}), 0)


def test_a_label_that_is_never_marked_is_told(tmp_path: Path) -> None:
    assert "no training row is marked in 'anger'" in load(table(tmp_path, [(1, 0, 0), (0, 1, 0)]), **COLUMNS).notes


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


@pytest.mark.parametrize("cells", [("0,75", "0,25"), ("75 %", "25%"), ("7.5e-1", "2.5e-1")])
def test_numbers_are_read_as_they_are_written(tmp_path: Path, cells: tuple[str, str]) -> None:
    """German decimals and percentages became labels, and so did truth values in CSV."""
    path = table(tmp_path, [cells, ("1", "0")], ("joy", "fear"))
    assert shares(path, label_column=["joy", "fear"]) == [{"joy": 0.75, "fear": 0.25}, {"joy": 1.0}]
    truth = table(tmp_path, [("TRUE", "FALSE"), ("true", "true")], ("joy", "fear"))
    assert shares(truth, label_column=["joy", "fear"]) == [{"joy": 1.0}, {"joy": 0.5, "fear": 0.5}]


def test_numbers_are_labels_where_the_recipe_names_them(tmp_path: Path) -> None:
    path = table(tmp_path, [(1, 2, 2), (5, 5, 5)], ("ann", "bo", "cy"))
    people = {"label_column": ["ann", "bo", "cy"]}
    assert shares(path, **people)[0] == {"ann": 0.2, "bo": 0.4, "cy": 0.4}
    named = shares(path, **people, labels={"1": "", "2": "", "5": ""})
    assert named == [{"1": 0.333, "2": 0.667}, {"5": 1.0}]


def test_empty_objects_and_lists_can_have_a_label_too(tmp_path: Path) -> None:
    votes = [
        {"text": "a", "label": {"joy": 0, "fear": 0}},
        {"text": "b", "label": {}},
        {"text": "c", "label": {"joy": 1}},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", votes)
    assert [row.label for row in load(path, soft_labels=True, **NONE).train] == ["none", "none", "joy"]
    lists = [{"text": "a", "label": ["", None]}, {"text": "b", "label": []}, {"text": "c", "label": ["joy", "fear"]}]
    path = write_jsonl(tmp_path / "b.jsonl", lists)
    assert [row.label for row in load(path, label_separator=";", **NONE).train] == ["none", "none", "fear, joy"]


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
        "row 5: the label column 'fear' holds 'joy', which is no number",
        "row 6: the share of the label 'joy' is '-1.0', not a number from 0 on",
    )
    assert shares(table(tmp_path, [(1, 2, 1), (0, 0, 0)]), **NONE)[1] == {"none": 1.0}


TWO = {"label_column": ["a", "b"]}


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"label_column": []}, "data.label_column: a column's name is missing"),
        ({"label_column": [1, 2]}, "data.label_column: should be a text: put it in quotation marks"),
        ({"label_column": [True, "a"]}, "data.label_column: should be a text: put it in quotation marks"),
        ({"label_column": [None, "a"]}, "data.label_column: a column's name is missing"),
        ({"label_column": ["a", "a"]}, "data.label_column: 'a' comes twice"),
        (TWO | {"no_label": False}, "data.no_label: should be a text: put it in quotation marks"),
        (TWO | {"no_label": "c, d"}, "data.no_label: should be a label, without a comma"),
        (TWO | {"label_separator": ";"}, "label_separator reads the cells of one column"),
        (TWO | {"labels": {"a, b": ""}}, "the label 'a, b' holds a comma"),
        (
            TWO | {"labels": {"a": "", "b": ""}, "no_label": "none"},
            "no_label is 'none', which is not one of the labels",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError) as raised:
        validated({"data": {"train": "a.csv"} | keys}, "recipe")
    assert why in str(raised.value)
    assert "tuple" not in str(raised.value)


def test_a_label_for_rows_without_one_needs_rows_that_may_have_none(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("a b", "joy"), ("b c", "fear")])
    assert "data.no_label is for texts" in str(fault_of(path, **NONE))


def test_a_label_for_rows_without_one_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("a b", "joy/fear"), ("b c", ""), ("c d", "N/A")])
    rows = load(path, label_separator="/", no_label=" n/a ").train
    assert [row.label for row in rows] == ["fear, joy", "n/a", "n/a"]


def test_numbers_as_names_and_marks(tmp_path: Path) -> None:
    """As pandas writes dummies of 0, 1 and 2: the column 0 was marked in every row."""
    path = table(tmp_path, [(1, 0, 0), (0, 1, 0), (0, 0, 1)], ("0", "1", "2"))
    assert [row.label for row in load(path, label_column=["0", "1", "2"]).train] == ["0", "1", "2"]
    path = table(tmp_path, [("yes", "no"), ("no", "yes")], ("No", "Other"))
    assert [row.label for row in load(path, label_column=["No", "Other"]).train] == ["No", "Other"]


def test_a_column_called_0_that_is_never_marked_is_no_label(tmp_path: Path) -> None:
    """It held its own name in every row, so that every row got the label 0."""
    path = table(tmp_path, [(0, 1, 0), (0, 0, 1), (0, 1, 1)], ("0", "1", "2"))
    assert [row.label for row in load(path, label_column=["0", "1", "2"]).train] == ["1", "2", "1, 2"]
    path = table(tmp_path, [("N", ""), ("", "P"), ("N", "P")], ("N", "P"))
    assert [row.label for row in load(path, label_column=["N", "P"]).train] == ["N", "P", "N, P"]


def test_what_reads_like_a_missing_value_counts_where_it_is_a_name(tmp_path: Path) -> None:
    path = table(tmp_path, [("Sport", ""), ("", "None"), ("", "")], ("Sport", "None"))
    assert [row.label for row in load(path, label_column=["Sport", "None"], no_label="nothing").train] == [
        "Sport",
        "None",
        "nothing",
    ]
    people = table(tmp_path, [("None", "None", "joy"), ("-", "fear", "joy")], ("r1", "r2", "r3"))
    named = {"labels": {"None": "", "joy": "", "fear": ""}, "label_column": ["r1", "r2", "r3"]}
    assert shares(people, **named) == [{"None": 0.667, "joy": 0.333}, {"fear": 0.5, "joy": 0.5}]


def test_class_ids_without_a_name_are_no_votes(tmp_path: Path) -> None:
    ids = datasets.ClassLabel(names=["joy", "fear"])
    features = datasets.Features({"text": datasets.Value("string"), "one": ids, "two": ids})
    rows = {"text": ["a b", "b c"], "one": [0, -1], "two": [1, 1]}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "a.parquet")
    found = shares(tmp_path / "a.parquet", label_column=["one", "two"])
    assert found == [{"joy": 0.5, "fear": 0.5}, {"fear": 1.0}]


def test_described_labels_leave_votes_votes(tmp_path: Path) -> None:
    path = table(tmp_path, [(0, 1), (1, 0)], ("0", "1"))
    assert shares(path, label_column=["0", "1"], labels={"0": "no", "1": "yes"}) == [{"1": 1.0}, {"0": 1.0}]
    people = table(tmp_path, [(1, 2, 5), (4, 4, 4)], ("rater_1", "rater_2", "rater_3"))
    found = shares(people, label_column=["rater_1", "rater_2", "rater_3"])
    assert found == [{"1": 0.333, "2": 0.333, "5": 0.333}, {"4": 1.0}]


def test_a_comma_between_thousands_is_no_decimal_one(tmp_path: Path) -> None:
    path = table(tmp_path, [("1,000", 500), (1, 2)], ("joy", "fear"))
    error = fault_of(path, label_column=["joy", "fear"], soft_labels=True)
    assert error.faults == ("row 2: the label column 'joy' holds '1,000', which is no number",)


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
