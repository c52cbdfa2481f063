"""HTTP requests to a server, with retries. If the server limits the rate, all requests pause together."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import httpx2

from rir_mlx.augmentation.engines import answers
from rir_mlx.augmentation.engines.address import Server
from rir_mlx.augmentation.engines.limits import LONGEST_WAIT
from rir_mlx.errors import Failure, NoServer, RirError, UserError
from rir_mlx.progress import shortened

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_QUICK_PAUSE = 0.2
"""Seconds before the second and last try to reach a server that was never reached."""
_SHOWN_WAIT = 30.0
_MOST_PAUSES = 30
"""Consecutive pauses without an answer after which the job ends."""
_OVERTAKEN, _MOST_OVERTAKEN = 3, 15
"""How often others may be answered before a request, at a limited rate, until its pauses are its own, and until it is
given up: its own size may be over the limit."""
_FOREIGN_TRIES = 3
"""Tries at an address that never answered in this protocol."""
_LONGEST_CONNECT = 10.0
_LEAVING = 5.0
"""Seconds to wait for cancelled requests; the thread is a daemon and does not delay the exit after that."""
_PROXIES = frozenset({"ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"})
_SECRET = 8
"""Characters that a key has at least, unless it is a placeholder."""
_EXCERPT = 300
_LARGEST = 1 << 24
"""Bytes of an answer, unpacked. A longer one is no answer to what is asked here."""
_AGAIN = "Run the same command again; it continues."


_REPEATED = (
    answers.RateLimited,
    answers.Unreached,
    answers.ServerBusy,
    answers.RequestFailed,
    answers.NotAnAnswer,
)
"""Errors that another try may overcome."""


@dataclass
class _Tries:
    """The tries of one request: `failed` ones, and those that met a limited rate since others were last answered
    (`limited`). A server that names a time, or answers other requests meanwhile, will get to this request too; how
    often others were answered first is `overtaken`. `answered` are all answers, when it was tried last."""

    answered: int
    failed: int = 0
    limited: int = 0
    overtaken: int = 0
    made: int = 0

    def count(self, problem: Exception, answered: int) -> None:
        self.made += 1
        if not isinstance(problem, answers.RateLimited):
            self.failed += 1
        elif answered > self.answered:
            self.limited, self.overtaken = 0, self.overtaken + (not problem.wait)
        else:
            self.limited += not problem.wait
        self.answered = answered

    def of(self, problem: Exception) -> int:
        """How many tries count towards the end of the patience with such a problem."""
        return self.limited if isinstance(problem, answers.RateLimited) else self.failed


def _growing(tries: int) -> float:
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** max(0, tries - 1))


class SetAside(Exception):
    """A request that kept failing while others may succeed."""


class RateLimit:
    """The pause that a server asked for, shared by all requests."""

    def __init__(self, shown: str, tell: Callable[[str], None]) -> None:
        self.shown, self.tell = shown, tell
        self.until, self.pauses = 0.0, 0

    async def wait(self, ending: asyncio.Event) -> None:
        """Wait until the pause is over; requests then start slightly apart. Returns at once if `ending` is set."""
        while (left := self.until - time.monotonic()) > 0 and not ending.is_set():
            await _sleep(left + random.uniform(0, min(1.0, left / 10)), ending)

    def hold(self, seconds: float, detail: str, *, exhausted: bool = False) -> None:
        """Hold back all requests for `seconds`. Raises Failure if that is too long, or the quota is `exhausted`."""
        if exhausted or seconds > LONGEST_WAIT:
            names = f" and names a wait of {min(seconds, 1e9):,.0f} s" if seconds > LONGEST_WAIT else ""
            raise Failure(f"{self.shown} takes no more requests for now{names}, {detail}", hint=_AGAIN)
        self.until = max(self.until, time.monotonic() + seconds)

    def pause(self, limit: answers.RateLimited, seconds: float, detail: str) -> None:
        """Hold back all requests, longer with each pause. Raises Failure if waiting does not help."""
        fresh = time.monotonic() >= self.until
        self.hold(seconds, detail, exhausted=limit.exhausted)
        if fresh:
            self.pauses += 1
            if seconds > _SHOWN_WAIT:
                self.tell(f"{self.shown} limits the rate of requests: waiting {seconds:.0f} s.")
        if self.pauses > _MOST_PAUSES:
            raise Failure(f"{self.shown} still limits the rate after {self.pauses} pauses, {detail}", hint=_AGAIN)
        if self.pauses > 1:  # the named time was too short
            seconds = max(seconds, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self.pauses - 2)))
        self.hold(seconds, detail)


class ServerClient:
    """Sends requests to one server, with retries. `tell` receives messages for the user."""

    def __init__(self, server: Server, key: str, tell: Callable[[str], None]) -> None:
        self.server, self._key = server, key
        self.limit = RateLimit(server.shown, tell)
        self.answered = 0
        self._reached = False
        self._random = random.Random()  # pauses differ from run to run, and leave other generators alone

    @contextmanager
    def open(self) -> Iterator[tuple[httpx2.AsyncClient, asyncio.AbstractEventLoop]]:
        """A connection pool and its event loop. Requests still running at the end are cancelled."""
        client = self._pool()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve, args=(loop, client), name="rir-mlx-openai", daemon=True)
        thread.start()
        try:
            yield client, loop
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_LEAVING)

    def _pool(self) -> httpx2.AsyncClient:
        """Raises UserError if the proxy that the environment names cannot be used."""
        try:
            return httpx2.AsyncClient(
                verify=_certificates(
                    self.server.remote, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
                ),
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=httpx2.Timeout(self.server.timeout, connect=min(_LONGEST_CONNECT, self.server.timeout)),
                limits=httpx2.Limits(max_connections=self.server.concurrency),
                trust_env=self.server.remote,  # a proxy from the environment is not for this machine
                follow_redirects=False,  # the key is meant for this host alone
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            named = [name for name in os.environ if name.upper() in _PROXIES and os.environ[name]]
            hint = "Unset them, or name a proxy like http://127.0.0.1:3128."
            if isinstance(error, ImportError):
                hint += " A SOCKS proxy needs the package socksio."
            what = f"The proxy settings in the environment cannot be used: {', '.join(sorted(named))}."
            raise UserError(what, hint=hint) from None

    async def insist(self, attempt: Callable[[], Awaitable[T]], ending: asyncio.Event) -> T:
        """Call `attempt` until it succeeds, with growing pauses. Once `ending` is set, nothing is retried.

        Raises SetAside if only the request may be at fault, Failure if the server is, NoServer if none ever answered,
        UserError if the address or the key is wrong; RequestRefused, NotFound and UnknownParameter as `attempt`
        does."""
        tries, answered_before = _Tries(self.answered), self.answered
        while True:
            await self.limit.wait(ending)
            try:
                result = await _read(attempt)
            except _REPEATED as problem:
                tries.count(problem, self.answered)
                if ending.is_set():
                    raise self._failure(problem, tries.made) from None
                if tries.of(problem) >= self._most_tries(problem) or tries.overtaken > _MOST_OVERTAKEN:
                    raise self._given_up(problem, tries.made, self.answered > answered_before) from None
                await self._pause_after(problem, tries, ending)
            except answers.Unauthorised as error:
                raise self._unauthorised(error) from None
            except answers.Unusable as error:
                raise Failure(f"{self.server.shown} refused a request, {self.clean(error)}") from None
            else:
                self.answered += 1
                self.limit.pauses = 0
                return result

    def _most_tries(self, problem: Exception) -> int:
        match problem:
            case answers.Unreached() if not self._reached:
                return 2
            case answers.NotAnAnswer() if not self.answered:
                return min(_FOREIGN_TRIES, self.server.request_retries + 1)
            case answers.RequestFailed() | answers.NotAnAnswer():
                return self.server.request_retries + 1
            case _:
                return self.server.retries + 1

    def _given_up(self, problem: Exception, tries: int, others_answered: bool) -> Exception:
        """The error of a request that is given up."""
        match problem:
            case answers.Unreached() if not self._reached:
                return self._no_server(problem)
            case answers.NotAnAnswer() if not self.answered:
                return self._foreign(problem)
            case answers.RequestFailed() | answers.NotAnAnswer() | answers.GatewayFailed():
                return SetAside(self._tried(problem, tries))
            case _ if others_answered:
                return SetAside(self._tried(problem, tries))
        return self._failure(problem, tries)

    def _tried(self, problem: Exception, tries: int) -> str:
        return f"no answer in {tries} tries, the last time: {self.clean(problem)}"

    def _failure(self, problem: Exception, tries: int) -> Failure:
        what = f"{self.server.shown} did not answer in {tries} tries, the last time: {self.clean(problem)}"
        return Failure(what, hint=_AGAIN)

    async def _pause_after(self, problem: Exception, tries: _Tries, ending: asyncio.Event) -> None:
        pause = _growing(tries.of(problem)) * self._random.uniform(0.5, 1)
        if isinstance(problem, answers.RateLimited):
            if tries.overtaken <= _OVERTAKEN or problem.wait or problem.exhausted:
                self.limit.pause(problem, problem.wait or pause, self.clean(problem))
                return
            pause = _growing(tries.overtaken - _OVERTAKEN)  # the limit may be about this request: others go on
        if isinstance(problem, answers.ServerBusy):
            self.limit.hold(min(problem.wait, LONGEST_WAIT), self.clean(problem))
        if isinstance(problem, answers.Unreached) and not self._reached:
            pause = _QUICK_PAUSE
        await _sleep(pause, ending)

    async def send(
        self,
        client: httpx2.AsyncClient,
        path: str,
        body: dict[str, Any] | None = None,
        optional: frozenset[str] = frozenset(),
    ) -> dict[str, Any]:
        """The object in the server's answer. `optional` are parameters of the body that may be left out."""
        url = self.server.url
        url = url.copy_with(path=url.path.rstrip("/") + path)
        try:
            # httpx2's own timeout restarts with every byte.
            async with (
                asyncio.timeout(self.server.timeout),
                client.stream("GET" if body is None else "POST", url, json=body) as answer,
            ):
                response = await _whole(answer)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise answers.Unreached(str(error) or "no connection") from None
        except (httpx2.TimeoutException, TimeoutError):
            slow = "lower augment.concurrency or raise augment.timeout for a slow server"
            raise answers.RequestFailed(f"no answer within {self.server.timeout:g} s ({slow})") from None
        except httpx2.RequestError as error:
            raise answers.RequestFailed(f"{type(error).__name__}: {error}") from None
        self._reached = True
        if not response.is_success:
            raise answers.problem_of(response, optional)
        return answers.object_in(response)

    def check_secret(self, text: str) -> None:
        """Raises RequestFailed if an answer repeats the key. A word of letters ("ollama") is taken for no secret."""
        if len(self._key) >= _SECRET and not self._key.isalpha() and self._key in text:
            raise answers.RequestFailed(f"an answer that repeats the key: {text}")

    def clean(self, what: object) -> str:
        """The start of an error message, on one line and without the key."""
        text = str(what).replace(self._key, "***") if self._key else str(what)
        printable = "".join(letter if letter.isprintable() else " " for letter in text)
        return shortened(" ".join(printable.split()), _EXCERPT)

    def _no_server(self, problem: Exception) -> NoServer:
        model = self.server.model or "FOLDER"
        return NoServer(
            f"No server answers at {self.server.shown}: {self.clean(problem)}",
            hint=f"Start one, for instance `mlx_lm.server --model {model}`, or correct base_url.",
        )

    def _foreign(self, problem: Exception) -> UserError:
        return UserError(
            f"{self.server.shown} is not the address of an OpenAI-compatible server: {self.clean(problem)}",
            hint=self.server.likely_address,
        )

    def _unauthorised(self, problem: Exception) -> UserError:
        sent = "refused the key" if self._key else "was asked without a key"
        variable = self.server.key_variable
        hint = f"Set the environment variable {variable} to a key that it accepts."
        return UserError(f"{self.server.shown} {sent}, {self.clean(problem)}", hint=hint)


async def _read(attempt: Callable[[], Awaitable[T]]) -> T:
    """What `attempt` returns. An answer that nobody foresaw fails its request, and not the job."""
    try:
        return await attempt()
    except (answers.Problem, RirError):
        raise
    except Exception as error:
        raise answers.RequestFailed(f"an answer that cannot be read: {type(error).__name__}: {error}") from error


async def _whole(answer: httpx2.Response) -> httpx2.Response:
    """The answer with its body read and unpacked. Raises RequestFailed if that is too large: a few bytes of gzip can
    stand for more than memory holds."""
    held = bytearray()
    async for part in answer.aiter_bytes():
        held += part
        if len(held) > _LARGEST:
            raise answers.RequestFailed(f"status {answer.status_code}: an answer of more than {_LARGEST >> 20} MB")
    packed = (b"content-encoding", b"content-length", b"transfer-encoding")
    headers = [pair for pair in answer.headers.raw if pair[0].lower() not in packed]
    return httpx2.Response(answer.status_code, headers=headers, content=bytes(held), request=answer.request)


@cache
def _certificates(trust_env: bool, *_: str | None) -> ssl.SSLContext:
    """The certificates that servers are checked by, of the files that the environment names; read once a process.
    That takes some 50 ms, and a job opens several pools."""
    return httpx2.create_ssl_context(trust_env=trust_env)


async def _sleep(seconds: float, ending: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(ending.wait(), seconds)


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
