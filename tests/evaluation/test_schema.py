"""comparison.json is read and written through one schema, and an older file gets one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from comparisons import a_comparison
from pydantic import BaseModel

from rir_mlx.errors import UserError
from rir_mlx.evaluation import schema
from rir_mlx.evaluation.schema import Comparison, read_comparison, write_comparison


def stored(folder: Path, values: Any) -> Path:
    path = folder / "runs/mine/evaluation/comparison.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_a_comparison_survives_the_file(tmp_path: Path) -> None:
    comparison = read_comparison(stored(tmp_path, a_comparison()))
    write_comparison(tmp_path / "again.json", comparison)
    assert json.loads((tmp_path / "again.json").read_text(encoding="utf-8")) == comparison.model_dump(mode="json")
    qar = comparison.entry("qar")
    assert qar is not None
    assert qar.metrics.accuracy.value == 0.925
    assert comparison.entry("nobody") is None


@pytest.mark.parametrize("version", [1, 2, None, "3"])
def test_another_version_is_refused_with_the_command_that_writes_it_again(tmp_path: Path, version: Any) -> None:
    path = stored(tmp_path, a_comparison() | {"version": version})
    with pytest.raises(UserError, match=f"has format version {version}; this rir-mlx reads version 3") as caught:
        read_comparison(path)
    assert f"rir-mlx evaluate {tmp_path / 'runs/mine'}`" in caught.value.hint


@pytest.mark.parametrize("values", [{"test_rows": 3}, [], "text"])
def test_a_file_without_a_version_is_refused(tmp_path: Path, values: Any) -> None:
    with pytest.raises(UserError, match=r"(version None|not a JSON object)(.|\n)*rir-mlx evaluate"):
        read_comparison(stored(tmp_path, values))


def test_a_broken_comparison_names_the_field(tmp_path: Path) -> None:
    values = a_comparison()
    values["entries"][1]["metrics"]["accuracy"] = "high"
    with pytest.raises(UserError, match=r"entries\.1\.metrics\.accuracy") as caught:
        read_comparison(stored(tmp_path, values))
    assert "rir-mlx evaluate" in caught.value.hint


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        Comparison.model_validate(a_comparison() | {"figures": {}})


def test_every_field_is_described() -> None:
    """A reference page is generated from these descriptions."""
    models = [found for found in vars(schema).values() if isinstance(found, type) and issubclass(found, BaseModel)]
    fields = [(model, name, field) for model in models for name, field in model.model_fields.items()]
    assert len(fields) > 60
    assert [f"{model.__name__}.{name}" for model, name, field in fields if not field.description] == []
    assert all(model.__doc__ for model in models)
