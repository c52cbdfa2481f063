"""Settings of a model folder that a broken download or a stranger damaged: one error, which names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rir_mlx.errors import ModelError
from rir_mlx.json_text import parse_json
from rir_mlx.models.config import read_config, read_settings
from rir_mlx.prompting.codec import Codec

DEEP = "[" * 100_000 + "]" * 100_000
DAMAGED = [DEEP, "[]", "null", "", "\0\0", '{"a": ' + "9" * 5000 + "}", '{"a": "\xe9"']


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: f"{content[:8]!r}")
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"])
def test_a_damaged_file_is_one_error_that_names_it(folder: Path, name: str, content: str) -> None:
    """A tokenizer.json that was cut off ended in an exception of the library, a deeply nested config in a
    RecursionError, and `null` in an AttributeError."""
    (folder / name).write_text(content, encoding="latin-1")
    with pytest.raises(ModelError) as raised:
        Codec(folder, "26 Jul 2024")
    assert name in str(raised.value)
    assert str(folder) in raised.value.what


@pytest.mark.parametrize("value", ["x", 1.5, True, [1, None], {"a": 1}, -1])
def test_an_end_of_text_that_is_no_token_is_named_with_its_file(folder: Path, value: object) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": value}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"generation_config\.json: eos_token_id is .*, not the id of a token"):
        Codec(folder, "26 Jul 2024")


@pytest.mark.parametrize("template", [5, [{"name": "default"}], ["a"]])
def test_a_chat_template_of_another_kind_is_named(folder: Path, template: object) -> None:
    path = folder / "tokenizer_config.json"
    for other in folder.glob("*.jinja"):
        other.unlink()
    path.write_text(json.dumps(read_settings(path) | {"chat_template": template}), encoding="utf-8")
    with pytest.raises(ModelError):
        Codec(folder, "26 Jul 2024")


def test_a_type_of_model_that_is_no_text_is_no_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": 7}', encoding="utf-8")
    with pytest.raises(ModelError, match="names no model_type"):
        read_config(folder)


def test_json_without_end_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(DEEP)
    assert parse_json(b'{"a": 1.50}', parse_float=str) == {"a": "1.50"}
