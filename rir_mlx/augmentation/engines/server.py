"""A server that speaks OpenAI's chat completions: vLLM, SGLang, mlx_lm.server, Ollama, or a hosted one.

The server has the model and applies its own chat template. Requests run on an event loop in a thread of their own, so
that whoever leaves `write` early cancels them at once. Texts are cut and counted in the caller's thread, because a
tokenizer does not belong to two threads.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeVar

import httpx2

from rir_mlx.augmentation.engines.base import GeneratedReasoning, LabelQuestion, ReasoningRequest
from rir_mlx.backends.base import Sampling
from rir_mlx.errors import (
    Failure,
    NoServer,
    RirError,
    UserError,
    did_you_mean,
)
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.room import rgen_room
from rir_mlx.types import FinishReason

T = TypeVar("T")

_PASSING_STATUS = frozenset({408, 409, 425, 429})
"""Refusals below 500 that another try may mend."""
_ORDERS_FAULT = frozenset({400, 413, 422})
"""A context that is too long, a content filter: another order may do better."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_QUICK_PAUSE = 0.2
"""Seconds before the second and last try to reach a server that was never reached."""
_LONGEST_RETRY_AFTER = 60.0
_LONGEST_CONNECT = 10.0
_LEAVING = 5.0
"""Seconds to wait for requests that are cancelled; the thread is a daemon and holds up no exit after that."""
_EXCERPT = 300
_SEED_BITS = 31
"""What every server takes: some keep a seed in 32 bits, signed or not, and JSON readers may round above 2^53."""
_DEFAULT = Sampling()
_AGAIN = "Run the same command again; it continues."
_ALL_REFUSED = 16
"""After so many refusals and no answer, it is not the orders that the server does not like."""
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)
"""What some models think aloud before they answer."""


@dataclass(frozen=True)
class Server:
    """Where a model is served, and how it is asked.

    `base_url` is what `/chat/completions` is appended to. `model` None stands for the one model that the server lists.
    `concurrency` requests run at once, each for at most `timeout` seconds, and is repeated `retries` times. The key
    is read from the environment variable `key_variable`. Raises UserError for an address that cannot be used."""

    base_url: str = field(repr=False)  # its query may hold what is nobody else's business
    model: str | None = None
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 6
    key_variable: str = "OPENAI_API_KEY"

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise UserError(f"concurrency is {self.concurrency}.", hint="Give 1 or more.")
        if not self.url.host or self.url.scheme not in ("http", "https") or (self.url.port or 1) > 65535:
            found = repr(self.base_url) if "@" not in self.base_url else "The address"
            raise UserError(
                f"{found} is no http or https address.", hint="Write base_url like http://127.0.0.1:8080/v1."
            )
        if self.url.userinfo or self.url.query:
            raise UserError(
                f"base_url holds a user, a password or a query for {self.url.host}.",
                hint=f"Take it out, and set the environment variable {self.key_variable} to the server's key.",
            )

    @property
    def url(self) -> httpx2.URL:
        try:
            url = httpx2.URL(self.base_url.strip())
        except httpx2.InvalidURL:
            return httpx2.URL("")
        return url.copy_with(path=url.path.rstrip("/") or "/", fragment=None)

    @property
    def shown(self) -> str:
        """The address as errors and rows may hold it, without its query."""
        return str(self.url.copy_with(query=None)).rstrip("/")

    @property
    def remote(self) -> bool:
        """Whether texts leave this machine."""
        host = self.url.host
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host != "localhost"


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    finish_reason: FinishReason
    tokens: int | None


class _Passing(Exception):
    """What another try may mend. `wait`: seconds that the server asks for. `unreached`: nobody listens there."""

    def __init__(self, why: str, *, wait: float = 0.0, unreached: bool = False) -> None:
        super().__init__(why)
        self.wait, self.unreached = wait, unreached


class _RefusedOrder(Exception):
    """The server answers others, and refuses what this one says: too long, or against its rules."""


class _NotFound(Exception):
    """The server knows no such path or model."""


class OpenAIEngine:
    """R-Gen on a server. Without a codec nothing is trimmed, and no control token is found in what is written."""

    def __init__(self, server: Server, codec: Codec | None, question: LabelQuestion, max_seq_length: int) -> None:
        self.server, self.codec, self.question, self.max_seq_length = server, codec, question, max_seq_length
        self._key = _read_key(server.key_variable)
        self._reached = self._answered = False
        self._random = random.Random()  # pauses differ from run to run, and draw from nobody else's generator
        self.model = server.model or self._only_model()

    @property
    def remote(self) -> bool:
        """Whether texts leave this machine."""
        return self.server.remote

    def identity(self) -> dict[str, str]:
        return {"engine": "openai", "model": self.model, "server": self.server.shown}

    def write(self, orders: Iterable[ReasoningRequest], sampling: Sampling) -> Iterator[GeneratedReasoning]:
        """As `Engine.write`. Where an order fails, what was taken with it is finished before its error is raised.

        Raises UserError where the server, the key or the model is not there, Failure where it does not answer."""
        orders = iter(orders)
        running: dict[Future[_Answer], tuple[str, int]] = {}
        done: SimpleQueue[Future[_Answer]] = SimpleQueue()
        failed: RirError | None = None
        refused: list[GeneratedReasoning] = []
        ending = asyncio.Event()
        with self._client() as (client, loop):
            while True:
                for order in islice(orders, 0 if failed else self.server.concurrency - len(running)):
                    fitted, trimmed = fitted_order(order, self.question, self.codec, self._room(sampling))
                    body = self._body(fitted, sampling)
                    future = asyncio.run_coroutine_threadsafe(self._ask(client, body, ending), loop)
                    running[future] = order.key, trimmed
                    future.add_done_callback(done.put)
                if not running:
                    break
                future = done.get()
                key, trimmed = running.pop(future)
                try:
                    answer = future.result()
                except _RefusedOrder as refusal:
                    refused.append(GeneratedReasoning(key, "", 0, "stop", trimmed=trimmed, refused=str(refusal)))
                    if not self._answered and len(refused) >= _ALL_REFUSED:
                        failed = failed or Failure(f"{self.server.shown} refuses every request: {refusal}")
                        loop.call_soon_threadsafe(ending.set)
                except RirError as error:
                    failed = failed or error
                    loop.call_soon_threadsafe(ending.set)
                else:
                    self._answered = True
                    yield replace(self._written(key, answer), trimmed=trimmed)
                if self._answered:
                    yield from refused
                    refused.clear()
        if failed:
            raise failed
        yield from refused

    def close(self) -> None:
        return

    def _room(self, sampling: Sampling) -> int:
        return rgen_room(self.max_seq_length, sampling.max_tokens)

    def _body(self, order: ReasoningRequest, sampling: Sampling) -> dict[str, Any]:
        # OpenAI refuses the names that it does not know. mlx_lm.server answers what has a seed one by one.
        extras = {name: getattr(sampling, name) for name in ("min_p", "repetition_penalty")}
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self.question.prompt(order).message}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "stream": False,
            **({"seed": order.seed % (1 << _SEED_BITS)} if sampling.temperature > 0 else {}),
            **{name: value for name, value in extras.items() if value != getattr(_DEFAULT, name)},
        }

    def _written(self, key: str, answer: _Answer) -> GeneratedReasoning:
        if self.codec is None:
            counted, control = len(answer.text.split()), False
        else:
            ids = self.codec.constant(answer.text)
            counted, control = len(ids), self.codec.has_control(ids)
        tokens = counted if answer.tokens is None else answer.tokens
        return GeneratedReasoning(key, answer.text, tokens, answer.finish_reason, control)

    @contextmanager
    def _client(self) -> Iterator[tuple[httpx2.AsyncClient, asyncio.AbstractEventLoop]]:
        """A client and the loop it runs on. What still runs there is cancelled at the end."""
        client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(self.server.timeout, connect=min(_LONGEST_CONNECT, self.server.timeout)),
            limits=httpx2.Limits(max_connections=self.server.concurrency),
            trust_env=self.remote,  # a proxy from the environment is not for this machine
        )
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve, args=(loop, client), name="rir-mlx-openai", daemon=True)
        thread.start()
        try:
            yield client, loop
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_LEAVING)

    def _only_model(self) -> str:
        with self._client() as (client, loop):
            listing = self._insist(lambda: self._models(client), asyncio.Event())
            try:
                models = asyncio.run_coroutine_threadsafe(listing, loop).result()
            except (_NotFound, _RefusedOrder):
                models = []
        if len(models) == 1:
            return models[0]
        # The first of several would often be another model than the one in memory: mlx_lm.server and Ollama list
        # whatever lies on the disk, and load what is asked for.
        found = f"lists several models: {', '.join(models)}" if models else "lists no model"
        raise UserError(f"{self.server.shown} {found}.", hint="Name the model that is to write.")

    async def _ask(self, client: httpx2.AsyncClient, body: dict[str, Any], ending: asyncio.Event) -> _Answer:
        try:
            return await self._insist(lambda: self._complete(client, body), ending)
        except _NotFound as error:
            what = f"{self.server.shown} has no model {self.model!r}: {error}"
        models: list[str] = []
        with suppress(_Passing, _NotFound, _RefusedOrder, RirError):
            models = await self._models(client)
        hint = f"It lists {', '.join(models)}.{did_you_mean(self.model, models)}" if models else "It lists no models."
        if not self.server.url.path.endswith("/v1"):
            hint += " The base_url of most servers ends in /v1."
        raise UserError(what, hint=hint)

    async def _insist(self, attempt: Callable[[], Awaitable[T]], ending: asyncio.Event) -> T:
        """`attempt` until it succeeds, with longer and longer pauses. Once `ending` is set nothing is repeated."""
        tries = 0
        while True:
            tries += 1
            try:
                return await attempt()
            except _Passing as passing:
                if passing.unreached and not self._reached:
                    if tries == 2:
                        raise self._no_server(passing) from None
                    pause = _QUICK_PAUSE
                elif tries > self.server.retries or ending.is_set():
                    what = f"{self.server.shown} did not answer in {tries} tries, the last time: {passing}"
                    raise Failure(what, hint=_AGAIN) from None
                else:
                    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (tries - 1))
                    pause = passing.wait or longest * self._random.uniform(0.5, 1)
            with suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), pause)

    def _no_server(self, passing: _Passing) -> NoServer:
        return NoServer(
            f"No server answers at {self.server.shown}: {passing}",
            hint=f"Start one, for instance `mlx_lm.server --model {self.server.model or 'FOLDER'}`, or mend base_url.",
        )

    async def _complete(self, client: httpx2.AsyncClient, body: dict[str, Any]) -> _Answer:
        data = await self._send(client, "POST", "/chat/completions", body)
        try:
            choice = data["choices"][0]
            text = choice["message"].get("content")
            tokens = (data.get("usage") or {}).get("completion_tokens")
            reason: FinishReason = "length" if choice.get("finish_reason") == "length" else "stop"
        except (LookupError, TypeError, AttributeError):
            raise _Passing(f"an answer without a message: {self._clean(data)}") from None
        if not isinstance(text, str | None):
            raise _Passing(f"a message whose content is no text: {self._clean(text)}")
        return _Answer(_THOUGHT.sub("", _whole(text or "")), reason, tokens if isinstance(tokens, int) else None)

    async def _models(self, client: httpx2.AsyncClient) -> list[str]:
        """The ids that the server lists, without the adapters on a model that it lists too (vLLM's `parent`)."""
        data = await self._send(client, "GET", "/models")
        try:
            return [str(one["id"]) for one in data["data"] if not one.get("parent")]
        except (LookupError, TypeError, AttributeError):
            raise _Passing(f"a list of models that is none: {self._clean(data)}") from None

    async def _send(
        self, client: httpx2.AsyncClient, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The object that the server answers with."""
        url = self.server.url
        url = url.copy_with(path=url.path.rstrip("/") + path)
        try:
            # httpx2's own timeout starts anew with every byte.
            async with asyncio.timeout(self.server.timeout):
                response = await client.request(method, url, json=body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise _Passing(self._clean(error) or "no connection", unreached=True) from None
        except (httpx2.TimeoutException, TimeoutError):
            slow = "lower augment.concurrency or raise augment.timeout for a slow server"
            raise _Passing(f"no answer within {self.server.timeout:g} s ({slow})") from None
        except httpx2.RequestError as error:
            raise _Passing(f"{type(error).__name__}: {self._clean(error)}") from None
        self._reached = True
        if not response.is_success:
            raise self._refused(response)
        try:
            data = response.json()
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise _Passing(f"an answer that is no JSON object: {self._clean(response.text)}")
        return data

    def _refused(self, response: httpx2.Response) -> Exception:
        status, (message, code) = response.status_code, _message(response)
        what = f"status {status}: {self._clean(message)}"
        if status in _PASSING_STATUS or status >= 500:
            return _Passing(what, wait=_retry_after(response))
        if status in (401, 403):
            sent = "refused the key" if self._key else "was asked without a key"
            hint = f"Set the environment variable {self.server.key_variable} to a key that it accepts."
            return UserError(f"{self.server.shown} {sent}, {what}", hint=hint)
        if status == 404 or code == "model_not_found":
            return _NotFound(what)
        if status in _ORDERS_FAULT:
            return _RefusedOrder(what)
        return Failure(f"{self.server.shown} refused a request, {what}")

    def _clean(self, what: object) -> str:
        """The beginning of what a server or a library says, on one line and without the key."""
        text = str(what).replace(self._key, "***") if self._key else str(what)
        text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
        return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"


def fitted_order(
    order: ReasoningRequest, question: LabelQuestion, codec: Codec | None, room: int
) -> tuple[ReasoningRequest, int]:
    """The order with the end of its text cut where the prompt takes more than `room` tokens, and how many it lost.
    Without a codec nothing is cut."""
    lost = 0
    while codec is not None and (over := codec.encode(question.prompt(order), room).trimmed):
        spans = codec.offsets(order.text)
        # A character may take several tokens: the cut is where the first lost token's character starts.
        order = replace(order, text=order.text[: spans[-over][0]])
        lost += over
    return order, lost


def _read_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(
            f"The environment variable {variable} holds characters that no key has.", hint="Copy the key once more."
        )
    return key


def _whole(text: str) -> str:
    """Without half characters (lone surrogates), which JSON can hold and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _message(response: httpx2.Response) -> tuple[str, object]:
    """What the server says of its refusal, and the code that it gives."""
    if response.has_redirect_location:
        return f"a redirect to {response.headers['location']}, which is not followed", None
    try:
        error = response.json()["error"]
    except (ValueError, LookupError, TypeError):
        return response.text, None
    return (str(error.get("message")), error.get("code")) if isinstance(error, dict) else (str(error), None)


def _retry_after(response: httpx2.Response) -> float:
    """Seconds, 0 where the header is missing, or a date, which no server of this kind sends."""
    value = response.headers.get("retry-after", "").strip()
    return min(float(value), _LONGEST_RETRY_AFTER) if value.isascii() and value.isdigit() else 0.0


def _serve(loop: asyncio.AbstractEventLoop, client: httpx2.AsyncClient) -> None:
    """Run the loop until it is stopped, then cancel what is left on it."""
    loop.run_forever()
    loop.run_until_complete(_leave(client))
    loop.close()


async def _leave(client: httpx2.AsyncClient) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()
