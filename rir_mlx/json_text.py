"""JSON of files and servers that others wrote, and JSON that goes back into their files."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes, **options: Any) -> Any:
    """The value of a JSON text; the options are those of `json.loads`. Raises ValueError, also for a text that is
    nested too deeply, which `json.loads` ends with a RecursionError on."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def json_of(value: Any) -> str:
    """JSON in the characters of its texts, but for half a character, which no file can hold."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
