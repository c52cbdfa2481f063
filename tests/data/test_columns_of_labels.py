"""A column for each label, or for each person who labelled."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import datasets
import pytest
from table_files import fault_of, load, write_csv, write_jsonl

from rir_mlx.data.loading import columns_of, load_labelled
from rir_mlx.data.tables.sources import read_tables
from rir_mlx.errors import DataError, RecipeError
from rir_mlx.guide.first_recipe import look_at, scan
from rir_mlx.recipe.loading import load_recipe, validated
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
    for sources in ({"train": str(tmp_path / "?.csv")}, {"train": train, "test": other}):
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


@pytest.mark.parametrize(
    "keys",
    [
        {"label_column": []},
        {"label_column": [1, 2]},
        {"label_column": [True, "a"]},
        {"label_column": [None, "a"]},
        {"label_column": ["a", "b"], "no_label": False},
        {"label_column": ["a", "b"], "no_label": "c, d"},
        {"label_column": ["a", "a"]},
        {"label_column": ["a", "b"], "label_separator": ";"},
        {"no_label": "none"},
        {"label_column": ["a", "b"], "labels": {"a, b": ""}},
    ],
)
def test_keys_that_contradict_each_other_are_refused_in_a_line(keys: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"\A[^\n;]*\n?.*\Z"):
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


MARKS = [(1, 0, 0, 1), (0, 1, 1, 0), (0, 0, 1, 1), (1, 1, 0, 0)]


@pytest.mark.parametrize(
    ("names", "rows", "guessed"),
    [
        (("label", "is_new", "is_old"), [("joy", 1, 0), ("fear", 0, 1)], ["label"]),
        (("label", "a", "b", "c"), [("spam", *row[:3]) for row in MARKS], []),
        (("new", "open"), [row[:2] for row in MARKS], ["new", "open"]),
        (("colour", "a", "b", "c"), [("red", 1, 0, 1), ("blue", 0, 1, 0)], ["colour", "a", "b", "c"]),
        (("joy", "fear", "anger", "is_test"), MARKS, ["joy", "fear", "anger", "is_test"]),
        (("spam", "has_url", "isReply"), [row[:3] for row in MARKS], ["spam", "has_url", "isReply"]),
        (
            ("annotator1", "annotator2", "annotator3"),
            [row[:3] for row in MARKS],
            ["annotator1", "annotator2", "annotator3"],
        ),
        (("q1", "q2", "q3"), [(1, 5, 2), (4, 2, 1)], ["q1", "q2", "q3"]),
        (("topic_1", "topic_2"), [("art", "sport"), ("sport", "art")], ["topic_1", "topic_2"]),
        (("a", "b", "note", "c", "d"), [(1, 0, "x y z", 1, 0), (0, 1, "z", 0, 1)], ["note", "a", "b", "c", "d"]),
        (("a", "b", "c"), [("✓", "✗", "✗"), ("✗", "✓", "✗"), ("✗", "✗", "✓")], ["a", "b", "c"]),
    ],
)
def test_init_does_not_guess_columns_of_labels_where_that_is_not_sure(
    tmp_path: Path, names: tuple[str, ...], rows: list[tuple[Any, ...]], guessed: list[str]
) -> None:
    look = look_at(table(tmp_path, rows * 10, names))
    assert sorted(guess.value for guess in look.labels) == sorted(guessed)
    if len(guessed) != 1:
        with pytest.raises(DataError):
            scan(look)


def test_init_finds_every_column_or_none(tmp_path: Path) -> None:
    """A label that never occurs stands between others; one that occurs late is not to be seen at first."""
    crosses = [("x", "", "", ""), ("", "x", "", "x"), ("", "", "", "x")] * 10
    path = table(tmp_path, crosses, ("a", "b", "never", "c"))
    assert draft(path) == (["a", "b", "never", "c"], {}, {"a": 10, "b": 10, "c": 20})
    late = [
        *(("x", "", "", "") for _ in range(10_100)),
        *(("", "x", "x", "") for _ in range(10_100)),
        ("", "", "", "x"),
    ]
    assert look_at(table(tmp_path, late, ("a", "b", "c", "late"))).labels == []
    constant = table(tmp_path, [(1, *row[:3], 1) for row in MARKS * 10], ("version", "a", "b", "c", "n"))
    assert draft(constant)[0] == ["a", "b", "c"]
    own = table(tmp_path, [("Sport", "", ""), ("", "Art", "Life"), ("", "", "Life")] * 10, ("Sport", "Art", "Life"))
    assert draft(own)[0] == ["Sport", "Art", "Life"]


def test_init_gives_rows_without_a_mark_a_label_that_no_column_has(tmp_path: Path) -> None:
    path = table(tmp_path, [(1, 0, 0), (0, 1, 1), (0, 0, 0)] * 10, ("joy", "fear", "None"))
    assert draft(path)[1:] == ({"no_label": "no label"}, {"None": 10, "fear": 10, "joy": 10, "no label": 10})
    votes = table(tmp_path, [(3, 1, 0), (0, 0, 0), (0, 2, 2)] * 10)
    found = draft(votes, "data.label_column=[joy, fear, anger]")
    assert found[1] == {"soft_labels": True, "no_label": "none"}


def test_what_is_proposed_can_be_typed(tmp_path: Path) -> None:
    names = ("no", "1", "a, b")
    path = table(tmp_path, [(1, 0, 1, "red"), (0, 1, 0, "blue")] * 10, (*names, "kind"))
    with pytest.raises(DataError) as raised:
        scan(look_at(path))
    [typed] = [word for word in shlex.split(raised.value.hint or "") if word.startswith("data.label_column=[")]
    assert load_recipe(None, [typed]).data.label_column == names


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
