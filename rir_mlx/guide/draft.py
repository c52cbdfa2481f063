"""A recipe that is being written: values by key, why each was chosen, and its text with the keys' own help as comments.

Knows the recipe's schema; not where the values come from.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, get_args

from pydantic import BaseModel

from rir_mlx.errors import RecipeError
from rir_mlx.recipe.loading import dump_yaml, merge_override, parse_yaml, validated
from rir_mlx.recipe.schema import Recipe

_WIDTH = 100
_UNPRINTABLE = ("Cc", "Cs", "Cn", "Co", "Zl", "Zp")
"""Unicode's categories of characters that YAML refuses, or that end a comment's line."""


class Draft:
    """Values of a recipe by dotted key, in the order of the schema when written. `notes` are comments below a key's
    entries: for a mapping, by its entry's name. `remarks` are about the whole recipe."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}
        self.notes: dict[str, Mapping[str, Sequence[str]]] = {}
        self.remarks: list[str] = []

    def set(self, key: str, value: Any, reason: str = "") -> None:
        """Choose a value. The reason is written above it."""
        self.values[key] = value
        self.reasons[key] = reason

    def has(self, key: str) -> bool:
        """Whether a value is chosen for the key, or for the section that it is in."""
        return any(key == own or key.startswith(f"{own}.") for own in self.values)

    def override(self, text: str, reason: str) -> None:
        """Set the key of a `section.key=value` text, as `load_recipe` does. Raises RecipeError if it has none."""
        merged = self.nested()
        merge_override(merged, text)
        key = text.partition("=")[0].strip()
        key = next((own for own in self.values if key.startswith(f"{own}.")), key)
        for own in [own for own in self.values if own.startswith(f"{key}.")]:
            del self.values[own]
        value: Any = merged
        for part in key.split("."):
            value = value[part]
        self.set(key, value, reason)

    def nested(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in self.values.items():
            *parents, last = key.split(".")
            place = found
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = deepcopy(value)
        return found

    def recipe(self) -> Recipe:
        """The recipe that the text stands for. Raises RecipeError if a key or a value is none of a recipe's."""
        return validated(self.nested(), "the new recipe")

    def checked_text(self, head: Sequence[str]) -> str:
        """The text, once it is shown to be read back as this recipe. Raises RecipeError otherwise."""
        text = self.text(head)
        if validated(parse_yaml(text), "the new recipe") != self.recipe():
            raise RecipeError("The new recipe would be read back as another one: nothing is written.")
        return text

    def text(self, head: Sequence[str]) -> str:
        """The recipe as YAML, each key below its help and the reason for its value; `head` are the first comments."""
        return "\n".join(
            [*(f"# {_printable(line)}".rstrip() for line in head), *self._lines(Recipe, self.nested(), "", 0), ""]
        )

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
            yield from (f"{indent}#   {_printable(note)}" for note in notes.get(name, ()))
            yield f"{indent}{_inline(name)}: {_inline(value)}"


def first_sentence(text: str) -> str:
    """The first sentence of a key's help, on one line."""
    plain = " ".join(text.split())
    end = re.search(r"[.?](?= [A-Z`])", plain)
    return plain[: end.end()] if end else plain


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(_printable(text), _WIDTH - len(indent), break_long_words=False, break_on_hyphens=False):
        yield f"{indent}# {line}"


def _printable(text: str) -> str:
    """A text as it can stand in a comment: control characters and line separators are written as escapes."""
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in _UNPRINTABLE else letter
        for letter in text
    )


def _inline(value: Any) -> str:
    """A value as YAML on one line."""
    return dump_yaml([value], default_flow_style=True, width=10**9).strip()[1:-1]


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model of a nested section or source."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
