"""The routes of the page: what only it asks. Their forms may change with it."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rir_mlx.classification.exported import ExportedRun
from rir_mlx.errors import UserError
from rir_mlx.evaluation.entries import DESCRIPTIONS
from rir_mlx.evaluation.schema import read_comparison
from rir_mlx.prompting.prompts import reasons_first
from rir_mlx.review.rows import predictions_of
from rir_mlx.serving.guard import REPORT
from rir_mlx.serving.http import Refused, error_response, invalid, raw_body, read, safely
from rir_mlx.serving.workbench.arms import Arms, Loaded, ServedRun
from rir_mlx.serving.workbench.reviewing import DecideRequest, Reviewing, RowRequest, RowsRequest, UndoRequest
from rir_mlx.serving.workbench.tables import TABLE_BYTES, TableJob, TableRequest, TablesAtOnce
from rir_mlx.serving.worker import Limits
from rir_mlx.statistics.intervals import share_interval
from rir_mlx.types import Arm

Form = TypeVar("Form", bound=BaseModel)
_STEPS = 200
_TABLE_SECONDS = 120.0
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; sandbox allow-scripts"
)
"""The report's own policy allows its own scripts alone. In this one it has no origin, and reaches nothing."""


class CurveRequest(BaseModel):
    arm: Arm | None = None


class Workbench:
    """The endpoints of a served run."""

    def __init__(self, source: ServedRun, main: Loaded, limits: Limits) -> None:
        self.source, self.arms = source, Arms(source, main, limits)
        self.reviewing = Reviewing(source)
        self.ticket = secrets.token_urlsafe(24)
        """Part of the report's address: a frame cannot send a key."""
        self._tables = TablesAtOnce()

    def routes(self) -> list[Route]:
        reviewing = self.reviewing
        return [
            Route("/run", safely(self.about)),
            Route("/threshold", safely(self.threshold)),
            Route("/tables", safely(self.tables), methods=["POST"]),
            Route("/review", safely(partial(_asked_nothing, reviewing.overview))),
            Route("/review/rows", safely(partial(_asked_by_query, RowsRequest, reviewing.page))),
            Route("/review/row", safely(partial(_asked_by_query, RowRequest, reviewing.row))),
            Route("/review/decide", safely(partial(_asked_by_body, DecideRequest, reviewing.decide)), methods=["POST"]),
            Route("/review/undo", safely(partial(_asked_by_body, UndoRequest, reviewing.undo)), methods=["POST"]),
            Route(f"{REPORT}{{ticket}}", safely(self.report)),
        ]

    async def about(self, _: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._about))

    def _about(self) -> dict[str, Any]:
        source, served = self.source, self.arms.main.served
        accuracies = self._accuracies()
        loaded = self.arms.loaded
        arms = [
            {"name": arm, "description": DESCRIPTIONS[arm], "accuracy": accuracies.get(arm), "loaded": arm in loaded}
            for arm in source.arms
        ]
        return {
            "name": served.name,
            "arm": served.arm,
            "arms": arms,
            "labels": list(served.single or served.labels),
            "thresholds": dict(served.thresholds),
            "trained_on": served.trained_on,
            "report": f"{REPORT[1:]}{self.ticket}" if source.run.report.is_file() else None,
        }

    def _accuracies(self) -> Mapping[str, float]:
        """The arms' accuracies on the test rows; none if they were not measured by this version."""
        try:
            comparison = read_comparison(self.source.run.comparison)
        except UserError:
            return {}
        return {entry.name: entry.metrics.accuracy.value for entry in comparison.entries}

    async def threshold(self, request: Request) -> Response:
        arm = _form(CurveRequest, request.query_params).arm or self.source.arm
        return JSONResponse(await asyncio.to_thread(self._curve, arm))

    def _curve(self, arm: Arm) -> dict[str, Any]:
        """For thresholds from 0 to 1: how many test rows are answered, how many of these are right, and between which
        shares that lies with 95 % certainty."""
        if isinstance(self.source.run, ExportedRun):
            raise Refused(404, "An export holds no test rows: serve the run that it comes from.")
        path = self.source.run.predictions(arm)
        if arm not in self.source.arms or not path.is_file():
            raise Refused(404, f"{arm} has not been measured on test rows: run `rir-mlx evaluate`.")
        confidence, correct = [], []
        for row in predictions_of(path):
            confidence.append(max(row.probabilities.values()))
            correct.append(row.predicted == row.label)
        sure, hits = np.array(confidence), np.array(correct, dtype=np.bool_)
        points: list[list[float]] = []
        for step in range(_STEPS + 1):
            right = hits[sure >= step / _STEPS]  # as `calibration.abstains` has it
            found = share_interval(right[None])
            bounds = [round(found.low, 4), round(found.high, 4)] if len(right) else []
            points.append([len(right), int(right.sum()), *bounds])
        return {
            "arm": arm,
            "rows": len(hits),
            "steps": _STEPS,
            "reasoned": reasons_first(arm),
            "points": points,
        }

    async def tables(self, request: Request) -> Response:
        asked = _form(TableRequest, request.query_params)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/octet-stream":
            raise Refused(415, "The body is the table itself: send `Content-Type: application/octet-stream`.")
        self._tables.take()
        try:
            body = await raw_body(request, TABLE_BYTES, _TABLE_SECONDS)
            loaded = await self.loaded(asked.arm, keep=True)
        except BaseException:
            self._tables.leave()
            raise

        def ended() -> None:
            self._tables.leave()
            self.arms.let_go(loaded.served.arm)

        job = TableJob(asked, body, loaded)
        job.start(ended)
        return StreamingResponse(job.stream(), media_type="text/event-stream")

    async def loaded(self, arm: Arm | None, *, keep: bool = False) -> Loaded:
        """The arm that a request names, see `Arms.get`. Raises Refused if it is not trained."""
        if arm is None:
            return self.arms.main
        if arm not in self.source.arms:
            raise Refused(422, f"The run has no trained {arm} classifier.", param="arm")
        return await asyncio.to_thread(partial(self.arms.get, arm, keep=keep))

    async def report(self, request: Request) -> Response:
        given = request.path_params["ticket"].encode()
        path = self.source.run.report
        if not hmac.compare_digest(given, self.ticket.encode()) or not path.is_file():
            return error_response(404, "Not Found", "invalid_request_error")
        return FileResponse(path, media_type="text/html", headers={"content-security-policy": _REPORT_POLICY})


def _form(form: type[Form], values: Mapping[str, str]) -> Form:
    """The query of a request. Raises Refused if it is not of the form."""
    try:
        return form.model_validate({name: value for name, value in values.items() if value})
    except ValidationError as error:
        raise invalid(error, "query") from None


async def _asked_nothing(answer: Callable[[], dict[str, Any]], _: Request) -> Response:
    return JSONResponse(await asyncio.to_thread(answer))


async def _asked_by_query(form: type[Form], answer: Callable[[Form], dict[str, Any]], request: Request) -> Response:
    return JSONResponse(await asyncio.to_thread(answer, _form(form, request.query_params)))


async def _asked_by_body(form: type[Form], answer: Callable[[Form], dict[str, Any]], request: Request) -> Response:
    return JSONResponse(await asyncio.to_thread(answer, await read(request, form)))
