"""Texts with several labels: how they are written in a table, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from table_files import fault_of, load, write_csv, write_jsonl

from rir_mlx.data.audit.checks import audit
from rir_mlx.data.audit.scan import scan_sources
from rir_mlx.data.labels.combinations import MOST_COMBINATIONS
from rir_mlx.data.labels.printed_arrays import ARRAY, NUMBERS
from rir_mlx.data.loading import load_labelled
from rir_mlx.errors import DataError
from rir_mlx.recipe.schema import DataSection

SEVERAL = {"label_separator": ";"}
NO_LABEL = "no label (where none holds, write a word for that, such as `none`, or set data.no_label)"
ROWS = [("a b", "refund;billing"), ("b c", "billing"), ("c d", " login ; ;refund;"), ("d e", "billing;refund;billing")]
READ = ["billing, refund", "billing", "login, refund", "billing, refund"]


def labels(path: Path, **keys: Any) -> list[str]:
    return [row.label for row in load(path, **SEVERAL | keys).train]


def findings(path: Path, **keys: Any) -> dict[str, str]:
    sizes = {"val_size": 0, "test_size": 0, "max_samples": None}
    found = audit(scan_sources(DataSection.model_validate({"train": str(path)} | sizes | keys), 0))
    return {finding.name: f"{finding.what} {finding.hint}" for finding in found.findings}


def test_labels_come_in_one_order_whichever_way_they_are_written(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    data = load(path, **SEVERAL)
    assert labels(path) == READ
    assert list(data.labels) == ["billing", "login", "refund"]
    assert data.combinations == ("billing", "login", "refund", "billing, refund", "login, refund")
    assert "labels that may hold together: 3, in 5 combinations" in data.notes


def sets(labels: list[str]) -> str:
    return str(tuple(labels))


@pytest.mark.parametrize("written", [list, json.dumps, str, sets], ids=["list", "JSON", "Python", "tuple"])
def test_lists_are_read_as_lists(tmp_path: Path, written: Any) -> None:
    lists = [["refund", "billing"], ["billing"], ["login", "refund"], ["billing", "refund"]]
    rows = [{"text": f"a {n}", "label": written(each)} for n, each in enumerate(lists)]
    assert labels(write_jsonl(tmp_path / "a.jsonl", rows)) == READ


def test_lists_of_class_ids_get_the_names_of_their_classes(tmp_path: Path) -> None:
    """As go_emotions is published."""
    names = datasets.List(datasets.ClassLabel(names=["refund", "billing", "login"]))
    rows = {"text": ["a", "b", "c", "d"], "label": [[0, 1], [1], [2, 0], [1, 0]]}
    made = datasets.Dataset.from_dict(rows, datasets.Features({"text": datasets.Value("string"), "label": names}))
    made.to_parquet(tmp_path / "a.parquet")
    assert b"ClassLabel" in pq.read_schema(tmp_path / "a.parquet").metadata[b"huggingface"]
    assert labels(tmp_path / "a.parquet") == READ
    assert list(load(tmp_path / "a.parquet", **SEVERAL).labels) == ["refund", "billing", "login"]


def test_named_labels_keep_their_order_and_another_one_is_refused_by_name(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    named = {"refund": "", "login": "cannot log in", "billing": ""}
    data = load(path, labels=named, **SEVERAL)
    assert data.labels == named
    assert data.combinations[:3] == ("refund", "login", "billing")
    assert labels(path, labels=named) == READ
    error = fault_of(path, labels={"refund": "", "billing": ""}, **SEVERAL)
    assert error.faults == ("row 4: the label 'login' is not one of the 2 labels.",)


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("", NO_LABEL),
        (" ; ", NO_LABEL),
        ("[]", NO_LABEL),
        ("billing;N/A", "the label is missing (N/A)"),
        ("billing;card, expired", "the label 'card, expired' holds a comma, which stands between labels"),
    ],
)
def test_a_cell_without_labels_or_with_one_that_cannot_be_told_apart_is_refused(
    tmp_path: Path, cell: str, why: str
) -> None:
    path = write_csv(tmp_path / "a.csv", [*ROWS, ("e", cell)])
    assert fault_of(path, **SEVERAL).faults == (f"row 6: {why}",)


@pytest.mark.parametrize("cell", ["[0, 1, 0]", "[true, false, false]", "['1', '1', '0']", "0;1;0", "[1.0, 1.0]"])
def test_a_list_of_marks_is_refused_and_not_read_as_the_labels_0_and_1(tmp_path: Path, cell: str) -> None:
    error = fault_of(write_csv(tmp_path / "a.csv", [*ROWS, ("e", cell)]), **SEVERAL)
    assert error.faults == ("row 6: the labels are a list of marks, and not of names",)
    assert "Write a column for each label, and name them in data.label_column." in error.hint
    names = {"refund": "", "login": "", "billing": "", "0": "", "1": ""}
    named = write_csv(tmp_path / "b.csv", [*ROWS, ("e", "[0, 1, 1]")])
    assert labels(named, labels=names)[-1] == "0, 1"


@pytest.mark.parametrize("ways", [{}, SEVERAL, {"label_separator": ","}], ids=["one label", "a mark", "a comma"])
@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (np.array(["billing", "refund"]), ARRAY),
        (np.array(["billing", None], dtype=object), ARRAY),
        (np.array(["billing", pd.NA], dtype=object), ARRAY),
        (np.array([b"billing", b"refund"]), ARRAY),
        (np.array(["it's", "a\n" * 30, "b"]), ARRAY),
        (f"[{'1' * 60} 'a']", ARRAY),  # for ever, where digits can be told apart in many ways
        ([np.str_("billing")], ARRAY),
        ([np.True_], ARRAY),
        ({np.int64(0)}, ARRAY),
        (pd.array(["billing", "refund"], dtype="str"), ARRAY),
        (np.array([0, 1]), NUMBERS),
        (np.array([0, 1, 0.5]), NUMBERS),
        (np.array([True, False]), NUMBERS),
        (np.arange(2000), NUMBERS),
        (np.eye(2), NUMBERS),
    ],
    ids=str,
)
def test_an_array_as_it_is_printed_is_no_label(tmp_path: Path, ways: dict[str, str], cell: Any, why: str) -> None:
    """`init` drafted `['joy' 'anger']` as a label of its own: what pandas writes for arrays."""
    path = write_csv(tmp_path / "a.csv", [("a", "billing"), ("b", "refund"), ("c", str(cell))])
    error = fault_of(path, **ways)
    assert error.faults[0].endswith(f": {why}")
    assert "set data.label_separator to it; or write it as JSON" in (error.hint or "")
    assert ("a 1 or 0 for each label" in (error.hint or "")) == (why == NUMBERS)


@pytest.mark.parametrize("label", ["[not sure]", "['billing']", "[1]", "[B-PER I-PER]", "(np)", "<b>", "[1, 2]"])
def test_a_label_that_begins_as_an_array_does_is_a_label(tmp_path: Path, label: str) -> None:
    path = write_csv(tmp_path / "a.csv", [("a", "billing"), ("b", label)])
    assert [row.label for row in load(path).train] == ["billing", label]
    named = write_csv(tmp_path / "a.csv", [("a", "billing"), ("b", "[0 1]")])
    assert [row.label for row in load(named, labels={"billing": "", "[0 1]": ""}).train] == ["billing", "[0 1]"]


def test_labels_that_only_a_test_row_has_together_are_answers_and_noted(tmp_path: Path) -> None:
    train, test = write_csv(tmp_path / "a.csv", ROWS), write_csv(tmp_path / "b.csv", [("x", "login;billing")])
    data = load(train, test=str(test), **SEVERAL)
    assert "billing, login" in data.combinations
    assert "test: 1 row has labels together that no training row has together" in data.notes


def test_what_can_be_answered_is_part_of_the_datas_digest(tmp_path: Path) -> None:
    """The prompts differ, though the rows are the same."""
    path = write_csv(tmp_path / "a.csv", [("a", "joy"), ("b", "fear")])
    assert load(path).digest != load(path, **SEVERAL).digest


def test_more_combinations_than_can_be_told_apart_are_refused(tmp_path: Path) -> None:
    names = [f"l{n}" for n in range(60)]
    rows = [(f"{one} {two}", f"{one};{two}") for place, one in enumerate(names) for two in names[place + 1 :]]
    assert len(rows) > MOST_COMBINATIONS
    error = fault_of(write_csv(tmp_path / "a.csv", rows), **SEVERAL)
    assert "the labels occur in 1,830 combinations; at most 1,000 can be told apart" in str(error)


def test_an_audit_counts_each_label_and_names_those_that_are_not_known(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS * 4)
    section = DataSection.model_validate({"train": str(path), "val_size": 0, "test_size": 0, **SEVERAL})
    found = audit(scan_sources(section, 0))
    assert {label: counts["train"] for label, counts in found.labels.items()} == {
        "billing": 12,
        "login": 4,
        "refund": 12,
    }
    assert found.balance is not None
    assert found.balance.majority is None
    known = findings(path, labels={"billing": "", "refund": ""}, **SEVERAL)
    assert "data.labels does not name: 'login, refund' (4)" in known["unknown labels"]
    assert "combined labels" not in known


def test_combined_labels_are_told_what_to_set(tmp_path: Path) -> None:
    rows = [("a", "billing;refund"), ("b", "billing"), ("c", "refund")] * 4
    assert "set data.label_separator to `;`" in findings(write_csv(tmp_path / "a.csv", rows))["combined labels"]
    lines = [("a", "billing\nrefund"), ("b", "billing"), ("c", "refund")]
    assert 'set data.label_separator to `"\\n"`' in findings(write_csv(tmp_path / "b.csv", lines))["combined labels"]
    assert labels(tmp_path / "b.csv", label_separator="\n") == ["billing, refund", "billing", "refund"]
    lists = [{"text": "a", "label": ["billing"]}, {"text": "b", "label": ["refund"]}]
    assert "set data.label_separator to any mark" in str(fault_of(write_jsonl(tmp_path / "c.jsonl", lists)).hint)


def test_a_list_may_hold_apostrophes(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("a", str(["it's", "b"])), ("b", "c")])
    assert labels(path) == ["b, it's", "c"]


def test_a_name_that_holds_what_stands_between_labels_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    with pytest.raises(ValueError, match="the label 'p, q' holds a comma, which stands between labels"):
        load(path, labels={"billing": "", "p, q": ""}, **SEVERAL)
    with pytest.raises(DataError, match="'billing'"):
        load(path, labels={"refund": "", "p, q": ""})


def test_rare_combinations_are_in_every_part(tmp_path: Path) -> None:
    """Each stayed in the training rows, and test rows had one label each."""
    names = [f"l{n}" for n in range(8)]
    rows = [(f"one {n}", names[n % 8]) for n in range(200)]
    several = [f"{one};{two};{names[(place + 5) % 8]}" for place, one in enumerate(names) for two in names[place + 1 :]]
    rows += [(f"many {n}", cell) for n, cell in enumerate(several * 4)]
    path = write_csv(tmp_path / "a.csv", rows)
    data = load(path, val_size=0.1, test_size=0.2, **SEVERAL)
    share = sum(", " in row.label for row in data.test) / len(data.test)
    assert 0.25 < share < 0.5
    assert {name for row in data.test for name in row.label.split(", ")} == set(names)
    small = load(path, val_size=0.1, test_size=0.2, **SEVERAL | {"max_samples": 60})
    assert 0.2 < sum(", " in row.label for row in small.train) / 60 < 0.6
    unique = write_csv(tmp_path / "b.csv", [(f"u {n}", cell) for n, cell in enumerate(sorted(set(several)))])
    assert len(load(unique, test_size=0.2, **SEVERAL).test) > 3


def test_check_refuses_what_a_run_refuses_and_names_another_separator(tmp_path: Path) -> None:
    names = [f"l{n}" for n in range(60)]
    rows = [(f"{one} {two}", f"{one};{two}") for place, one in enumerate(names) for two in names[place + 1 :]]
    found = findings(write_csv(tmp_path / "a.csv", rows), **SEVERAL)
    assert "1,830 combinations; at most 1,000" in found["refused data"]
    piped = write_csv(tmp_path / "b.csv", [("a", "x|y"), ("b", "x"), ("c", "y;x")] * 3)
    assert "set data.label_separator to `|`" in findings(piped, **SEVERAL)["combined labels"]


def test_the_label_of_texts_that_have_none_stands_alone(tmp_path: Path) -> None:
    """`none;billing` was learned as a combination."""
    path = write_csv(tmp_path / "a.csv", [*ROWS, ("both", "none;refund"), ("nothing", ""), ("again", "none; none")])
    alone = "'none' says that no label holds (data.no_label), and others stand beside it"
    with pytest.raises(DataError) as error:
        load(path, no_label="none", **SEVERAL)
    assert len(error.value.faults) == 1
    assert alone in error.value.faults[0]


def test_check_does_not_refuse_test_rows_that_a_run_leaves_out(tmp_path: Path) -> None:
    """`check` ended with an error where `run` left two test rows out, and counted them."""
    path = write_csv(tmp_path / "a.csv", ROWS * 3)
    keys = {"test": str(write_csv(tmp_path / "test.csv", [*ROWS, ("new", "billing;other")])), **SEVERAL}
    section = DataSection.model_validate({"train": str(path), "val_size": 0, "on_bad_rows": "skip"} | keys)
    found = audit(scan_sources(section, 0))
    assert found.rows["test"] == len(load_labelled(section, 0).test) == 4
    [unseen] = [finding for finding in found.findings if finding.name == "test labels unseen in train"]
    assert (unseen.severity, unseen.count) == ("warning", 1)
    assert "training leaves these rows out (data.on_bad_rows)" in unseen.hint
    assert "training refuses the files as they are" in findings(path, **keys)["test labels unseen in train"]


def test_a_word_for_no_label_is_no_missing_one(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [*ROWS, ("nothing", "none")] * 3)
    assert "doubtful label" not in findings(path, **SEVERAL)
    assert "doubtful label" in findings(write_csv(tmp_path / "b.csv", [("a", "none"), ("b", "x"), ("c", "y")] * 3))
