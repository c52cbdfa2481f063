"""The config.json of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rir_mlx.errors import ModelError


def read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} holds no config.json, so it is no model in Hugging Face format.") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{folder / 'config.json'} names no model_type.")
    return config


def quantisation_hint(config: dict[str, Any]) -> str:
    """What to do about a folder that does not load because another program quantised it; empty where none did."""
    method = (config.get("quantization_config") or {}).get("quant_method")
    return f"It is quantised by {method}. Name the model's bfloat16, float16 or float32 version." if method else ""
