"""The config.json of a model folder, with rotary settings in both forms that libraries read."""

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


def rope_for_both(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary keys of a config in both of their forms.

    transformers 5 writes `rope_parameters` alone; mlx-lm, vLLM's older versions and llama.cpp read `rope_theta` and
    `rope_scaling`, and without them compute other angles in silence."""
    rope = config.get("rope_parameters")
    if isinstance(rope, dict):
        theta = config.get("rope_theta", rope.get("rope_theta", 10000.0))
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    else:
        theta, scaling = config.get("rope_theta", 10000.0), dict(config.get("rope_scaling") or {})
    plain = scaling.get("rope_type", scaling.get("type", "default")) == "default"
    return {
        "rope_theta": theta,
        "rope_scaling": None if plain else scaling,
        "rope_parameters": {"rope_type": "default"} | scaling | {"rope_theta": theta},
    }
