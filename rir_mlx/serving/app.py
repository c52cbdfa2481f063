"""The routes: from a request's form to a job for the worker, and from its predictions to an answer's form."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from rir_mlx.classification.scores import Prediction
from rir_mlx.serving.decisions import DecisionsRequest, decision_of, decision_usage, question_of
from rir_mlx.serving.guard import FILES, Guard, OnRequest, Policy
from rir_mlx.serving.http import Events, Refused, answers, error_response, read, safely
from rir_mlx.serving.jobs import Item, Job
from rir_mlx.serving.openapi import api_page, openapi
from rir_mlx.serving.wire import (
    Classified,
    ClassifyRequest,
    ClassifyResponse,
    Served,
    SystemOneRequest,
    SystemOneResponse,
    Usage,
    answer_of,
    classified,
    item_of,
    models_of,
    text_of,
)
from rir_mlx.serving.workbench.arms import Loaded
from rir_mlx.serving.workbench.routes import Workbench
from rir_mlx.serving.worker import Worker
from rir_mlx.types import Arm

REQUEST_ID = "x-typesafe-request-id"
TRIMMED = "x-rir-mlx-trimmed"
_PAGE = Path(__file__).parent / "page"


def make_app(
    worker: Worker,
    served: Served,
    policy: Policy,
    on_request: OnRequest | None = None,
    workbench: Workbench | None = None,
) -> ASGIApp:
    """The ASGI application that answers with a worker's classifier. Without a `workbench` the page only
    classifies texts."""
    routes = Routes(worker, served, workbench)
    api = [
        Route("/v1/systemone", safely(routes.systemone), methods=["POST"]),
        Route("/v1/decisions", safely(routes.decisions), methods=["POST"]),
        Route("/classify", safely(routes.classify), methods=["POST"]),
        Route("/v1/models", safely(routes.models)),
        Route("/health", safely(routes.health)),
        Route("/openapi.json", safely(routes.schema)),
        Route("/docs", safely(routes.documentation)),
        *(Route(path, partial(_file, name)) for path, name in FILES.items()),
        *(workbench.routes() if workbench is not None else ()),
    ]
    app = Starlette(routes=api, exception_handlers={HTTPException: _not_found})
    return Guard(app, policy, on_request)


async def _not_found(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, error.detail, "invalid_request_error", headers=error.headers)


@dataclass(frozen=True)
class Routes:
    """The endpoints of a worker's classifier."""

    worker: Worker
    served: Served
    workbench: Workbench | None = None

    async def systemone(self, request: Request) -> Response:
        asked = await read(request, SystemOneRequest)
        text, served = text_of(asked.state), self.served
        job = Job([item_of(text, question, asked.reason, served) for question in asked.questions.values()])
        predictions = await answers(request, self.worker, job)
        found = {
            name: answer_of(question, prediction, served, asked.reason)
            for (name, question), prediction in zip(asked.questions.items(), predictions, strict=True)
        }
        response = SystemOneResponse(model=served.name, answers=found, usage=_usage(job))
        hidden = {"answers": {"__all__": {"reason"}}} if asked.reason == "never" else None
        return _json(response.model_dump(exclude=hidden), predictions)

    async def decisions(self, request: Request) -> Response:
        asked = await read(request, DecisionsRequest)
        questions = [question_of(question) for question in asked.questions]
        job = Job([item_of(asked.text, question, asked.reason, self.served) for question in questions])
        predictions = await answers(request, self.worker, job)
        found = [
            decision_of(given, answer_of(question, prediction, self.served, asked.reason))
            for given, question, prediction in zip(asked.questions, questions, predictions, strict=True)
        ]
        usage = decision_usage(job.prompt_tokens, job.generated_tokens)
        return _json({"model": self.served.name, "answers": found, "usage": usage}, predictions)

    async def classify(self, request: Request) -> Response:
        asked = await read(request, ClassifyRequest)
        worker, served = await self._loaded(asked.arm)
        items = [Item(text, asked.reason) for text in asked.texts]

        def formed(prediction: Prediction) -> Classified:
            return classified(prediction, served, asked.reason, asked.threshold)

        if asked.stream or "text/event-stream" in request.headers.get("accept", ""):
            events = Events(lambda _, prediction: formed(prediction).model_dump())
            job = worker.submit(Job(items, events))

            def last() -> dict[str, Any]:
                return {"model": served.name, "calibrated": served.calibrated, "usage": _usage(job).model_dump()}

            headers = {REQUEST_ID: uuid.uuid4().hex}
            return StreamingResponse(events.stream(job, last), media_type="text/event-stream", headers=headers)
        job = Job(items)
        predictions = await answers(request, worker, job)
        found = [formed(prediction) for prediction in predictions]
        response = ClassifyResponse(
            model=served.name, calibrated=served.calibrated, predictions=found, usage=_usage(job)
        )
        return _json(response.model_dump(), predictions)

    async def _loaded(self, arm: Arm | None) -> Loaded:
        """The arm that a request names, loaded."""
        if arm is None or arm == self.served.arm:
            return Loaded(self.worker, self.served)
        if self.workbench is None:
            raise Refused(422, f"This server has the {self.served.arm} classifier alone.", param="arm")
        return await self.workbench.loaded(arm)

    async def models(self, _: Request) -> Response:
        return JSONResponse(models_of(self.served))

    async def health(self, _: Request) -> Response:
        alive = self.worker.alive
        values = {"status": "ok" if alive else "stopping", "model": self.served.name, "texts": self.worker.rows}
        return JSONResponse(values, 200 if alive else 503)

    async def schema(self, _: Request) -> Response:
        return JSONResponse(openapi())

    async def documentation(self, _: Request) -> Response:
        return HTMLResponse(api_page())


async def _file(name: str, _: Request) -> Response:
    return FileResponse(_PAGE / name)


def _usage(job: Job) -> Usage:
    return Usage(input_tokens=job.prompt_tokens, output_tokens=job.generated_tokens)


def _json(values: dict[str, Any], predictions: list[Prediction]) -> Response:
    headers = {REQUEST_ID: uuid.uuid4().hex}
    if any(prediction.trimmed for prediction in predictions):
        headers[TRIMMED] = "true"
    return JSONResponse(values, headers=headers)
