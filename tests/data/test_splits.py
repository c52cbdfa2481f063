"""Parts of the labelled rows: stratified, decided by the seed, with the same texts in one part."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from table_files import LABELS, fault_of, load, pairs, some_rows, write_csv, write_jsonl

from rir_mlx.data.audit.scan import scan_sources
from rir_mlx.data.loading import (
    load_labelled,
)
from rir_mlx.data.rows import Row
from rir_mlx.data.same_text import normalised
from rir_mlx.data.splits import _draw_texts
from rir_mlx.recipe.schema import DataSection


def test_data_sorted_by_class_gives_every_part_every_class_in_proportion(tmp_path: Path) -> None:
    rows = [(f"{label} {n}", label) for label, count in zip(LABELS, (500, 300, 200), strict=True) for n in range(count)]
    data = load(write_csv(tmp_path / "a.csv", rows), test_size=0.2, val_size=100, max_samples=50)
    for part, size in ((data.test, 200), (data.validation, 100), (data.train, 50)):
        counts = Counter(row.label for row in part)
        assert counts == {"anger": size * 5 // 10, "fear": size * 3 // 10, "joy": size * 2 // 10}
    assert "test split off train: 200 rows" in data.notes
    assert "validation split off train: 100 rows" in data.notes


def test_carved_parts_are_disjoint_complete_in_file_order_and_decided_by_the_seed(tmp_path: Path) -> None:
    rows = some_rows(300)
    path = write_csv(tmp_path / "a.csv", rows)
    sizes = {"test_size": 60, "val_size": 30}
    data = load(path, **sizes)
    parts = [pairs(part) for part in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [210, 30, 60]
    assert sorted(row for part in parts for row in part) == sorted(rows)
    for part in parts:
        assert [rows.index(row) for row in part] == sorted(rows.index(row) for row in part)
    assert load(path, **sizes) == data
    other = load(path, seed=1, **sizes)
    assert other.test != data.test
    assert other.digest != data.digest


def test_row_ids_are_unique_in_a_run_the_same_on_each_load_and_name_the_source(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", some_rows(60))
    test = write_csv(tmp_path / "test.csv", some_rows(6))
    section = {"train": str(train), "test": str(test), "val_size": 10, "max_samples": 30}
    data = load_labelled(DataSection.model_validate(section), 0)
    assert [row.id for row in data.test] == [f"test:{line}" for line in range(2, 8)]
    assert {row.id for row in (*data.train, *data.validation)} <= {f"train:{line}" for line in range(2, 62)}
    ids = [row.id for row in (*data.train, *data.validation, *data.test)]
    assert len(set(ids)) == len(ids) == 46
    scanned = scan_sources(DataSection.model_validate(section), 0)
    assert {row.id for row in scanned.parts["validation"]} == {row.id for row in data.validation}
    both = load(tmp_path / "*.csv")
    assert [row.id for row in both.train[:2]] == ["train:1:2", "train:1:3"]
    assert both.train[-1].id == "train:2:61"
    assert len({row.id for row in both.train}) == 66


def test_the_digest_is_decided_by_what_rows_say_not_by_their_ids(tmp_path: Path) -> None:
    write_csv(tmp_path / "1.csv", some_rows(6)[:4])
    write_csv(tmp_path / "2.csv", some_rows(6)[4:])
    whole = load(write_csv(tmp_path / "all.csv", some_rows(6)))
    parts = load(tmp_path / "?.csv")
    assert whole.digest == parts.digest
    assert [row.id for row in whole.train] != [row.id for row in parts.train]
    assert whole.train == parts.train


def test_the_test_part_depends_on_neither_val_size_nor_max_samples(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", some_rows(300))
    small = load(path, test_size=60, val_size=0)
    assert small.validation == ()
    large = load(path, test_size=60, val_size=90, max_samples=20)
    assert large.test == small.test
    assert len(large.train) == 20


def test_the_draw_is_the_same_in_another_process(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", some_rows(90))
    code = (
        "import sys; from rir_mlx.data.loading import load_labelled; from rir_mlx.recipe.schema import DataSection\n"
        f"section = DataSection(train={str(path)!r}, val_size=0.1, test_size=0.2, max_samples=30)\n"
        "print(load_labelled(section, 3).digest)\n"
        "print([m for m in ('numpy', 'pyarrow', 'datasets', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    digest, heavy = done.stdout.splitlines()
    assert digest == load(path, seed=3, val_size=0.1, test_size=0.2, max_samples=30).digest
    assert heavy == "[]"  # the command line starts fast


def test_sizes_cap_given_parts_from_1_on_and_leave_them_whole_below(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", some_rows(30))
    test = write_csv(tmp_path / "test.csv", sorted(some_rows(60), key=lambda row: row[1]))
    capped = load(train, test=str(test), test_size=6, validation=str(test), val_size=0.5)
    assert Counter(row.label for row in capped.test) == {"anger": 2, "fear": 2, "joy": 2}
    assert len(capped.validation) == 60
    assert len(load(train, test=str(test), test_size=100).test) == 60
    assert load(train, test=str(test), test_size=6, seed=1).test != capped.test


@pytest.mark.parametrize("sizes", [{"test_size": 2000}, {"test_size": 0.6}, {"test_size": 4, "val_size": 4}])
def test_a_carved_part_never_takes_more_than_half(tmp_path: Path, sizes: dict[str, Any]) -> None:
    error = fault_of(write_csv(tmp_path / "a.csv", some_rows(10)), **sizes)
    key = "data.val_size" if "val_size" in sizes else "data.test_size"
    assert error.what.startswith(f"{key}: ")
    assert "more than half" in error.what
    assert f"Set {key}" in error.hint


def test_max_samples_keeps_a_row_of_every_label(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "a.csv", [(f"t{n}", "joy") for n in range(500)] + [("rare", "fear"), ("rarer", "anger")]
    )
    data = load(path, max_samples=10, test_size=50)
    assert Counter(row.label for row in data.train) == {"joy": 8, "fear": 1, "anger": 1}
    assert any("a single row has the label 'anger' or 'fear': each stays" in note for note in data.notes)
    assert {row.label for row in data.test} == {"joy"}
    assert "data.max_samples" in fault_of(path, max_samples=2).what


def test_a_draw_of_many_labels_has_exactly_the_asked_size(tmp_path: Path) -> None:
    rows = [(f"{label} {n}", f"label {label}") for label in range(77) for n in range(2 + label % 9)]
    data = load(write_csv(tmp_path / "a.csv", rows), test_size=101, val_size=0.1, max_samples=120)
    assert (len(data.test), len(data.validation), len(data.train)) == (101, round(0.1 * len(rows)), 120)
    assert len({row.label for row in data.train}) == 77


def test_rows_of_one_text_stay_in_one_part_and_contradictions_in_train(tmp_path: Path) -> None:
    """Half of the test rows of a table with duplicates were also trained on."""
    labels = ("joy", "fear", "rage")
    rows = [(f"text  {n // 2}" if n % 2 else f"Text {n // 2}", labels[(n // 2) % 3]) for n in range(240)]
    rows += [(f"Torn {n}", label) for n in range(20) for label in labels[:2]]
    write_csv(tmp_path / "rows.csv", rows)
    data = load(write_csv(tmp_path / "rows.csv", rows), test_size=60, val_size=30)
    parts = [{normalised(row.text) for row in part} for part in (data.train, data.validation, data.test)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]  # noqa: PT018
    assert 56 <= len(data.test) <= 60, "whole texts of two rows come near the wanted number"
    assert 26 <= len(data.validation) <= 30
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == len(rows)
    assert not any("torn" in text for text in parts[1] | parts[2])
    assert {row.label for row in data.test} == set(labels)


def test_a_draw_of_whole_texts_holds_no_texts() -> None:
    """A dictionary of all texts took 285 bytes a row: 350 MB for a million rows, which were twice what is kept."""
    rows = [Row(f"text number {number} and some more words of it", "abcdef"[number % 6]) for number in range(6000)]
    tracemalloc.start()
    try:
        drawn = _draw_texts(rows, 60, "0/test", {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(drawn) == 60
    assert peak / len(rows) < 180


# when two texts are the same


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("I feel  great ", "i feel great"),
        ("a\tb\r\nc", "A B\u00a0C"),
        ("Ｆｕｌｌ　width", "full width"),
        ("caf\u00e9", "CAFE\u0301"),
        ("Straße", "STRASSE"),
        ("ﬁne", "FINE"),
        ("\u1fc3", "\u0397\u0399"),  # eta with iota below: its capital form is two letters
    ],
)
def test_what_people_read_alike_is_one_text(first: str, second: str) -> None:
    assert normalised(first) == normalised(second)


@pytest.mark.parametrize(("first", "second"), [("I feel great", "I feel great!"), ("a b", "ab"), ("résumé", "resume")])
def test_punctuation_words_and_accents_are_a_difference(first: str, second: str) -> None:
    assert normalised(first) != normalised(second)


@pytest.mark.slow
def test_normalising_twice_is_the_same_as_once_for_every_character() -> None:
    """A thousand at a time: between letters, no character changes what becomes of another."""
    for start in range(0, sys.maxunicode + 1, 1024):
        codes = [code for code in range(start, start + 1024) if not 0xD800 <= code < 0xE000]
        once = normalised(" ".join(f"x{chr(code)}y" for code in codes))
        if normalised(once) != once:
            pytest.fail(f"not of {[hex(code) for code in codes if _changes_again(chr(code))]}")


def _changes_again(character: str) -> bool:
    once = normalised(f"x{character}y")
    return normalised(once) != once


def test_the_only_rows_with_a_share_of_a_label_stay_in_train(tmp_path: Path) -> None:
    """Draws go by main labels: such a row could be drawn for the test part, and its label was never learned."""
    rows: list[dict[str, Any]] = [{"text": f"text {n}", "label": {"joy": 3, "anger": 1}} for n in range(60)]
    rows[7]["label"] = {"joy": 3, "fear": 1}
    rows += [{"text": "Text  7", "label": {"joy": 1}}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    for seed in range(10):
        data = load(path, seed=seed, soft_labels=True, val_size=15, test_size=20)
        assert any("fear" in dict(row.divided) for row in data.train)
        assert len({row.text for row in data.train} & {"text 7", "Text  7"}) == 2
        assert 18 <= len(data.test) <= 20


def test_a_split_of_a_file_is_refused(tmp_path: Path) -> None:
    """`{path: rows.csv, split: train}` read all rows: what the user took for the training part held the test rows."""
    path = write_csv(tmp_path / "a.csv", some_rows(30))
    own = {"path": str(path), "split": "train"}
    error = fault_of(path, train=own, val_size=5, test_size=5)
    assert "data.train.split is 'train'" in str(error)
    assert "all rows of which are read" in str(error)
    left = load(path, train=own | {"config": "split"}, val_size=5, test_size=5)
    assert len(left.test) == 5, "`-s data.train.path=a.csv` leaves these of the default data set"
