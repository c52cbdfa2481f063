"""Recipes: every key of a mutated file is in the recipe with its value, or the file is refused."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import yaml

from fuzz.cases import Loss, Outcome
from fuzz.mutations import mutated_bytes, mutated_value
from rir_mlx.errors import RecipeError
from rir_mlx.recipe.loading import dump_recipe, load_recipe, shipped_recipe
from rir_mlx.types import SHIPPED

_SIGNS = (
    ":",
    "- ",
    "#",
    "'",
    '"',
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!!python/name:os.system ",
    "\t",
    "\n",
    ".inf",
    "~",
)


class Recipes:
    name = "recipes"

    def attempt(self, rng: random.Random, folder: Path) -> Outcome:
        text = shipped_recipe(rng.choice(SHIPPED)).read_text(encoding="utf-8")
        path = folder / rng.choice(("recipe.yaml", "my recipe (2).yaml", "é.yaml"))
        path.write_bytes(_mutated(text, rng))
        try:
            recipe = load_recipe(path)
        except RecipeError as error:
            if path.name not in str(error):
                raise Loss(f"the error names no file: {error}") from error
            return "refused"
        given, held = yaml.safe_load(path.read_text(encoding="utf-8")) or {}, recipe.model_dump(mode="json")
        for key, value in given.items():
            _check_held(str(key), value, held.get(key, "nothing"))
        _check_finite(held)
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        if load_recipe(path) != recipe:
            raise Loss("a recipe that is written and read again is another one")
        return "read"


def _mutated(text: str, rng: random.Random) -> bytes:
    match rng.randrange(4):
        case 0:
            return mutated_bytes(text.encode(), rng)
        case 1:
            place = rng.randrange(len(text))
            return (text[:place] + rng.choice(_SIGNS) + text[place:]).encode()
        case 2:
            lines = text.splitlines(keepends=True)
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
            return "".join(lines).encode()
    value = mutated_value(yaml.safe_load(text), rng)
    return str(yaml.safe_dump(value, allow_unicode=False)).encode("utf-8", "replace")


def _check_held(key: str, given: Any, held: Any) -> None:
    """Raise Loss if a given value is not in what is held. A source may be its path, labels a list of names."""
    if isinstance(given, dict) and isinstance(held, dict):
        for name, value in given.items():
            _check_held(f"{key}.{name}", value, held.get(str(name), held.get(name, "nothing")))
        return
    if isinstance(held, dict):
        if (
            given is None
            or held.get("path") == given
            or (isinstance(given, list) and list(held) == list(map(str, given)))
        ):
            return
    elif isinstance(given, list) and isinstance(held, list) and len(given) == len(held):
        for place, (before, after) in enumerate(zip(given, held, strict=True)):
            _check_held(f"{key}[{place}]", before, after)
        return
    elif (
        given == held or (given is not None and str(given) == str(held)) or _number(given) == _number(held) is not None
    ):
        return
    elif given is None or given == {} or given == []:
        return  # an empty value is the default
    raise Loss(f"{key} was {given!r}, is {held!r}")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _check_finite(value: Any) -> None:
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_finite(item)
    if isinstance(value, float) and not math.isfinite(value):
        raise Loss(f"a recipe holds {value}")
