"""The report as one HTML document, rendered from a comparison and paired examples.

Knows neither models, data files nor stages.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from rir_mlx import __version__
from rir_mlx.evaluation.report import formats, view
from rir_mlx.evaluation.report.charts import key
from rir_mlx.evaluation.report.examples import MAX_CHARACTERS, MAX_EXAMPLES, Example, example_page
from rir_mlx.evaluation.schema import Comparison
from rir_mlx.storage.atomic import write_text
from rir_mlx.templates import template_environment

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(path: Path, comparison: Comparison, examples: Sequence[Example] = ()) -> None:
    write_text(path, render(comparison, examples))


def render(comparison: Comparison, examples: Sequence[Example] = ()) -> str:
    """An HTML document that loads nothing; its Content-Security-Policy forbids loading anything.

    Parts of the comparison that are None are left out. Of each outcome the most confident examples are shown.
    Label-only and the chosen arm stand side by side at first; any two can be chosen.
    """
    style, early, script = (_source(name) for name in ("report.css", "early.js", "report.js"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(early)} {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    pair = ("qa", comparison.chosen) if comparison.chosen else None
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            **view.page(comparison),
            examples=example_page(examples, pair),
            max_examples=MAX_EXAMPLES,
            max_characters=MAX_CHARACTERS,
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
    return template_environment(_TEMPLATES, formats.FILTERS, html=True)


def _source(name: str) -> Markup:
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8").strip())


def _hash(source: str) -> str:
    """The SHA-256 by which a Content-Security-Policy allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
