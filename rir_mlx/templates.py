"""Jinja templates of a folder, rendered as the report and the model cards need them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def template_environment(folder: Path, filters: Mapping[str, Callable[..., Any]], *, html: bool = False) -> Environment:
    """An undefined name is an error. `html` escapes every value; a plain text keeps its last line break."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
    )
    environment.filters.update(filters)
    return environment
