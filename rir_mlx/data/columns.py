"""Which column of a table holds what: the one that the recipe names, or the one with a usual name.

Knows names only; tables are read elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rir_mlx.errors import DataError, did_you_mean
from rir_mlx.progress import shortened

Role = Literal["text", "label", "question", "answer", "reasoning"]

_USUAL_NAMES: dict[Role, tuple[tuple[str, ...], ...]] = {
    # Names of an earlier group win over those of a later one; two of one group are a question to the user.
    # `label_text` stands beside a `label` of bare numbers in many published sets.
    "text": (
        ("text",),
        ("sentence", "content", "tweet", "review", "message", "document", "utterance", "comment", "post"),
        ("body", "input", "title", "headline", "description"),
    ),
    "label": (
        ("label_text", "label_name"),
        ("label",),
        ("labels", "category", "class", "emotion", "sentiment", "intent", "topic"),
        ("target", "output"),
    ),
    "question": (("question",), ("prompt", "instruction", "query", "problem"), ("input",)),
    "answer": (("answer",), ("response", "output", "solution", "completion"), ("target", "label")),
    "reasoning": (
        ("reasoning",),
        ("rationale", "explanation", "cot", "chain_of_thought", "thought", "thoughts", "thinking"),
        ("trace", "reasoning_trace", "reasoning_content"),
    ),
}

_SHOWN = 60
_MAY_BE_TEXT = re.compile(
    r"^\w*(text|review|sentence|comment|message|post|tweet|title)s?\w*$|^(query|question|abstract|e-?mail)s?$", re.I
)
"""Names of a lone column that is taken for the text."""


@dataclass(frozen=True)
class Column:
    """A column to find: what it holds, the key that names it, and the name given there, if any. `more` are the names of
    further columns that are read together with it."""

    role: Role
    key: str
    name: str | None
    more: tuple[str, ...] = ()

    @classmethod
    def of(cls, role: Role, key: str, names: str | Sequence[str] | None) -> Column:
        """A column, or several that are one text together, or that say a row's label together."""
        if names is None or isinstance(names, str):
            return cls(role, key, names)
        return cls(role, key, names[0], tuple(names[1:]))


def taken_apart(columns: Sequence[Column]) -> list[Column]:
    """The same columns with each of the joined ones by itself."""
    return [Column(column.role, column.key, name) for column in columns for name in (column.name, *column.more)]


def joined_text(names: Sequence[str], cells: Sequence[Any]) -> Any:
    """The cells of a text's columns as one text: a single cell as it is; of several, those that are filled, each on a
    line behind its column's name; None if none is. Bytes are no text: they come out as they are, to be refused."""
    if len(names) == 1:
        return cells[0]
    if (data := next((cell for cell in cells if isinstance(cell, bytes)), None)) is not None:
        return data
    filled = [f"{name}: {cell}" for name, cell in zip(names, cells, strict=True) if str(cell or "").strip()]
    return "\n".join(filled) or None


def listed(names: Sequence[str]) -> str:
    """Column names for a message: in quotation marks where a comma, a blank at an end or an unseen character in one
    could mislead."""
    plain = [name.isprintable() and "," not in name and name == name.strip() != "" for name in names]
    return ", ".join(name if is_plain else repr(name) for name, is_plain in zip(names, plain, strict=True))


def check_header(names: Sequence[str], shown: str) -> None:
    """Raise DataError if two columns of a table have the same name: which one is meant would be a guess."""
    twice = [name for name, count in Counter(names).items() if count > 1 and name.strip()]
    if twice:
        raise DataError(
            f"{shown}: {names.count(twice[0])} columns are called {twice[0]!r}. Columns: {listed(names)}.",
            hint="Give each column a name of its own.",
        )


def find_columns(names: Sequence[str], columns: Sequence[Column], shown: str) -> list[str]:
    """The name of each wanted column among `names`, the columns of the table that messages call `shown`.

    Raises DataError, listing the columns, if none fits or two fit equally. A table's only column is taken for the only
    wanted one, whatever its name.
    """
    if len(names) == len(columns) == 1 and columns[0].name is None:
        return list(names)
    return [_find_column(names, column, shown) for column in columns]


def find_in_header(names: Sequence[str], columns: Sequence[Column], shown: str) -> list[str]:
    """The same in a table whose first line names its columns. Raises DataError also if a lone column has an unusual
    name: that line may be the first text."""
    lone = len(names) == len(columns) == 1 and columns[0].name is None
    if lone and not _MAY_BE_TEXT.search(names[0]) and not usually_named(names, columns[0].role):
        raise DataError(
            f"{shown}: the first line names the column; it is {shortened(names[0], _SHOWN)!r}.",
            hint=f"If that is its name, set {columns[0].key} to it. If it is a text, write a line with the name text "
            "above it, or give the texts in a .txt file, one a line.",
        )
    return find_columns(names, columns, shown)


def _find_column(names: Sequence[str], column: Column, shown: str) -> str:
    there = f"Columns: {listed(names)}."
    if column.name is not None:
        match names.count(column.name):
            case 1:
                return column.name
            case 0:
                raise DataError(
                    f"{shown}: there is no column {column.name!r}.{did_you_mean(column.name, names)} {there}",
                    hint=f"Set {column.key} to one of them.",
                )
            case _:
                check_header(names, shown)
    match usually_named(names, column.role):
        case [name]:
            return name
        case [_, _, *_] as fitting:
            raise DataError(
                f"{shown}: {' and '.join(map(repr, fitting))} may each be the {column.role}. {there}",
                hint=f"Set {column.key} to the intended one.",
            )
    raise DataError(
        f"{shown}: no column looks like the {column.role}. {there}",
        hint=f"Set {column.key} to one of them. In a CSV or TSV file, the first line must name the columns."
        + (" `rir-mlx init` with the file finds columns of other names." if column.key.startswith("data.") else ""),
    )


def usually_named(names: Sequence[str], role: Role) -> list[str]:
    """The columns whose names are usual for what they hold: those of the first group of names that fits any."""
    plain = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in names]
    groups = (
        [name for name, usual in zip(names, plain, strict=True) if usual in group] for group in _USUAL_NAMES[role]
    )
    return next((found for found in groups if found), [])
