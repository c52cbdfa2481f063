"""What a cell must hold to be a text that a model can be given."""

from __future__ import annotations

from datetime import date, time
from typing import Any


def checked_text(value: Any, what: str) -> str:
    """The value, where it is a text that a model can be given. Raises ValueError, saying why not."""
    if value is None:
        raise ValueError(f"no {what}")
    if not isinstance(value, str):
        shown = f"the date or time {value}" if isinstance(value, date | time) else repr(value)[:60]
        raise ValueError(f"the {what} is not a string but {shown}")
    if not value.strip():
        raise ValueError(f"the {what} is empty")
    if "\0" in value:
        raise ValueError(f"the {what} holds a NUL byte")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"the {what} holds half a character (a lone surrogate) at {error.start}") from None
    return value


def optional_text(value: Any, what: str) -> str | None:
    """The same, or None if the cell is empty."""
    return None if value is None or not str(value).strip() else checked_text(value, what)
