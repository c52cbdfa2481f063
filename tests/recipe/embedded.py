"""The scripts that make the embedded data and model, which are not installed, as modules."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "embedded"


def script(name: str) -> Any:
    """The module of that name in recipes/embedded. The folder is on the path only while it is imported."""
    sys.path.insert(0, str(FOLDER))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
