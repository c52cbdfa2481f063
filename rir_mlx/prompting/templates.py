"""Chat templates: which of a folder's templates counts, and what it prints as today's date.

A folder may hold a template in chat_template.jinja, another in tokenizer_config.json, there one or a list with names,
and more in additional_chat_templates/. Programs differ in which they read; transformers' order is followed here.
Source: https://huggingface.co/docs/transformers/chat_templating_writing
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from rir_mlx.errors import ModelError
from rir_mlx.models.config import read_settings

TEMPLATE, SETTINGS, MORE = "chat_template.jinja", "tokenizer_config.json", "additional_chat_templates"
DEFAULT = "default"

_FORMATS = ("%d %b %Y", "%d %B %Y", "%Y-%m-%d", "%b %d, %Y", "%B %d, %Y", "%d.%m.%Y", "%m/%d/%Y")
_CODES = ("%-d", "%-m", *(f"%{letter}" for letter in "aAbBcdejmyYxHIMSpXUWw"))
"""What a form of strftime may hold; the time of day is that of midnight."""
_CALL = re.compile(r"strftime_now\s*\(")
_NOW = re.compile(r"""strftime_now\(\s*(?:format\s*=\s*)?(['"])(.*?)\1\s*\)""", re.DOTALL)


def stored_templates(folder: Path) -> dict[str, str]:
    """The templates of a folder by name, as transformers finds them. Empty where there are none."""
    found = {path.stem: path.read_text(encoding="utf-8") for path in sorted((folder / MORE).glob("*.jinja"))}
    if (folder / TEMPLATE).is_file():
        found[DEFAULT] = (folder / TEMPLATE).read_text(encoding="utf-8")
    if found:
        return found
    given = read_settings(folder / SETTINGS).get("chat_template")
    try:
        named = {entry["name"]: entry["template"] for entry in given} if isinstance(given, list) else {}
    except (KeyError, TypeError) as error:
        raise ModelError(f"{folder / SETTINGS}: chat_template is no list of templates with their names.") from error
    return named or ({DEFAULT: given} if given else {})


def default_template(templates: str | Mapping[str, str] | None) -> str | None:
    """The template that a plain conversation is rendered with; None where there is none. `templates` are a tokenizer's.

    Raises ModelError where there are several and none is called `default`."""
    if not templates:
        return None
    if isinstance(templates, str):
        return templates
    if not isinstance(templates, Mapping):
        raise ModelError(f"{SETTINGS}: chat_template is {templates!r:.60}, not a text or templates with their names.")
    if DEFAULT not in templates:
        raise ModelError(
            f"The model has chat templates called {', '.join(sorted(templates))}, and none called {DEFAULT}.",
            hint=f"Copy the one for a plain conversation to {TEMPLATE} in the model's folder.",
        )
    return templates[DEFAULT]


def frozen(template: str, date: str) -> str:
    """The template with `date` in place of today's, whichever way it asks for that. It still takes another date as
    `date_string`. transformers replaces functions among a template's values, so what the template calls is written
    into it."""
    template = _NOW.sub(lambda call: json.dumps(_written(date, call[2])), template)
    if _CALL.search(template):  # with a form that is computed
        codes = "".join(f" | replace({json.dumps(code)}, {json.dumps(_written(date, code))})" for code in _CODES)
        template = f"{{%- macro strftime_now(format) -%}}{{{{- format{codes} -}}}}{{%- endmacro -%}}{template}"
    if "date_string" not in template:
        return template
    quoted = json.dumps(date)
    return f"{{%- if not date_string is defined %}}{{%- set date_string = {quoted} %}}{{%- endif %}}{template}"


def _written(date: str, form: str) -> str:
    """A date in a form of strftime; as it stands where it cannot be read as one."""
    for known in _FORMATS:
        try:
            return datetime.strptime(date, known).strftime(form)
        except ValueError:
            continue
    return date
