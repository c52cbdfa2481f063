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
