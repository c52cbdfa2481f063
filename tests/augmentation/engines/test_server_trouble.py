"""A server that is busy, slow, gone, or fails on some requests."""

from __future__ import annotations

import gzip
import itertools
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from server_requests import KEY, QUESTION, SHORT, engine_at, make_orders, threads, write
from server_stand_in import Reply, StandInServer, chat, echo, text_of

from rir_mlx.augmentation.engines import client
from rir_mlx.augmentation.engines.address import Server
from rir_mlx.augmentation.engines.base import GeneratedReasoning
from rir_mlx.augmentation.engines.server import OpenAIEngine
from rir_mlx.backends.base import Sampling
from rir_mlx.errors import Failure, UserError


def test_a_server_that_fails_half_of_the_time_still_writes_each_order_once() -> None:
    tries: dict[str, int] = {}
    seen: set[str] = set()

    def reply(body: dict[str, Any]) -> Reply | None:
        text = text_of(body)
        with lock:
            tries[text] = tries.get(text, 0) + 1
            again = tries[text]
        time.sleep(0.002)
        draw = random.Random(f"{text} {again}")
        if draw.random() < 0.5:
            return chat(f"about {text}")
        fault = draw.choice(["429", "500", "503", "drop", "garbage", "hang"])
        if fault == "hang" and fault in seen:  # it costs a whole timeout
            fault = "drop"
        seen.add(fault)
        if fault == "hang":
            with fake.lock:
                fake.busy -= 1  # the client has left when this ends
            fake.over.wait(30)
            with fake.lock:
                fake.busy += 1
        if fault in ("drop", "hang"):
            return None
        if fault == "garbage":
            return 200, {}, b"<html>busy</html>"
        return int(fault), {"Retry-After": "0"} if fault == "429" else {}, {"error": {"message": "busy"}}

    lock = threading.Lock()
    fake = StandInServer(reply)
    orders = make_orders(60)
    started = time.monotonic()
    with fake.running() as url:
        written = write(engine_at(url, concurrency=6, retries=20, request_retries=20, timeout=0.7), orders)
    assert time.monotonic() - started < 20  # the request that hangs costs its timeout, not its 30 s
    assert seen == {"429", "500", "503", "drop", "garbage", "hang"}
    assert all(written[order.key].text == f"about {order.text}" for order in orders)
    assert 1 < fake.most <= 6
    assert threads() == 0


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_order_that_the_server_refuses_is_refused_alone(status: int) -> None:
    """A content filter, or a context that is too long: once, one such row stopped every rerun at the same place."""

    def reply(body: dict[str, Any]) -> Reply:
        if text_of(body).startswith(("text 1 ", "text 7 ")):
            return status, {}, {"error": {"message": "y" * 1000}}
        return echo(body)

    with StandInServer(reply).running() as url:
        written = write(engine_at(url, concurrency=3), make_orders(20))
    assert len(written) == 20
    refused = {key: result.refused for key, result in written.items() if result.refused}
    assert set(refused) == {"k1", "k7"}
    assert all(why.startswith(f"status {status}: yyy") and len(why) < 330 for why in refused.values())


def test_a_key_in_a_refusal_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    fake = StandInServer(lambda body: (400, {}, {"error": {"message": f"bad key {KEY}"}}))
    with fake.running() as url:
        [result] = write(engine_at(url, key_variable="MY_KEY"), make_orders(1)).values()
    assert result.refused == "status 400: bad key ***"


def test_a_server_that_refuses_everything_ends_the_job() -> None:
    fake = StandInServer(lambda body: (400, {}, {"error": {"message": "max_tokens is too large"}}))
    with fake.running() as url, pytest.raises(Failure, match=r"refuses every request.*max_tokens is too large"):
        write(engine_at(url, concurrency=4), make_orders(200))
    assert len(fake.bodies) <= 16 + 4


@pytest.mark.parametrize(
    "answer",
    [
        (503, {}, {"error": "loading"}),
        (429, {"Retry-After": "0"}, {"error": {"message": "loading"}}),
        (200, {}, {"error": "loading"}),
        (200, {}, {"choices": [], "why": "loading"}),
        (200, {}, {"choices": [{"message": {"content": ["loading", 5]}}]}),
    ],
)
def test_an_answer_that_stays_bad_fails_after_the_retries_and_says_how_to_go_on(answer: Reply) -> None:
    fake = StandInServer(lambda body: answer)
    with fake.running() as url, pytest.raises(Failure, match=r"in 4 tries.*loading") as caught:
        write(engine_at(url, retries=3), make_orders(1))
    assert caught.value.hint == "Run the same command again; it continues."
    assert len(fake.bodies) == 4


def test_once_an_order_has_failed_the_others_are_not_repeated_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With long pauses between tries, a server that is down would hold the command up for minutes more."""
    monkeypatch.setattr(client, "_FIRST_PAUSE", 60.0)
    counts, all_asked = itertools.count(), threading.Barrier(4)

    def reply(body: dict[str, Any]) -> Reply:
        number = next(counts)
        if number < 4:
            all_asked.wait(timeout=30)  # a request that starts late would wait for the pause of the others
        return (401, {}, b"no") if number == 3 else (503, {}, b"down")

    started = time.monotonic()
    fake = StandInServer(reply)
    with fake.running() as url, pytest.raises(UserError, match="401"):
        write(engine_at(url, concurrency=4), make_orders(4))
    assert time.monotonic() - started < 20
    assert len(fake.bodies) <= 4 + 3  # a pause is cut short, and the try after it is the last


def test_an_answer_that_trickles_in_is_waited_for_no_longer_than_any_other() -> None:
    """The HTTP library's timeout restarts with every byte."""

    def trickle() -> Iterator[bytes]:
        while not fake.over.wait(0.05):
            yield b" "

    fake = StandInServer(lambda body: (200, {}, trickle()))
    started = time.monotonic()
    with fake.running() as url, pytest.raises(Failure, match=r"no answer within 0\.3 s"):
        write(engine_at(url, timeout=0.3, retries=1), make_orders(1))
    assert time.monotonic() - started < 3


def test_a_server_that_is_restarted_is_waited_for() -> None:
    written: list[GeneratedReasoning] = []
    with StandInServer(echo).running() as url:
        engine = engine_at(url, retries=1000)
        write(engine, make_orders(1))
    writing = threading.Thread(target=lambda: written.extend(engine.write(make_orders(3), SHORT)))
    writing.start()
    writing.join(0.2)
    assert writing.is_alive()
    with StandInServer(echo).running(httpx2.URL(url).port or 0):
        writing.join(10)
    assert sorted(result.key for result in written) == ["k0", "k1", "k2"]


def bad_for(text: str, reply: Reply | None) -> StandInServer:
    return StandInServer(lambda body: reply if text_of(body).startswith(text) else echo(body))


BOMB = gzip.compress(b" " * (3 << 23), mtime=0)  # it is in the names of tests, which every worker has to see alike
"""24 MB of blanks in 24 kB."""


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(
    "reply",
    [
        (200, {}, {"choices": []}),
        (200, {}, {"choices": [{"message": None}]}),
        (200, {}, {"error": {"message": "out of luck"}}),
        (200, {}, {"choices": [{"error": {"code": 502}, "message": {"content": "half"}, "finish_reason": "error"}]}),
        (500, {}, {"error": {"message": "CUDA out of memory"}}),
        (200, {}, b"<html>gateway</html>"),
        (200, {}, {"data": None}),
        (500, {}, [{"error": {"code": 500, "message": "as Google's servers say it"}}]),
        (500, {}, b'"a JSON string"'),
        (200, {"Content-Encoding": "gzip"}, b"no gzip"),
        (200, {"Content-Encoding": "gzip"}, BOMB),
        None,
    ],
    ids=lambda value: str(value)[:80],
)
def test_one_bad_row_is_set_aside_with_what_was_said_and_never_ends_the_job(
    reply: Reply | None, concurrency: int
) -> None:
    """Once, a row that a server failed on ended every rerun at the same place."""
    with bad_for("text 3 ", reply).running() as url:
        written = write(engine_at(url, concurrency=concurrency), make_orders(12))
    assert [key for key, result in written.items() if result.failed] == ["k3"]
    assert "no answer in 4 tries" in written["k3"].failed
    assert all(result.text for key, result in written.items() if key != "k3")


def test_a_row_that_always_times_out_is_set_aside() -> None:
    def reply(body: dict[str, Any]) -> Reply:
        if text_of(body).startswith("text 3 "):
            fake.over.wait(5)
        return echo(body)

    fake = StandInServer(reply)
    with fake.running() as url:
        written = write(engine_at(url, concurrency=4, timeout=1.5, request_retries=1), make_orders(12))
    assert [key for key, result in written.items() if result.failed] == ["k3"]
    assert "no answer within 1.5 s" in written["k3"].failed


def test_only_bad_rows_left_do_not_end_a_job_whose_other_rows_were_answered() -> None:
    with StandInServer(lambda body: (500, {}, b"no")).running() as url:
        engine = engine_at(url, request_retries=1)
        engine.proven = True
        written = write(engine, make_orders(3))
    assert all(result.failed for result in written.values())


def test_a_server_that_breaks_down_ends_the_job_and_sets_no_row_aside() -> None:
    answered: list[int] = []

    def reply(body: dict[str, Any]) -> Reply:
        answered.append(1)
        return echo(body) if len(answered) <= 10 else (500, {}, b"broken")

    written: list[GeneratedReasoning] = []
    with StandInServer(reply).running() as url, pytest.raises(Failure, match=r"fails on every request.*broken"):
        written.extend(engine_at(url, concurrency=4, request_retries=1).write(make_orders(100), SHORT))
    assert not any(result.failed for result in written)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((200, {"Content-Type": "text/html"}, b"<!doctype html><title>My router</title>"), "a web page"),
        ((200, {"Content-Type": "text/event-stream"}, b'data: {"choices": []}\n\n'), "a stream of events"),
        ((200, {}, b'data: {"choices": []}\n\n'), "a stream of events"),
        ((200, {}, {"data": None}), "without a message"),
    ],
)
def test_what_is_no_answer_at_all_names_the_address_and_v1_without_long_retries(reply: Reply, words: str) -> None:
    fake = StandInServer(lambda body: reply)
    with fake.running() as url, pytest.raises(UserError, match=words) as caught:
        write(engine_at(url.removesuffix("/v1"), concurrency=1), make_orders(20))
    assert url.removesuffix("/v1") in caught.value.what
    assert f"{url}." in caught.value.hint
    assert len(fake.bodies) <= 3


def test_a_list_of_models_that_is_none_says_so_at_once() -> None:
    fake = StandInServer(echo)
    fake.models = 200, {}, {"data": None}
    with fake.running() as url, pytest.raises(UserError, match="lists no model"):
        engine_at(url, model=None)
    assert len(fake.headers) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "param": "max_tokens"},
        {"message": "Unknown parameter: 'max_tokens'."},
    ],
)
def test_max_tokens_is_renamed_for_all_requests_where_a_server_wants_another_name(refusal: dict[str, str]) -> None:
    fake = StandInServer(lambda body: (400, {}, {"error": refusal}) if "max_tokens" in body else echo(body))
    told: list[str] = []
    with fake.running() as url:
        engine = OpenAIEngine(Server(url, "tiny", concurrency=4), None, QUESTION, 400, told.append)
        written = write(engine, make_orders(30))
        again = write(engine, make_orders(5))
    assert all(result.text for result in (*written.values(), *again.values()))
    assert told == ["the server does not take max_tokens; max_completion_tokens is sent instead."]
    assert sum("max_tokens" in body for body in fake.bodies) <= 4
    assert all(body["max_completion_tokens"] == 12 for body in fake.bodies if "max_tokens" not in body)


@pytest.mark.parametrize("name", ["temperature", "top_p", "seed"])
@pytest.mark.parametrize("status", [400, 422])
def test_a_parameter_that_a_server_does_not_know_is_left_out(name: str, status: int) -> None:
    said: Any = {"error": {"message": f"Unsupported value: '{name}' does not support 0.5 with this model."}}
    if status == 422:
        said = {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]}
    fake = StandInServer(lambda body: (status, {}, said) if name in body else echo(body))
    told: list[str] = []
    with fake.running() as url:
        engine = OpenAIEngine(Server(url, "tiny", concurrency=2), None, QUESTION, 400, told.append)
        written = write(engine, make_orders(9), Sampling(12, temperature=0.5))
        assert all(result.text for result in written.values())
        assert len(told) == 1
        assert f"does not take {name}" in told[0]
        left_out = StandInServer(echo)
        with left_out.running() as other:
            server = Server(other, "tiny", omitted=(name,))
            write(OpenAIEngine(server, None, QUESTION, 400), make_orders(3), Sampling(12, temperature=0.5))
    assert not any(name in body for body in left_out.bodies)


def test_a_value_that_is_too_large_is_no_unknown_parameter() -> None:
    fake = StandInServer(lambda body: (400, {}, {"error": {"message": "max_tokens is too large: 12"}}))
    with fake.running() as url:
        written = write(engine_at(url), make_orders(2))
    assert all("too large" in result.refused for result in written.values())
    assert len(fake.bodies) == 2


@pytest.mark.parametrize(
    "reply",
    [
        (451, {}, {"error": {"message": "Unavailable for legal reasons"}}),
        (403, {}, {"error": {"message": "Your input was flagged", "metadata": {"reasons": ["violence"]}}}),
        (200, {}, {"error": {"code": 400, "message": "too long"}}),
        (200, {}, {"object": "error", "code": 400, "message": "too long"}),
        (400, {}, [{"error": {"code": 400, "message": "too long"}}]),
    ],
    ids=["451", "403", "inside", "bare", "list"],
)
def test_moderation_of_one_text_is_a_refusal_and_never_ends_the_job(reply: Reply) -> None:
    """A gateway that moderates answers 403 or 451 for that text alone: the job ended, as for a wrong key."""
    with bad_for("text 3 ", reply).running() as url:
        written = write(engine_at(url), make_orders(12))
    assert [key for key, result in written.items() if result.refused] == ["k3"]
    assert not any(result.failed for result in written.values())


def test_a_wrong_key_that_a_gateway_answers_with_status_200_ends_at_once() -> None:
    requests: list[int] = []

    def reply(body: dict[str, Any]) -> Reply:
        requests.append(1)
        return 200, {}, {"error": {"code": 401, "message": "no such key"}}

    with StandInServer(reply).running() as url, pytest.raises(UserError, match="no such key"):
        write(engine_at(url, concurrency=1), make_orders(12))
    assert len(requests) == 1


def test_one_of_two_parameters_that_exclude_each_other_is_left_out() -> None:
    def reply(body: dict[str, Any]) -> Reply:
        if {"temperature", "top_p"} <= body.keys():
            both = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
            return 400, {}, {"error": {"message": both}}
        return echo(body)

    with StandInServer(reply).running() as url:
        written = write(engine_at(url), make_orders(12))
    assert all(result.text for result in written.values())
