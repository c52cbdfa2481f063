"""Which columns `init` takes for labels, or for people who labelled."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from rir_mlx.errors import DataError
from rir_mlx.guide.first_recipe import look_at, scan
from rir_mlx.recipe.loading import load_recipe

NAMES = ("joy", "fear", "anger")


def table(path: Path, rows: list[tuple[Any, ...]], names: tuple[str, ...] = NAMES) -> Path:
    with (path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", *names))
        writer.writerows((f"text number {number} of all", *row) for number, row in enumerate(rows))
    return path / "a.csv"


def draft(path: Path, *overrides: str) -> tuple[Any, dict[str, Any], dict[str, int]]:
    found = scan(look_at(path, overrides))
    return found.label.value, dict(found.labels_are), dict(found.facts.counts)


def test_init_finds_columns_with_marks(tmp_path: Path) -> None:
    path = table(tmp_path, [(1, 0, 0), (0, 1, 1), (0, 0, 0)] * 10)
    assert draft(path) == (list(NAMES), {"no_label": "none"}, {"anger": 10, "fear": 10, "joy": 10, "none": 10})
    path = table(tmp_path, [("x", "", ""), ("", "x", "x")] * 10)
    assert draft(path) == (list(NAMES), {}, {"anger": 10, "fear": 10, "joy": 10})


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_init_reads_lists_of_which_most_are_empty(tmp_path: Path, suffix: str) -> None:
    """Each list was a label of its own, `[]` too, since reading them as lists would have refused the empty ones."""
    lists = [["joy"], ["joy", "fear"], [], [], []] * 10
    path = table(tmp_path, [(json.dumps(cell),) for cell in lists], ("labels",))
    if suffix == "jsonl":
        path = tmp_path / "a.jsonl"
        lines = [json.dumps({"text": f"text {number}", "labels": cell}) + "\n" for number, cell in enumerate(lists)]
        path.write_text("".join(lines), encoding="utf-8")
    keys = {"label_separator": ",", "no_label": "none"}
    assert draft(path) == ("labels", keys, {"fear": 10, "joy": 20, "none": 30})


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
        (("decoder_a", "decoder_b"), [("beam", "none"), ("none", "beam")], ["decoder_a", "decoder_b"]),
        (("spam", "Is_html", "WAS_read"), [row[:3] for row in MARKS], ["spam", "Is_html", "WAS_read"]),
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


def test_init_takes_missing_values_for_nothing(tmp_path: Path) -> None:
    marks = table(tmp_path, [(1, 0, "NaN"), (0, "N/A", 1), (0, 1, 0)] * 10)
    assert draft(marks)[0] == list(NAMES)
    people = ("rater_1", "rater_2", "rater_3")
    path = table(tmp_path, [("joy", "joy", "N/A"), ("fear", "fear", "joy")] * 10, people)
    assert draft(path)[:2] == (list(people), {"soft_labels": True})


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


@pytest.mark.parametrize(
    ("cell", "keys"), [('{"joy": 2, "fear": 1}', {"soft_labels": True}), ('["joy", "fear"]', {"label_separator": ","})]
)
def test_one_broken_object_or_list_does_not_make_the_others_names_of_labels(
    tmp_path: Path, cell: str, keys: dict[str, Any]
) -> None:
    """A single row that could not be read as votes made each object a label of its own."""
    broken = '{"joy": 2, "joy": 1}' if "{" in cell else '["joy", "N/A"]'
    path = table(tmp_path, [*[(cell,)] * 20, (broken,)], ("label",))
    assert draft(path) == ("label", keys, {"fear": 20, "joy": 20})


def test_init_says_why_no_row_of_arrays_can_be_read(tmp_path: Path) -> None:
    path = table(tmp_path, [("[0 1 0]",), ("[1 0 0]",)] * 10, ("label",))
    with pytest.raises(
        DataError, match=r"no row has a text and a label: the labels are an array of .* \(20 rows\)\."
    ) as raised:
        scan(look_at(path))
    assert "write a column for each, and name them in data.label_column" in (raised.value.hint or "")
