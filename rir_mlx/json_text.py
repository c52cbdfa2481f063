"""JSON of files and servers that others wrote."""

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
