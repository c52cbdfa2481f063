"""The config.json of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rir_mlx.errors import ModelError
from rir_mlx.json_text import parse_json


def read_config(folder: Path) -> dict[str, Any]:
    """Raises ModelError if there is none, it cannot be read, or it names no type of model."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json, so it is no model in Hugging Face format.")
    config = read_settings(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{folder / 'config.json'} names no model_type.")
    return config


def read_settings(path: Path) -> dict[str, Any]:
    """The JSON object of a file beside a model; empty where there is no such file. Raises ModelError if it cannot be
    read."""
    if not path.is_file():
        return {}
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="Fetch the file again.") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds no JSON object.", hint="Fetch the file again.")
    return values


def token_ids(value: Any, path: Path, key: str) -> tuple[int, ...]:
    """The ids of tokens that a key names: none, one, or a list. Raises ModelError for anything else."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
        raise ModelError(f"{path}: {key} is {value!r:.60}, not the id of a token.", hint="Fetch the file again.")
    return tuple(ids)


def quantisation_hint(config: dict[str, Any]) -> str:
    """What to do about a folder that does not load because another program quantised it; empty where none did."""
    method = (config.get("quantization_config") or {}).get("quant_method")
    return f"It is quantised by {method}. Name the model's bfloat16, float16 or float32 version." if method else ""
