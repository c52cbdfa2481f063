"""JSON of files and servers that others wrote, and JSON that goes back into their files."""

from __future__ import annotations

import ast
import json
from typing import Any


def parse_json(text: str | bytes, **options: Any) -> Any:
    """The value of a JSON text; the options are those of `json.loads`. Raises ValueError, also for a text that is
    nested too deeply, which `json.loads` ends with a RecursionError on."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def literal_of(text: str) -> Any:
    """The value of a text that JSON or Python writes. Raises ValueError for another one."""
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise ValueError("it is neither JSON nor a value of Python") from None


def json_of(value: Any) -> str:
    """JSON in the characters of its texts, but for half a character, which no file can hold."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
