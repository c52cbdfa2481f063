"""What pydantic finds wrong with a recipe, said in the words of its keys."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from rir_mlx.errors import did_you_mean
from rir_mlx.recipe.schema import Recipe

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 120
_SHOWN.maxlevel = 3
"""Shows the start of a value: aliases make a YAML file of a line as large as memory."""
RENAMED = {"augment.gates": "augment.filters"}
"""Old names of keys, and what they are called today."""


def explain(error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        location = [str(part) for part in fault["loc"]]
        name = ".".join(location)
        if name in RENAMED:
            yield f"{name!r} is now called {RENAMED[name]!r}."
        elif fault["type"] == "extra_forbidden":
            known = _fields_at(location[:-1])
            yield f"unknown key {name!r}.{did_you_mean(location[-1], known) or _known_at(known)}"
        else:
            message = fault["msg"].removeprefix("Value error, ")
            message = message if message[1:2].isupper() else message[:1].lower() + message[1:]
            given = "" if isinstance(fault["input"], Mapping) else f", not {_SHOWN.repr(fault['input'])}"
            yield f"{name}: {message}{given}" if name else message


def _known_at(known: Sequence[str]) -> str:
    return f" Known here: {', '.join(known)}." if known else ""


def _fields_at(location: Sequence[str]) -> list[str]:
    """Names of the keys allowed at a place in the recipe."""
    model: Any = Recipe
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        candidates = [field.annotation, *get_args(field.annotation)]
        candidates += [inner for outer in candidates for inner in get_args(outer)]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return list(getattr(model, "model_fields", {}))
