"""The report of a run: one HTML file that needs no network, and the same charts as PNG (`plots.py`).

It is made from `comparison.json` and pairs of predictions alone. Knows neither models, data files nor stages.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from rir_mlx import __version__
from rir_mlx.errors import UserError
from rir_mlx.evaluation.report import formats, view
from rir_mlx.evaluation.report.charts import key
from rir_mlx.evaluation.report.examples import (
    LONGEST,
    MOST,
    examples_of,
    groups,
)
from rir_mlx.storage.atomic import write_text

if TYPE_CHECKING:
    from jinja2 import Environment


__all__ = ["VERSION", "examples_of", "render", "write_report"]

VERSION = 1
"""The version of `comparison.json` that is understood."""

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(path: Path, comparison: Mapping[str, Any], examples: Sequence[Mapping[str, Any]] = ()) -> None:
    write_text(path, render(comparison, examples))


def render(comparison: Mapping[str, Any], examples: Sequence[Mapping[str, Any]] = ()) -> str:
    """The report as one HTML document, which loads nothing and whose policy forbids that it does.

    `comparison` is the content of `comparison.json`; parts that are null or missing are left out. `examples` are those
    of `examples_of`: at most 400 of each outcome are shown, the most confident ones.

    Raises UserError where the comparison is of another version.
    """
    if (found := comparison.get("version")) != VERSION:
        raise UserError(
            f"The comparison has version {found}; this report is made from version {VERSION}.",
            hint="Run `rir-mlx evaluate` again.",
        )
    style, early, script = (_source(name) for name in ("report.css", "early.js", "report.js"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(early)} {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            **view.page(comparison),
            groups=groups(examples),
            names=[examples[0][which]["name"] for which in ("first", "second")] if examples else (),
            clipped=any(len(text or "") > LONGEST for one in examples for text in (one["text"], one.get("reasoning"))),
            most=MOST,
            longest=LONGEST,
            key=key,
            version=__version__,
            policy=policy,
            style=style,
            early=early,
            script=script,
        )
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(formats.FILTERS)
    return environment


def _source(name: str) -> Markup:
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8").strip())


def _hash(source: str) -> str:
    """How a Content-Security-Policy names an inline script or style: by the SHA-256 of its text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
