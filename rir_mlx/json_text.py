"""JSON of files and servers that others wrote, and JSON that goes back into their files."""

from __future__ import annotations

import ast
import json
from collections import Counter
from typing import Any


def parse_json(text: str | bytes, **options: Any) -> Any:
    """The value of a JSON text; the options are those of `json.loads`. Raises ValueError, also for a text that is
    nested too deeply, which `json.loads` ends with a RecursionError on."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class RepeatedKeyError(ValueError):
    """A key that comes twice in an object: readers keep the last value, and the others would be lost silently."""

    def __init__(self, key: object) -> None:
        super().__init__(f"the key {key!r} comes twice")


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values, for `object_pairs_hook`. Raises RepeatedKeyError if a key comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RepeatedKeyError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return found


def literal_of(text: str) -> Any:
    """The value of a text that JSON or Python writes. Raises ValueError for another one, and RepeatedKeyError for one
    with a key that comes twice in an object."""
    try:
        return parse_json(text, object_pairs_hook=distinct)
    except RepeatedKeyError:
        raise
    except ValueError:
        pass
    try:
        tree = ast.parse(text.strip(), mode="eval")
        value = ast.literal_eval(tree)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise ValueError("it is neither JSON nor a value of Python") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            distinct([(ast.literal_eval(key), None) for key in node.keys if key is not None])
    return value


def json_of(value: Any) -> str:
    """JSON in the characters of its texts, but for half a character, which no file can hold."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
