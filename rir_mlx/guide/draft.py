"""A recipe that is being written: values by key, why each was chosen, and its text with the keys' own help as comments.

Knows the recipe's schema; not where the values come from.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from rir_mlx.recipe.schema import Recipe

_WIDTH = 100


class Draft:
    """Values of a recipe by dotted key, in the order of the schema when written. `notes` are comments below a key's
    entries: for a mapping, by its entry's name."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}
        self.notes: dict[str, Mapping[str, Sequence[str]]] = {}

    def set(self, key: str, value: Any, reason: str = "") -> None:
        """Choose a value. The reason is written above it."""
        self.values[key] = value
        self.reasons[key] = reason

    def nested(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in self.values.items():
            *parents, last = key.split(".")
            place = found
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        return found

    def recipe(self) -> Recipe:
        """The recipe that the text stands for. Raises ValidationError as `Recipe` does."""
        return Recipe.model_validate(self.nested())

    def text(self, head: Sequence[str]) -> str:
        """The recipe as YAML, each key below its help and the reason for its value; `head` are the first comments."""
        return "\n".join([*(f"# {line}".rstrip() for line in head), *self._lines(Recipe, self.nested(), "", 0), ""])

    def _lines(self, model: type[BaseModel], values: Mapping[str, Any], prefix: str, depth: int) -> Iterator[str]:
        indent = "  " * depth
        for name, field in model.model_fields.items():
            if name not in values:
                continue
            key, value = prefix + name, values[name]
            inner = _section(field.annotation)
            yield ""
            if inner is not None and isinstance(value, dict) and field.description is None:
                yield f"{indent}{name}:"
                yield from list(self._lines(inner, value, f"{key}.", depth + 1))[1:]
                continue
            yield from _comment(first_sentence(field.description or ""), indent)
            yield from _comment(self.reasons.get(key, ""), indent)
            if isinstance(value, dict) and value and not inner:
                yield f"{indent}{name}:"
                yield from self._entries(key, value, indent + "  ")
            else:
                yield f"{indent}{name}: {_inline(value)}"

    def _entries(self, key: str, values: Mapping[str, Any], indent: str) -> Iterator[str]:
        notes = self.notes.get(key, {})
        for name, value in values.items():
            yield from (f"{indent}#   {note}" for note in notes.get(name, ()))
            yield f"{indent}{_inline(name)}: {_inline(value)}"


def first_sentence(text: str) -> str:
    """The first sentence of a key's help, on one line."""
    plain = " ".join(text.split())
    end = re.search(r"[.?](?= [A-Z`])", plain)
    return plain[: end.end()] if end else plain


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(text, _WIDTH - len(indent), break_long_words=False, break_on_hyphens=False):
        yield f"{indent}# {line}"


def _inline(value: Any) -> str:
    """A value as YAML on one line."""
    text: str = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**9)
    return text.strip()[1:-1]


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model of a nested section or source."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
