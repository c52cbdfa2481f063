"""Values as JSON: numbers stay numbers, and nothing becomes text unasked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rir_mlx.storage.atomic import read_json, write_json
from rir_mlx.storage.digests import changes, digest_of, plain_json


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    """`np.float32(0.5)` was written as the text "0.5", which no reader takes for a number."""
    values = {
        "single": np.float32(0.5),
        "double": np.float64(0.25),
        "count": np.int64(7),
        "flag": np.bool_(True),
        "list": np.array([[1.0, 2.0]], np.float32),
        "path": Path("runs/demo"),
        "pair": (1, 2),
    }
    write_json(tmp_path / "file.json", values)
    plain = {
        "single": 0.5,
        "double": 0.25,
        "count": 7,
        "flag": True,
        "list": [[1.0, 2.0]],
        "path": "runs/demo",
        "pair": [1, 2],
    }
    assert read_json(tmp_path / "file.json") == plain
    assert digest_of(values) == digest_of(plain)
    assert changes(values, plain) == []


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        plain_json({"key": value})
