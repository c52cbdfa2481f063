"""What all routes have in common: bounded bodies, errors in one form, jobs awaited, events streamed.

An error is `{"error": {"message", "type", "param"}}`, as OpenAI's and TypeSafe's clients read it; one of validation
also has TypeSafe's `detail`. It shows the sender what is wrong and never goes into a log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import sys
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from rir_mlx.classification.scores import Prediction
from rir_mlx.errors import RirError, UserError
from rir_mlx.json_text import parse_json
from rir_mlx.serving.jobs import Busy, Job
from rir_mlx.serving.worker import Worker

Asked = TypeVar("Asked", bound=BaseModel)
Endpoint = Callable[[Request], Awaitable[Response]]

BODY_BYTES = 1 << 20
BODY_SECONDS = 30.0
_INVALID, _SERVER = "invalid_request_error", "api_error"
_PATH = re.compile(r"(?<![\w.:/~-])/(?:[^\s/:'\"`]+/)+")
_CLOSED = 499
"""The client has gone; nobody reads it."""


class Refused(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, message: str, *, param: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.more = status, message, param, more


def error_response(
    status: int,
    message: str,
    kind: str,
    *,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> JSONResponse:
    """An error's answer. `more` may hold its `param`, `code` and `detail`."""
    detail = {"detail": more.pop("detail")} if "detail" in more else {}
    error = {"message": message, "type": kind, "param": None, "code": None} | more
    return JSONResponse({"error": error, **detail}, status, headers)


def safely(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with every exception as an answer. No traceback is sent, and none printed: it may hold a text."""

    @wraps(endpoint)
    async def safe(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception as error:
            return response_to(error)

    return safe


def response_to(error: Exception) -> Response:
    """How an exception is answered."""
    match error:
        case Refused():
            return error_response(error.status, error.message, _INVALID, param=error.param, **error.more)
        case Busy():
            headers = {"Retry-After": str(error.retry_after)}
            return error_response(503, str(error), "overloaded_error", headers=headers)
        case UserError():
            return error_response(422, _without_folders(str(error)), _INVALID)
        case ClientDisconnect():
            return Response(status_code=_CLOSED)
        case RirError():
            print(f"error: {error.what}", file=sys.stderr)
            return error_response(500, _without_folders(str(error)), _SERVER)
        case _:
            print(f"error: {type(error).__name__} in a request", file=sys.stderr)
            return error_response(500, "The server failed to answer.", _SERVER)


def _without_folders(text: str) -> str:
    """The text with the last part alone of each absolute path: where files of this machine lie is nobody's business."""
    return _PATH.sub("", text)


async def read(request: Request, form: type[Asked], most: int = BODY_BYTES) -> Asked:
    """The body of a request. Raises Refused if it is too large, too slow, no JSON or not of the form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "The body must be JSON: send `Content-Type: application/json`.")
    raw = await raw_body(request, most, BODY_SECONDS)
    raw = _decompressed(raw, request.headers.get("content-encoding", "identity").strip().lower(), most)
    _check_json(raw)
    try:
        return form.model_validate_json(raw)
    except ValidationError as error:
        raise invalid(error) from None


def _check_json(raw: bytes) -> None:
    """Raises Refused for what readers of JSON understand differently: a number that is none or has no bounds, and an
    object with a key twice. What else may be wrong with the body the form says."""

    def no_number(text: str) -> float:
        raise Refused(400, f"{text[:20]} is no number of JSON, or too large.")

    def number(text: str) -> float:
        return found if math.isfinite(found := float(text)) else no_number(text)

    def items(pairs: list[tuple[str, Any]]) -> None:
        counts = Counter(key for key, _ in pairs)
        if len(counts) < len(pairs):
            raise Refused(400, f"The key {counts.most_common(1)[0][0][:60]!r} stands twice in an object.")

    with contextlib.suppress(ValueError):
        parse_json(raw, parse_int=len, parse_float=number, parse_constant=no_number, object_pairs_hook=items)


async def raw_body(request: Request, most: int, seconds: float) -> bytes:
    """The body as it was sent. Raises Refused if it is larger, or takes longer."""
    try:
        return await asyncio.wait_for(_body(request, most), seconds)
    except TimeoutError:
        raise Refused(408, "The body did not arrive in time.") from None


async def _body(request: Request, most: int) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise _too_large(most)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise _too_large(most)
    return bytes(body)


def _too_large(most: int) -> Refused:
    return Refused(413, f"The body is larger than {most:,} bytes.")


def _decompressed(raw: bytes, encoding: str, most: int) -> bytes:
    """The body without its compression; never more than the limit is unpacked."""
    try:
        match encoding:
            case "identity" | "":
                return raw
            case "gzip" | "deflate":
                unpacker = zlib.decompressobj(wbits=47 if encoding == "gzip" else zlib.MAX_WBITS)
                found = unpacker.decompress(raw, most + 1)
                whole, rest = unpacker.eof, unpacker.unused_data
            case "zstd":
                unpack = _zstd()
                found = unpack.decompress(raw, most + 1)
                whole, rest = unpack.eof, unpack.unused_data
            case _:
                raise Refused(415, f"The encoding {encoding!r} is not read; gzip, deflate, zstd or none are.")
    except Refused:
        raise
    except Exception:
        raise Refused(400, f"The body is no {encoding} data.") from None
    if len(found) > most:
        raise _too_large(most)
    if not whole:
        raise Refused(400, f"The {encoding} data of the body is cut off.")
    if rest:
        raise Refused(400, f"More follows the {encoding} data of the body.")
    return found


def _zstd() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression.zstd import ZstdDecompressor
        else:
            from backports.zstd import ZstdDecompressor
    except ImportError:
        raise Refused(415, "This server's Python cannot read zstd.") from None
    return ZstdDecompressor()


def invalid(error: ValidationError, where: str = "body") -> Refused:
    """What does not fit the form, in TypeSafe's words: without the value that was sent."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    detail = [
        {"loc": [where, *fault["loc"]], "msg": fault["msg"].removeprefix("Value error, "), "type": fault["type"]}
        for fault in faults[:20]
    ]
    first = detail[0]
    path = ".".join(str(part) for part in faults[0]["loc"])
    status = 400 if first["type"] == "json_invalid" else 422
    message = f"{path}: {first['msg']}" if path else str(first["msg"])
    return Refused(status, message, param=path or None, detail=detail)


async def answers(request: Request, worker: Worker, job: Job) -> list[Prediction]:
    """The predictions of a job, once there are all. Raises what it failed with. If the client hangs up first, the job
    is dropped, and ClientDisconnect raised."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the server has been stopped at once
            loop.call_soon_threadsafe(ended.set)

    job.when_ended(tell)
    worker.submit(job)
    waiting = [asyncio.ensure_future(ended.wait()), asyncio.ensure_future(_gone(request))]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not ended.is_set():
            raise ClientDisconnect
        return job.result(0)
    finally:
        job.gone = True
        for task in waiting:
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Events:
    """A job's listener that hands on, as server-sent events, what happens on the worker's thread."""

    def __init__(self, show: Callable[[int, Prediction], Mapping[str, Any]]) -> None:
        self._show, self._loop = show, asyncio.get_running_loop()
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue()

    def piece(self, place: int, text: str) -> None:
        self._put(event("reasoning", {"index": place, "text": text}))

    def answer(self, place: int, prediction: Prediction) -> None:
        self._put(event("prediction", {"index": place, **self._show(place, prediction)}))

    def _put(self, data: bytes | None) -> None:
        with contextlib.suppress(RuntimeError):  # the server has been stopped at once
            self._loop.call_soon_threadsafe(self._waiting.put_nowait, data)

    async def stream(self, job: Job, last: Callable[[], Mapping[str, Any]]) -> AsyncIterator[bytes]:
        """The events of a submitted job, up to `done` with what `last` says, or `error`."""
        job.when_ended(lambda: self._put(None))
        try:
            while True:
                try:
                    data = await asyncio.wait_for(self._waiting.get(), _BEAT)
                except TimeoutError:
                    yield b": waiting\n\n"
                    continue
                if data is None:
                    break
                yield data
            if job.error is None:
                yield event("done", last())
            else:
                yield event("error", json.loads(bytes(response_to(job.error).body)))
        finally:
            job.gone = True


_BEAT = 10.0
"""Seconds after which a silent stream shows that it is alive."""


def event(name: str, values: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(values, ensure_ascii=False)}\n\n".encode()
