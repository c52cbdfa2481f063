"""A server that speaks OpenAI's chat completions: vLLM, SGLang, mlx_lm.server, Ollama, or a hosted one.

The server has the model and applies its own chat template. Requests run on an event loop in a thread of their own, so
that leaving `write` early cancels them at once. Texts are trimmed and counted in the caller's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from queue import SimpleQueue
from typing import Any

import httpx2

from rir_mlx.augmentation.engines.address import Server
from rir_mlx.augmentation.engines.answers import (
    Answer,
    NotFound,
    RequestRefused,
    UnknownParameter,
    read_answer,
)
from rir_mlx.augmentation.engines.base import GeneratedReasoning, ReasoningRequest
from rir_mlx.augmentation.engines.client import ServerClient, SetAside
from rir_mlx.backends.base import Sampling
from rir_mlx.errors import Failure, RirError, UserError, did_you_mean
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import LabelQuestion
from rir_mlx.prompting.room import rgen_room

_MOST_FAILURES = 16
"""Refusals and failures in a row after which the server, not the requests, may be at fault."""
_SEED_BITS = 31
"""Seeds that every server takes: some keep a seed in 32 bits, signed or not, and JSON readers may round above 2^53."""
_DEFAULT = Sampling()
_RENAMED = {"max_tokens": "max_completion_tokens"}


class OpenAIEngine:
    """A server's own model. Without a codec no text is trimmed. `tell` receives messages for the user.

    Raises UserError if no model is named and the server does not list exactly one."""

    def __init__(
        self,
        server: Server,
        codec: Codec | None,
        question: LabelQuestion,
        max_seq_length: int,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.server, self.codec, self.question, self.max_seq_length = server, codec, question, max_seq_length
        self._client = ServerClient(server, server.read_key(), tell)
        self._parameters = RequestParameters(tell, server.omitted)
        self._answered: tuple[ReasoningRequest, Sampling] | None = None
        self.proven = False
        """Whether the server answered such requests in an earlier run. If so, the requests it fails on are at fault."""
        self.model = server.model or self._only_model()

    def identity(self) -> dict[str, str]:
        return {"engine": "openai", "model": self.model, "server": self.server.shown}

    def write(self, requests: Iterable[ReasoningRequest], sampling: Sampling) -> Iterator[GeneratedReasoning]:
        """Like `Engine.write`. A request that the server refuses, or keeps failing on, is set aside with the server's
        message. If the server itself fails, running requests are finished before the error is raised.

        Raises UserError if the server, the key or the model is wrong, Failure if the server does not answer."""
        requests = iter(requests)
        running: dict[Future[Answer], tuple[ReasoningRequest, int]] = {}
        done: SimpleQueue[Future[Answer]] = SimpleQueue()
        failed: RirError | None = None
        aside: list[GeneratedReasoning] = []
        ending = asyncio.Event()
        with self._client.open() as (client, loop):
            while True:
                for request in islice(requests, 0 if failed else self.server.concurrency - len(running)):
                    fitted, trimmed = fitted_request(request, self.question, self.codec, self._room(sampling))
                    future = asyncio.run_coroutine_threadsafe(self._ask(client, fitted, sampling, ending), loop)
                    running[future] = fitted, trimmed
                    future.add_done_callback(done.put)
                if not running:
                    break
                future = done.get()
                request, trimmed = running.pop(future)
                try:
                    answer = future.result()
                except (RequestRefused, SetAside) as problem:
                    aside.append(self._set_aside(request.key, trimmed, problem))
                except RirError as error:
                    failed = failed or error
                else:
                    self._answered = request, sampling
                    yield replace(self._generated(request.key, answer), trimmed=trimmed)
                    yield from aside
                    aside.clear()
                if not failed and len(aside) >= _MOST_FAILURES:
                    if not self._still_answers(client, loop, ending):
                        failed = self._hopeless(aside)
                    else:
                        yield from aside
                        aside.clear()
                if failed:
                    loop.call_soon_threadsafe(ending.set)
        if not failed and not self._answered and not self.proven and any(result.failed for result in aside):
            failed = self._hopeless(aside)
        if failed:
            raise failed
        yield from aside

    def close(self) -> None:
        return

    def _still_answers(
        self, client: httpx2.AsyncClient, loop: asyncio.AbstractEventLoop, ending: asyncio.Event
    ) -> bool:
        """Whether the server still answers a request that it answered before."""
        if self._answered is None:
            return self.proven
        with suppress(RequestRefused, SetAside, RirError):
            asyncio.run_coroutine_threadsafe(self._ask(client, *self._answered, ending), loop).result()
            return True
        return False

    def _room(self, sampling: Sampling) -> int:
        return rgen_room(self.max_seq_length, sampling.max_tokens)

    def _set_aside(self, key: str, trimmed: int, problem: Exception) -> GeneratedReasoning:
        message = self._client.clean(problem)
        if isinstance(problem, RequestRefused):
            return GeneratedReasoning(key, "", 0, "stop", trimmed=trimmed, refused=message)
        return GeneratedReasoning(key, "", 0, "stop", trimmed=trimmed, failed=message)

    def _hopeless(self, aside: list[GeneratedReasoning]) -> Failure:
        message = aside[-1].refused or aside[-1].failed
        what = "refuses" if aside[-1].refused else "fails on"
        return Failure(
            f"{self.server.shown} {what} every request: {message}", hint="Run the same command again; it continues."
        )

    def _generated(self, key: str, answer: Answer) -> GeneratedReasoning:
        control, tokens = answer.control, answer.tokens
        if self.codec is None:
            counted = len(answer.text.split())
        else:
            ids = self.codec.constant(answer.text)
            counted, control = len(ids), control or self.codec.has_control(ids)
        return GeneratedReasoning(
            key, answer.text, counted if tokens is None else tokens, answer.finish_reason, control
        )

    def _only_model(self) -> str:
        with self._client.open() as (client, loop):
            listing = self._client.insist(lambda: self._models(client), asyncio.Event())
            try:
                models = asyncio.run_coroutine_threadsafe(listing, loop).result()
            except (NotFound, RequestRefused, SetAside):
                models = []
        if len(models) == 1:
            return models[0]
        # The first of several may not be the one in memory: mlx_lm.server and Ollama list every model on the disk, and
        # load the one asked for.
        found = f"lists several models: {', '.join(models)}" if models else "lists no model"
        hint = "Set augment.server_model to the model to use."
        if not models and not self.server.url.path.endswith("/v1"):
            hint += f" {self.server.likely_address}"
        raise UserError(f"{self.server.shown} {found}.", hint=hint)

    async def _ask(
        self, client: httpx2.AsyncClient, request: ReasoningRequest, sampling: Sampling, ending: asyncio.Event
    ) -> Answer:
        try:
            return await self._client.insist(lambda: self._complete(client, request, sampling), ending)
        except NotFound as error:
            what = f"{self.server.shown} has no model {self.model!r}: {self._client.clean(error)}"
        models: list[str] = []
        with suppress(Exception):  # the list is only a hint
            models = await self._models(client)
        hint = f"It lists {', '.join(models)}.{did_you_mean(self.model, models)}" if models else "It lists no models."
        if not self.server.url.path.endswith("/v1"):
            hint += f" {self.server.likely_address}"
        raise UserError(what, hint=hint)

    async def _complete(self, client: httpx2.AsyncClient, request: ReasoningRequest, sampling: Sampling) -> Answer:
        message = {"role": "user", "content": self.question.of_row(request.text, request.label).message}
        while True:
            parameters = self._parameters.of(sampling, request.seed)
            body = {"model": self.model, "messages": [message]} | parameters
            try:
                data = await self._client.send(client, "/chat/completions", body, frozenset(parameters))
                answer = read_answer(data)
                self._client.check_secret(answer.text)
                return answer
            except UnknownParameter as refusal:
                self._parameters.learn(refusal)
                if self._parameters.of(sampling, request.seed) == parameters:
                    raise RequestRefused(str(refusal)) from None

    async def _models(self, client: httpx2.AsyncClient) -> list[str]:
        """The ids that the server lists, without the adapters on a model that it lists too (vLLM's `parent`)."""
        data = (await self._client.send(client, "/models")).get("data")
        if not isinstance(data, list):
            raise NotFound(f"an invalid list of models: {data}")
        return [
            self._client.clean(model["id"])
            for model in data
            if isinstance(model, dict) and model.get("id") and not model.get("parent")
        ]


def fitted_request(
    request: ReasoningRequest, question: LabelQuestion, codec: Codec | None, room: int
) -> tuple[ReasoningRequest, int]:
    """The request, the end of its text cut so that the prompt fits into `room` tokens, and how many tokens were cut.
    Without a codec nothing is cut."""
    lost = 0
    while codec is not None and (over := codec.encode(question.of_row(request.text, request.label), room).trimmed):
        spans = codec.offsets(request.text)
        # A character may take several tokens: cut where the character of the first lost token starts.
        request = replace(request, text=request.text[: spans[-over][0]])
        lost += over
    return request, lost


class RequestParameters:
    """What a request holds besides the message. `omitted` are never sent. A parameter that the server refuses as
    unknown is left out of all later requests, and the user is told once."""

    def __init__(self, tell: Callable[[str], None], omitted: Iterable[str] = ()) -> None:
        self.tell, self.omitted = tell, set(omitted)
        self.renamed: dict[str, str] = {}

    def of(self, sampling: Sampling, seed: int) -> dict[str, Any]:
        # OpenAI refuses names that it does not know. mlx_lm.server answers requests with a seed one by one.
        extras = {name: getattr(sampling, name) for name in ("min_p", "repetition_penalty")}
        values: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "stream": False,
            **({"seed": seed % (1 << _SEED_BITS)} if sampling.temperature > 0 else {}),
            **{name: value for name, value in extras.items() if value != getattr(_DEFAULT, name)},
        }
        return {self.renamed.get(name, name): value for name, value in values.items() if name not in self.omitted}

    def learn(self, refusal: UnknownParameter) -> None:
        """Leave out, or rename, what the server does not take."""
        original = {new: old for old, new in self.renamed.items()}
        for sent in sorted(refusal.names):
            name = original.get(sent, sent)
            if name in self.omitted or self.renamed.get(name, name) != sent:
                continue  # learned from another request's refusal
            if sent in _RENAMED:
                self.renamed[name] = _RENAMED[sent]
                self.tell(f"the server does not take {sent}; {_RENAMED[sent]} is sent instead.")
            else:
                self.omitted.add(name)
                self.tell(
                    f"the server does not take {sent}; it is left out. "
                    f"augment.omit_parameters=[{name}] leaves it out from the start."
                )
