"""Which libraries are installed, and what each of them cannot run. Imports none of them before it is asked to open."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rir_convert.verification.engines.base import Engine
from rir_mlx.errors import ModelError
from rir_mlx.models.families import kind_of, mlx_config, mlx_length_limit, of_short_sequences, rope_for_both

Library = Literal["transformers", "mlx-lm"]
_NEEDS: dict[Library, tuple[str, ...]] = {"transformers": ("torch", "peft"), "mlx-lm": ("mlx_lm",)}


def installed_libraries() -> list[Library]:
    """The libraries that are installed, with what they need."""
    return [name for name, modules in _NEEDS.items() if all(importlib.util.find_spec(module) for module in modules)]


def open_engine(library: Library, folder: Path, adapter: Path | None = None) -> Engine:
    """The folder, and an adapter folder over it, as the library's users open them.

    Raises CannotRun, or ModelError where either cannot be read."""
    match library:
        case "transformers":
            from rir_convert.verification.engines.transformers_engine import TransformersEngine

            return TransformersEngine(folder, adapter)
        case "mlx-lm":
            import rir_mlx.backends.mlx.libraries  # noqa: F401  # prepares the process for mlx
            from rir_convert.verification.engines.mlx_lm_engine import MlxLmEngine

            return MlxLmEngine(folder, adapter)


def name_of(library: Library, adapter: Path | None = None) -> str:
    """What people call the library that opens a folder, or an adapter over it."""
    return "PEFT" if library == "transformers" and adapter is not None else library


def longest_of(library: Library, config: Mapping[str, Any]) -> int | None:
    """The most tokens for which the library computes what the config says; None without such a limit."""
    return mlx_length_limit(config) if library == "mlx-lm" else None


def why_not(library: Library, config: Mapping[str, Any], tokens: int) -> str | None:
    """Why the library computes something else than the config says for rows of so many tokens; None if it does not."""
    if library != "mlx-lm":
        return None
    try:
        mlx_config(config)
    except ModelError as error:
        return error.what.rstrip(".")
    rope = (config if "rope_scaling" in config else rope_for_both(config))["rope_scaling"] or {}
    of_long_ones = rope.get("long_factor") != rope.get("short_factor") or kind_of(rope) == "dynamic"
    if of_long_ones and of_short_sequences(config):
        return "mlx-lm turns short texts by the rotary angles that this model has for long ones"
    if rope.get("attention_factor") is not None or rope.get("truncate") is False:
        return "mlx-lm does not apply these rotary settings"
    limit = mlx_length_limit(config)
    if limit is None or tokens <= limit:
        return None
    return f"mlx-lm ignores this model's attention window of {limit:,} tokens, and the longest row has {tokens:,}"
