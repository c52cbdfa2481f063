"""Parquet files with values that Python cannot hold, and with metadata of another form than usual."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rir_mlx.data.loading import load_labelled
from rir_mlx.data.tables.row_streams import open_stream, outline
from rir_mlx.data.tables.table import wanted_text
from rir_mlx.errors import DataError
from rir_mlx.recipe.schema import DataSection

TEXTS = pa.array(["a", "b", "c", "d"])
LABELS = pa.array(["joy", "fear", "joy", "fear"])


def labels(path: Path, table: pa.Table) -> list[str]:
    pq.write_table(table, path)
    section = {"train": str(path), "val_size": 0, "test_size": 0, "max_samples": None}
    return [row.label for row in load_labelled(DataSection.model_validate(section), 0).train]


def broken_text() -> pa.Array:
    """Four texts, the third not UTF-8."""
    data = pa.array([b"a", b"b", b"\xff\xfe", b"d"])
    return pa.Array.from_buffers(pa.string(), 4, data.buffers())


def test_a_text_that_is_not_utf8_is_named_by_row_and_column(tmp_path: Path) -> None:
    """It ended with a UnicodeDecodeError."""
    path = tmp_path / "a.parquet"
    with pytest.raises(DataError, match=r"row 3: the value of the column 'text' cannot be read: 'utf-8'") as raised:
        labels(path, pa.table({"text": broken_text(), "label": LABELS}))
    assert raised.value.hint
    with pytest.raises(DataError, match="row 3: the value of the column 'text'"):
        outline(path, open_stream(path, wanted_text(path, None)), wanted_text(path, None))


def test_a_date_out_of_range_stops_only_what_reads_its_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    at = pa.array([0, 1, 2, 2**50], pa.timestamp("ms"))
    assert len(labels(path, pa.table({"text": TEXTS, "label": LABELS, "at": at}))) == 4
    with pytest.raises(DataError, match="row 4: the value of the column 'at' cannot be read"):
        outline(path, open_stream(path, wanted_text(path, None)), wanted_text(path, None))


@pytest.mark.parametrize(
    "stored",
    [
        b"no json",
        b"[" * 100_000,
        b"[]",
        b"null",
        b'{"info": null}',
        b'{"info": {"features": null}}',
        b'{"info": {"features": []}}',
        b'{"info": {"features": {"label": {"_type": "ClassLabel"}}}}',
        b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": [1, 2]}}}}',
        b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": "ab"}}}}',
    ],
)
def test_odd_metadata_gives_no_class_names(tmp_path: Path, stored: bytes) -> None:
    table = pa.table({"text": TEXTS, "label": pa.array([0, 1, 0, 1])}).replace_schema_metadata({"huggingface": stored})
    assert labels(tmp_path / "a.parquet", table) == ["0", "1", "0", "1"]


def test_two_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    def table(names: list[str]) -> pa.Table:
        features: dict[str, Any] = {"label": {"_type": "ClassLabel", "names": names}}
        stored = json.dumps({"info": {"features": features}})
        plain = pa.table({"text": TEXTS, "label": pa.array([0, 1, 0, 1])})
        return plain.replace_schema_metadata({"huggingface": stored})

    assert labels(tmp_path / "a.parquet", table(["sad", "glad"])) == ["sad", "glad", "sad", "glad"]
    with pytest.raises(DataError, match="two classes of the column 'label' are called 'same'"):
        labels(tmp_path / "b.parquet", table(["same", "same"]))
