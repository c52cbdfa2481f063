"""The OpenAPI description of the routes, made from the forms of requests and answers, and a page that shows it.

The page is drawn here, without the scripts of another server that such pages usually fetch.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rir_mlx import __version__
from rir_mlx.serving.decisions import DecisionsRequest
from rir_mlx.serving.wire import ClassifyRequest, ClassifyResponse, SystemOneRequest, SystemOneResponse
from rir_mlx.templates import template_environment

_TEXT = "i was afraid of the storm, but now it is over and i can laugh"
_STREAM = """event: reasoning
data: {"index": 0, "text": "The storm is "}

event: prediction
data: {"index": 0, "label": "joy", "probabilities": {"joy": 0.9, "fear": 0.1}, ...}

event: done
data: {"model": "demo", "calibrated": true, "usage": {"input_tokens": 61, "output_tokens": 12}}"""

_POSTS: dict[str, tuple[str, str, type[BaseModel], type[BaseModel] | None, dict[str, Any]]] = {
    "/v1/systemone": (
        "Answer questions about a state",
        "TypeSafe's form. A choice among the run's labels is answered by the trained classifier, calibrated. Any other "
        "question is asked of the same weights without training. A `reason` of always or auto adds the reasoning.",
        SystemOneRequest,
        SystemOneResponse,
        {
            "state": _TEXT,
            "questions": {
                "feeling": {"type": "choice", "criteria": {"joy": None, "sadness": None, "anger": None, "fear": None}},
                "over": {"type": "noul", "instructions": "Is the storm over?"},
                "strength": {"type": "score", "criteria": ["calm", "moved", "overwhelmed"]},
            },
            "reason": "auto",
        },
    ),
    "/v1/decisions": (
        "The same questions in OpenAI's form",
        "Text alone. The answers have the fields of `/v1/systemone` as well.",
        DecisionsRequest,
        None,
        {
            "input": _TEXT,
            "questions": [
                {"type": "predicate", "name": "over", "instructions": "The storm is over."},
                {"type": "choice", "instructions": "The feeling?", "choices": [{"value": "joy"}, {"value": "fear"}]},
            ],
        },
    ),
    "/classify": (
        "Classify texts",
        "Labels, probabilities and reasonings of up to 256 texts. With `stream`, or an Accept header of "
        f"text/event-stream, as server-sent events:\n\n{_STREAM}",
        ClassifyRequest,
        ClassifyResponse,
        {"texts": [_TEXT], "reason": "always"},
    ),
}
_GETS = {
    "/v1/models": ("The model that answers", "In TypeSafe's form (`models`) and in OpenAI's (`data`)."),
    "/health": ("Whether the server answers", "Needs no key. `texts` wait or are worked on."),
}
_ERRORS = {
    "400": "The body is no JSON.",
    "401": "The API key is missing or wrong.",
    "403": "The Host is not this server's, or the Origin is another site's.",
    "413": "The body is too large.",
    "422": "The request does not fit its form. `detail` lists what does not.",
    "503": "Too much waits. Retry-After says for how many seconds.",
}


@cache
def openapi() -> dict[str, Any]:
    """The description in OpenAPI 3.1."""
    forms = [form for _, _, asked, answer, _ in _POSTS.values() for form in (asked, answer) if form is not None]
    names, definitions = models_json_schema(
        [(form, "validation") for form in forms], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, Any] = {}
    for path, (summary, about, asked, answer, example) in _POSTS.items():
        body = {"schema": names[asked, "validation"], "example": example}
        shown = {} if answer is None else {"schema": names[answer, "validation"]}
        paths[path] = {
            "post": {
                "summary": summary,
                "description": about,
                "requestBody": {"required": True, "content": {"application/json": body}},
                "responses": _responses(shown),
                "security": [{"key": []}, {}],
            }
        }
    for path, (summary, about) in _GETS.items():
        paths[path] = {"get": {"summary": summary, "description": about, "responses": {"200": {"description": "OK"}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "rir-mlx", "version": __version__, "description": "Decisions with their reasons."},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    good = {"200": {"description": "OK", "content": {"application/json": schema}}}
    return good | {status: {"description": about} for status, about in _ERRORS.items()}


@cache
def api_page() -> str:
    """The description as a page."""

    def pretty(value: Any) -> str:
        return json.dumps(value, indent=2, ensure_ascii=False)

    environment = template_environment(Path(__file__).parent / "page", {"pretty": pretty}, html=True)
    return environment.get_template("docs.html.j2").render(api=openapi())
