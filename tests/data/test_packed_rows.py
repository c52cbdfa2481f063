"""Rows held by column: the same rows as in a list, in a fraction of the memory."""

from __future__ import annotations

import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_files import load, write_csv, write_jsonl

from rir_mlx.data import packed_cells
from rir_mlx.data.audit import checks
from rir_mlx.data.audit.findings import Ruler
from rir_mlx.data.audit.scan import scan_sources
from rir_mlx.data.packed_cells import PackedCells, cells_at
from rir_mlx.data.rows import Rows
from rir_mlx.recipe.schema import DataSection
from rir_mlx.storage.digests import digest_of, digest_of_list

ROWS = 3000
STRINGS = st.text(st.characters(codec=None), max_size=6) | st.sampled_from(["joy", "anger"])
CELLS = st.lists(STRINGS | st.none() | st.integers() | st.just(["a"]), max_size=40) | st.lists(STRINGS, max_size=40)


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few cells are packed together, and most of them go to the file."""
    monkeypatch.setattr(packed_cells, "TOGETHER", 4)
    monkeypatch.setattr(packed_cells, "IN_MEMORY", 20)


@pytest.mark.usefixtures("small_packs")
def test_packed_cells_are_the_cells_that_were_added() -> None:
    @settings(max_examples=60, deadline=None)
    @given(CELLS, st.integers(0, 40), st.slices(40))
    def check(cells: list[Any], cut: int, part: slice) -> None:
        packed = PackedCells(cells[:cut])
        packed.extend(cells[cut:])
        places = range(len(cells))[part]
        assert list(packed) == cells
        assert packed[part] == cells[part]
        assert [packed[place] for place in places] == [packed[place - len(cells)] for place in places] == cells[part]
        assert list(cells_at(packed, places)) == cells[part]
        assert [type(cell) for cell in packed] == [type(cell) for cell in cells]
        with pytest.raises(IndexError):
            packed[len(cells)]

    check()


@pytest.mark.usefixtures("small_packs")
def test_cells_stay_in_memory_where_no_file_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [f"text number {number}" for number in range(50)]

    class Full:
        """A file that takes a few bytes and is full then."""

        written = 0

        def write(self, _: bytes) -> int:
            if self.written == 9:
                raise OSError(28, "No space left on device")
            self.written += 3
            return 3

        def seek(self, place: int) -> None:
            assert place == 0

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    assert list(PackedCells(cells)) == cells

    def none(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", none)
    assert list(PackedCells(cells)) == cells


@pytest.mark.usefixtures("small_packs")
def test_rows_by_column_are_those_of_a_list_with_ids_and_places(tmp_path: Path) -> None:
    first, second = ([(f"{name} {n}", ("joy", "anger")[n % 2]) for n in range(11)] for name in "ab")
    write_csv(tmp_path / "1.csv", first)
    why = [" " if n % 3 else f"because {n}" for n in range(11)]
    records = [{"text": text, "label": label, "why": own} for (text, label), own in zip(second, why, strict=True)]
    write_jsonl(tmp_path / "2.jsonl", records)
    rows = load(tmp_path / "[12].*", val_size=0).train
    listed = list(rows)
    assert [(row.text, row.label) for row in listed] == first + second
    assert [row.id for row in listed[10:12]] == ["train:1:12", "train:2:1"]
    assert rows == listed and rows != listed[1:]  # noqa: PT018
    for part in (slice(None, 5), slice(8, 15), slice(None, None, -2), slice(-3, None)):
        assert list(rows[part]) == listed[part]
        assert [row.id for row in rows[part]] == [row.id for row in listed[part]]
    assert list(rows[9:] + rows[:2]) == listed[9:] + listed[:2]
    assert list(rows.chosen([21, 0, 3, 12])) == [listed[place] for place in (21, 0, 3, 12)]
    assert [rows[place].id for place in range(-22, 22)] == [listed[place].id for place in range(-22, 22)]
    assert list(rows.labels()) == [row.label for row in listed]
    with pytest.raises(IndexError):
        rows[22]
    own = load(tmp_path / "2.jsonl", val_size=0, reasoning_column="why").train
    assert [row.reasoning for row in own] == [None if n % 3 else f"because {n}" for n in range(11)]
    assert (len(Rows()), list(Rows())) == (0, [])


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_takes_some_tens_of_bytes_a_row_however_long_its_texts_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Rows as objects took some 430 bytes each beside their texts: a million rows did not fit into 600 MB."""
    monkeypatch.setattr(packed_cells, "TOGETHER", 128)
    monkeypatch.setattr(packed_cells, "IN_MEMORY", 1 << 14)
    rows = [(f"{number} " + "some words of a text " * 8, "abcdef"[number % 6]) for number in range(ROWS)]
    path = tmp_path / f"rows.{kind}"
    if kind == "csv":
        write_csv(path, rows)
    else:
        write_jsonl(path, [{"text": text, "label": label, "other": text} for text, label in rows])
    del rows
    tracemalloc.start()
    try:
        data = load(path, val_size=100, test_size=100)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data.train) == ROWS - 200
    assert all(row.text.endswith("some words of a text " * 8) for row in data.train)
    assert held / ROWS < 60
    assert peak / ROWS < 180


def test_an_audit_holds_no_row_of_a_text_that_stands_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rir-mlx check` held each row as an object, and all texts at once to count their tokens."""
    monkeypatch.setattr(packed_cells, "TOGETHER", 128)
    monkeypatch.setattr(packed_cells, "IN_MEMORY", 1 << 14)
    monkeypatch.setattr(checks, "_TOGETHER", 128)
    rows = [(f"{number} " + "some words of a text " * 8, "ab"[number % 2]) for number in range(ROWS)]
    path = write_csv(tmp_path / "rows.csv", [*rows, rows[5]])
    material = scan_sources(DataSection.model_validate({"train": str(path), "val_size": 100, "test_size": 100}), 0)
    ruler = Ruler(lambda texts: [len(text) for text in texts], {"qa": 100}, (), 256)
    material = replace(material, named=("a", "b"), skips=True)
    checks.audit(material, ruler)  # what it compiles once is no row
    tracemalloc.start()
    try:
        found = checks.audit(material, ruler)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.rows["train"] == ROWS + 1 - 200
    assert found.lengths is not None
    assert found.lengths.max == len(rows[-1][0])
    assert any(finding.name.startswith("duplicates in") and finding.count == 1 for finding in found.findings)
    assert peak / ROWS < 100


def test_the_digest_of_a_list_is_the_same_in_pieces() -> None:
    for values in ([], ["train:1"], ["train:1", 'a "quoted" \u00e9', "\ud800"]):
        assert digest_of_list(iter(values)) == digest_of(values)
