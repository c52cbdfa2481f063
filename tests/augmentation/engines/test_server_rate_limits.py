"""A server that limits the rate of requests."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formatdate
from typing import Any

import httpx2
import pytest
from server_requests import QUESTION, engine_at, make_orders, write
from server_stand_in import Reply, StandInServer, chat, echo

from rir_mlx.augmentation.engines import answers, client
from rir_mlx.augmentation.engines.address import Server
from rir_mlx.augmentation.engines.limits import is_exhausted, retry_after
from rir_mlx.augmentation.engines.server import OpenAIEngine
from rir_mlx.errors import Failure

NOW = datetime.now(UTC)


def test_the_pause_is_what_the_server_asks_for() -> None:
    answers = iter([(429, {"Retry-After": "1"}, b"slow down"), (429, {"Retry-After": "Fri, 31 Dec"}, b""), chat("a")])
    started = time.monotonic()
    with StandInServer(lambda body: next(answers)).running() as url:
        write(engine_at(url), make_orders(1))
    assert 1 <= time.monotonic() - started < 3


def in_seconds(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "message", "least", "most"),
    [
        ({"Retry-After": "0.5"}, "", 0.5, 2),
        ({"retry-after-ms": "400", "Retry-After": "30"}, "", 0.4, 2),
        ({"Retry-After": "date"}, "", 0.9, 4),
        ({}, "Rate limit reached. Please try again in 500ms.", 0.5, 2),
        ({}, "Please retry after 0.3 seconds", 0.3, 2),
    ],
)
def test_a_named_time_is_waited_for_in_every_way_of_naming_it(
    headers: dict[str, str], message: str, least: float, most: float
) -> None:
    if headers.get("Retry-After") == "date":
        headers = {"Retry-After": in_seconds(2)}  # dates count whole seconds
    replies = iter([(429, headers, {"error": {"message": message}}), chat("a")])
    started = time.monotonic()
    with StandInServer(lambda body: next(replies)).running() as url:
        write(engine_at(url, retries=0), make_orders(1))
    assert least <= time.monotonic() - started < most


def windowed(limit: int, seconds: float, headers: dict[str, str]) -> StandInServer:
    """A server that takes so many requests in a window of time, and answers 429 to the rest."""
    lock, window = threading.Lock(), [0.0, 0.0]

    def reply(body: dict[str, Any]) -> Reply:
        with lock:
            now = time.monotonic()
            if now - window[0] >= seconds:
                window[:] = [now, 0]
            window[1] += 1
            left = seconds - (now - window[0])
            if window[1] <= limit:
                return echo(body)
        named = {name: value.format(left=left) for name, value in headers.items()}
        return 429, named, {"error": {"message": "slow down"}}

    return StandInServer(reply)


@pytest.mark.slow
@pytest.mark.parametrize("headers", [{"Retry-After": "{left:.3f}"}, {"retry-after-ms": "1"}, {}])
def test_eighty_rows_pass_a_server_of_few_requests_at_the_default_concurrency(
    headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request counted its tries by itself: most of 16 were used up while others were let in."""
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.05)  # to the window what half a second is to one of five
    monkeypatch.setattr(client, "_LONGEST_PAUSE", 1.0)
    server = windowed(10, 0.3, headers)
    with server.running() as url:
        written = write(engine_at(url, concurrency=16), make_orders(80))
    assert all(result.text and not result.refused and not result.failed for result in written.values())


def test_a_request_that_others_overtake_in_every_window_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that others had between two of its tries did not count: seven lost windows ended a row."""
    there = client.ServerClient(Server("http://127.0.0.1:9", "tiny", retries=2), "", lambda text: None)
    tries = iter(range(15))

    async def overtaken(seconds: float, ending: asyncio.Event) -> None:
        there.answered += 1
        there.limit.until = 0.0

    async def attempt() -> str:
        if next(tries) < 14:
            raise answers.RateLimited("slow down")
        return "a"

    async def insist() -> str:
        return await there.insist(attempt, asyncio.Event())

    monkeypatch.setattr(client, "_sleep", overtaken)
    assert asyncio.run(insist()) == "a"


def test_a_request_that_is_limited_whatever_others_get_holds_them_up_a_few_times_and_is_set_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is too large for its server's limit slowed the whole job down, as long as others were answered."""
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(client, "_LONGEST_PAUSE", 0.1)
    held: list[float] = []
    pause = client.RateLimit.pause

    def counted(self: client.RateLimit, *given: Any) -> None:
        held.append(time.monotonic())
        pause(self, *given)

    monkeypatch.setattr(client.RateLimit, "pause", counted)

    def reply(body: dict[str, Any]) -> Reply:
        if "text 0 " in json.dumps(body):
            return 429, {}, {"error": {"message": "Request too large for tokens per minute"}}
        time.sleep(0.02)
        return echo(body)

    with StandInServer(reply).running() as url:
        written = write(engine_at(url, concurrency=4), make_orders(120))
    assert written["k0"].failed
    assert all(written[f"k{number}"].text for number in range(1, 120))
    assert len(held) <= 3 + 7


def test_all_requests_pause_together() -> None:
    times: list[float] = []

    def reply(body: dict[str, Any]) -> Reply:
        with lock:
            times.append(time.monotonic())
            first = len(times) == 1
        if first:
            return 429, {"Retry-After": "0.8"}, {"error": {"message": "slow down"}}
        time.sleep(0.02)
        return echo(body)

    lock = threading.Lock()
    with StandInServer(reply).running() as url:
        write(engine_at(url, concurrency=2), make_orders(30))
    pauses = sorted(b - a for a, b in itertools.pairwise(times))
    assert pauses[-1] > 0.6  # nothing but what ran already was sent


@pytest.mark.parametrize(
    "error",
    [
        {"message": "You exceeded your current quota, please check your plan", "code": "insufficient_quota"},
        {"message": "Rate limit reached for requests per day (RPD): Limit 200"},
    ],
)
def test_a_quota_ends_at_once_with_the_servers_own_words(error: dict[str, str]) -> None:
    server = StandInServer(lambda body: (429, {"Retry-After": "20"}, {"error": error}))
    started = time.monotonic()
    with server.running() as url, pytest.raises(Failure, match=error["message"][:30]):
        write(engine_at(url, concurrency=4), make_orders(30))
    assert time.monotonic() - started < 5
    assert len(server.bodies) <= 8


GROQ = (
    "Rate limit reached for model `llama` on tokens per minute (TPM): Limit 6000. Please try again in 0.05s. "
    "Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing"
)
OPENAI = (
    "Rate limit reached on requests per min. Limit: 3 / min. Please try again in 20s. Please add a payment method. "
    "Visit https://platform.openai.com/account/billing to add a payment method."
)
GEMINI = "You exceeded your current quota, please check your plan and billing details.\nPlease retry in 34.07s."


@pytest.mark.parametrize(
    ("message", "code", "exhausted"),
    [
        *((message, "rate_limit_exceeded", False) for message in (GROQ, OPENAI, GEMINI)),
        ("See https://example.org/billing", None, False),
        (GEMINI, "insufficient_quota", True),
        (GROQ.replace("minute (TPM)", "day (TPD)"), "rate_limit_exceeded", True),
        ("You exceeded your current quota, please check your plan and billing details.", None, True),
        ("You exceeded your current quota. Please retry in 7h.", None, True),
    ],
)
def test_a_limit_per_minute_is_no_quota_whatever_is_advertised_beside_it(
    message: str, code: str | None, exhausted: bool
) -> None:
    """A word about billing ended the job, where the server asked to wait for seconds."""
    assert is_exhausted(message, code) is exhausted


def test_a_limit_per_minute_with_a_word_about_billing_is_waited_for() -> None:
    replies = iter([(429, {}, {"error": {"message": GROQ, "code": "rate_limit_exceeded"}}), chat("a")])
    with StandInServer(lambda body: next(replies)).running() as url:
        assert write(engine_at(url, retries=0), make_orders(1))["k0"].text == "a"


@pytest.mark.parametrize("status", [502, 503, 529])
def test_a_busy_server_is_waited_for_as_it_asks(status: int) -> None:
    """It was asked again at once, until its tries were used up."""
    began: list[float] = []

    def reply(body: dict[str, Any]) -> Reply:
        began.append(time.monotonic())
        return echo(body) if began[-1] - began[0] >= 1 else (status, {"Retry-After": "1"}, b"busy")

    with StandInServer(reply).running() as url:
        written = write(engine_at(url, concurrency=2, retries=1, request_retries=0), make_orders(4))
    assert all(result.text for result in written.values())
    assert len(began) <= 6


def test_a_wait_of_hours_ends_at_once() -> None:
    server = StandInServer(lambda body: (429, {"Retry-After": "86400"}, b"come back tomorrow"))
    started = time.monotonic()
    with server.running() as url, pytest.raises(Failure, match=r"a wait of 86,400 s, .*come back tomorrow"):
        write(engine_at(url), make_orders(3))
    assert time.monotonic() - started < 5


def test_a_long_wait_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_SHOWN_WAIT", 0.2)
    replies = iter([(429, {"Retry-After": "0.5"}, b"slow down"), chat("a")])
    told: list[str] = []
    with StandInServer(lambda body: next(replies)).running() as url:
        engine = OpenAIEngine(Server(url, "tiny"), None, QUESTION, 400, told.append)
        write(engine, make_orders(1))
    assert len(told) == 1
    assert "limits the rate" in told[0]


def test_a_limit_that_never_ends_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_MOST_PAUSES", 4)
    server = StandInServer(lambda body: (429, {"Retry-After": "0.02"}, b"slow down"))
    with server.running() as url, pytest.raises(Failure, match="still limits the rate"):
        write(engine_at(url), make_orders(1))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "1m30s"}, 90),
        ({"retry-after": "120, 60"}, 120),
        ({"retry-after": (NOW + timedelta(seconds=20)).isoformat()}, 20),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=20))}, 20),
        ({"retry-after": "-5"}, 0),
        ({"x-ratelimit-reset-tokens": "1m2.5s", "x-ratelimit-remaining-tokens": "0"}, 62.5),
        ({"x-ratelimit-reset-tokens": "1m2.5s", "x-ratelimit-remaining-tokens": "7"}, 0),
        ({"x-ratelimit-reset": str(int(1000 * (NOW + timedelta(seconds=20)).timestamp()))}, 20),
        ({"ratelimit": '"default";r=0;t=12'}, 12),
        ({}, 0),
    ],
)
def test_the_pause_is_read_from_every_form_in_which_servers_name_it(headers: dict[str, str], seconds: float) -> None:
    """A duration, a date of another form, a list, and the headers beside it: the server was asked again at once."""
    left = retry_after(httpx2.Response(429, headers=headers))
    since = (datetime.now(UTC) - NOW).total_seconds()  # dates count whole seconds
    assert max(0.0, seconds - since - 1) <= left <= seconds
