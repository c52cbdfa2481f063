"""Where the embedded model and data are, which a recipe names as `builtin:NAME`."""

from __future__ import annotations

from pathlib import Path

BUILTIN = "builtin:"
EMBEDDED = Path(__file__).parents[1] / "embedded"
