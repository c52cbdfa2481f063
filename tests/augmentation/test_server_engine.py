"""R-Gen on a server: a real mlx_lm.server, and one that answers as a test says."""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest
from server_stand_in import Reply, StandInServer, chat, echo, text_of

from rir_mlx.augmentation.engines import server as openai
from rir_mlx.augmentation.engines.base import GeneratedReasoning, LabelQuestion, ReasoningRequest
from rir_mlx.augmentation.engines.server import OpenAIEngine, Server
from rir_mlx.backends.base import Sampling
from rir_mlx.errors import Failure, RirError, UserError
from rir_mlx.prompting.codec import Codec

QUESTION = LabelQuestion(("joy", "sadness"), "Which feeling?")
KEY = "sk-test-5e6f7a8b"
SHORT = Sampling(max_tokens=12)
READY_WITHIN = 120.0


def make_orders(count: int) -> list[ReasoningRequest]:
    return [
        ReasoningRequest(f"k{number}", f"text {number} i feel happy", "joy", seed=number) for number in range(count)
    ]


def engine_at(url: str, codec: Codec | None = None, max_seq_length: int = 400, **fields: Any) -> OpenAIEngine:
    return OpenAIEngine(Server(url, fields.pop("model", "tiny"), **fields), codec, QUESTION, max_seq_length)


def write(
    engine: OpenAIEngine, orders: list[ReasoningRequest], sampling: Sampling = SHORT
) -> dict[str, GeneratedReasoning]:
    written = list(engine.write(orders, sampling))
    assert sorted(one.key for one in written) == sorted(order.key for order in orders)
    return {one.key: one for one in written}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that no test waits for, and no key from outside."""
    monkeypatch.setattr(openai, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(openai, "_LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(openai, "_QUICK_PAUSE", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def mlx_server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if find_spec("mlx_lm") is None:
        pytest.skip("mlx_lm is not installed")
    home = tmp_path_factory.mktemp("hf")
    (home / "hub").mkdir()  # without the folder the server cannot list its models
    port = free_port()
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(tiny), "--port", str(port)]
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_OFFLINE": "1"}
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_WITHIN
        while not healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"mlx_lm.server is not ready: {(home / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def healthy(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success
    except httpx2.TransportError:
        return False


def alone(url: str, model: str, order: ReasoningRequest, sampling: Sampling) -> dict[str, Any]:
    """What the server gives when nothing else runs."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION.prompt(order).message}],
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": order.seed,
    }
    answer: dict[str, Any] = httpx2.post(f"{url}/chat/completions", json=body, timeout=60, trust_env=False).json()
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_mlx_server_gives_each_order_the_text_that_it_gives_it_alone(
    mlx_server: str, tiny: Path, codec: Codec, temperature: float
) -> None:
    sampling = Sampling(max_tokens=12, temperature=temperature)
    engine = engine_at(mlx_server, codec, model=None, concurrency=4)
    assert engine.identity() == {"engine": "openai", "model": str(tiny.resolve()), "server": mlx_server}
    orders = make_orders(12)
    written = write(engine, orders, sampling)
    for order in orders:
        answer = alone(mlx_server, engine.model, order, sampling)
        assert written[order.key].text == (answer["choices"][0]["message"]["content"] or "")
        assert written[order.key].tokens == answer["usage"]["completion_tokens"]
        assert written[order.key].finish_reason == answer["choices"][0]["finish_reason"]


@pytest.mark.slow
def test_the_seed_decides_what_mlx_server_draws(mlx_server: str) -> None:
    engine = engine_at(mlx_server, model=None)
    orders = [
        ReasoningRequest(f"k{seed}-{again}", "i feel", "joy", seed) for seed in (1, 2, 2**63 - 1) for again in range(2)
    ]
    written = write(engine, orders, Sampling(max_tokens=12, temperature=1.0))
    texts = [{written[f"k{seed}-{again}"].text for again in range(2)} for seed in (1, 2, 2**63 - 1)]
    assert [len(same) for same in texts] == [1, 1, 1]
    assert len(set.union(*texts)) == 3


@pytest.mark.slow
def test_mlx_server_names_its_models_where_ours_is_unknown(mlx_server: str, tiny: Path) -> None:
    with pytest.raises(UserError, match="has no model 'no-such/model'") as caught:
        write(engine_at(mlx_server, model="no-such/model"), make_orders(1))
    assert str(tiny.resolve()) in caught.value.hint


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
            fake.over.wait(5)
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
        written = write(engine_at(url, concurrency=6, retries=20, timeout=0.7), orders)
    assert time.monotonic() - started < 5
    assert seen == {"429", "500", "503", "drop", "garbage", "hang"}
    assert all(written[order.key].text == f"about {order.text}" for order in orders)
    assert 1 < fake.most <= 6
    assert threads() == 0


def threads() -> int:
    return sum(thread.name == "rir-mlx-openai" for thread in threading.enumerate())


def test_orders_are_taken_no_further_ahead_than_requests_run_and_all_are_finished() -> None:
    """The giver of endless orders stops after 25; whatever it gave is written."""
    taken: list[str] = []
    written: list[str] = []

    def endless() -> Iterator[ReasoningRequest]:
        for number in itertools.count():
            if len(written) >= 20:
                return
            assert len(taken) - len(written) < 5
            taken.append(f"k{number}")
            yield ReasoningRequest(taken[-1], f"text {number}", "joy", number)

    with StandInServer(echo).running() as url:
        for one in engine_at(url, concurrency=5).write(endless(), SHORT):
            written.append(one.key)
    assert sorted(written) == sorted(taken)
    assert 20 <= len(taken) <= 25


def test_an_order_that_takes_long_holds_up_no_other() -> None:
    def reply(body: dict[str, Any]) -> Reply:
        if text_of(body).startswith("text 0 "):
            fake.over.wait(0.5)
        return echo(body)

    fake = StandInServer(reply)
    with fake.running() as url:
        keys = [one.key for one in engine_at(url, concurrency=2).write(make_orders(6), SHORT)]
    assert keys[-1] == "k0"


def test_leaving_early_ends_the_requests_that_hang() -> None:
    def reply(body: dict[str, Any]) -> Reply:
        if text_of(body).startswith("text 0 "):
            return echo(body)
        fake.over.wait(30)
        return echo(body)

    fake = StandInServer(reply)
    with fake.running() as url:
        started = time.monotonic()
        writing = engine_at(url, concurrency=4).write(make_orders(9), SHORT)
        assert next(writing).key == "k0"
        writing.close()  # type: ignore[attr-defined]
        assert time.monotonic() - started < 3
        assert threads() == 0


def test_an_interrupt_ends_a_process_whose_server_hangs() -> None:
    """The threads of a pool are joined at exit, and would wait for the server."""
    program = (
        "import sys\n"
        "from rir_mlx.backends.base import Sampling\n"
        "from rir_mlx.augmentation.engines.base import ReasoningRequest, LabelQuestion\n"
        "from rir_mlx.augmentation.engines.server import OpenAIEngine, Server\n"
        "engine = OpenAIEngine(Server(sys.argv[1], 'tiny'), None, LabelQuestion(('joy',), 'Which?'), 100)\n"
        "list(engine.write([ReasoningRequest('k', 'text', 'joy', 1)], Sampling()))\n"
    )

    def reply(body: dict[str, Any]) -> Reply:
        asked.set()
        fake.over.wait(60)
        return echo(body)

    asked = threading.Event()
    fake = StandInServer(reply)
    with fake.running() as url:
        process = subprocess.Popen(
            [sys.executable, "-c", program, url],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a job in the background ignores
        )
        try:
            assert asked.wait(60)
            process.send_signal(2)
            _, errors = process.communicate(timeout=15)
        finally:
            process.kill()
    assert "KeyboardInterrupt" in errors
    assert "never" not in errors  # "coroutine was never awaited", "exception was never retrieved"


def test_the_key_is_sent_as_bearer_and_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    said = {"error": {"message": f"{'x' * 290} bad key {KEY} of {KEY}"}}
    shown: list[str] = []
    refusals: list[Reply] = [(status, {}, said) for status in (401, 403, 404)]
    refusals += [(500, {}, KEY.encode()), (200, {}, {"got": KEY})]
    for refusal in refusals:
        fake = StandInServer(lambda body, refusal=refusal: refusal)  # type: ignore[misc]
        with fake.running() as url:
            engine = engine_at(url, key_variable="MY_KEY", retries=1)
            with pytest.raises(RirError) as caught:
                write(engine, make_orders(1))
        assert {one["authorization"] for one in fake.headers} == {f"Bearer {KEY}"}
        shown += [str(caught.value), repr(caught.value), repr(engine), repr(engine.server), str(engine.identity())]
    assert len(shown) == 25
    assert not any(KEY[:8] in one for one in (*shown, caplog.text))


def test_no_authorization_is_sent_where_the_variable_is_not_set() -> None:
    fake = StandInServer(echo)
    with fake.running() as url:
        write(engine_at(url), make_orders(1))
    assert not any("authorization" in one for one in fake.headers)


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP library's own error would quote the header."""
    for key in ("sk-first\nsk-second", "sk-schlüssel", "sk two"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
            engine_at("http://127.0.0.1:1/v1")
        assert "sk" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_names_its_variable(status: int) -> None:
    fake = StandInServer(lambda body: (status, {}, {"error": {"message": "who are you?"}}))
    with fake.running() as url, pytest.raises(UserError, match=r"without a key.*who are you\?") as caught:
        write(engine_at(url, key_variable="MY_KEY"), make_orders(1))
    assert "MY_KEY" in caught.value.hint
    assert len(fake.bodies) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        (404, {}, {"error": {"message": "The model does not exist"}}),
        (400, {}, {"error": {"message": "The model does not exist", "code": "model_not_found"}}),
    ],
)
def test_an_unknown_model_lists_those_that_are_there(refusal: Reply) -> None:
    fake = StandInServer(lambda body: refusal)
    fake.models = 200, {}, {"data": [{"id": "llama-3b"}, {"id": "llama-8b"}]}
    with fake.running() as url, pytest.raises(UserError, match=r"'lama-8b'.*does not exist") as caught:
        write(engine_at(url, model="lama-8b"), make_orders(1))
    assert caught.value.hint == "It lists llama-3b, llama-8b. Did you mean 'llama-8b'?"


def test_an_address_without_v1_is_said_to_want_it() -> None:
    fake = StandInServer(lambda body: (404, {}, b"Not Found"))
    fake.models = 404, {}, b"Not Found"
    with fake.running() as url, pytest.raises(UserError, match="ends in /v1"):
        write(engine_at(url.removesuffix("/v1")), make_orders(1))


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
    refused = {key: one.refused for key, one in written.items() if one.refused}
    assert set(refused) == {"k1", "k7"}
    assert all(why.startswith(f"status {status}: yyy") and len(why) < 330 for why in refused.values())


def test_a_key_in_a_refusal_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    fake = StandInServer(lambda body: (400, {}, {"error": {"message": f"bad key {KEY}"}}))
    with fake.running() as url:
        [one] = write(engine_at(url, key_variable="MY_KEY"), make_orders(1)).values()
    assert one.refused == "status 400: bad key ***"


def test_a_server_that_refuses_everything_ends_the_job() -> None:
    fake = StandInServer(lambda body: (400, {}, {"error": {"message": "max_tokens is too large"}}))
    with fake.running() as url, pytest.raises(Failure, match=r"refuses every request.*max_tokens is too large"):
        write(engine_at(url, concurrency=4), make_orders(200))
    assert len(fake.bodies) <= 16 + 4


def test_what_a_model_thinks_aloud_and_half_characters_are_left_out() -> None:
    answers = [chat("<think>\nwell, let me see\n</think>\n\nso happy"), chat("so happy \ud83d"), chat("a <think> b")]
    with StandInServer(lambda body: answers[int(text_of(body))]).running() as url:
        written = write(engine_at(url), [ReasoningRequest(str(number), str(number), "joy", 0) for number in range(3)])
    assert [written[key].text for key in "012"] == ["so happy", "so happy ?", "a <think> b"]


@pytest.mark.parametrize(
    "answer",
    [
        (503, {}, {"error": "loading"}),
        (429, {"Retry-After": "0"}, {"error": {"message": "loading"}}),
        (200, {}, b"loading"),
        (200, {}, {"error": "loading"}),
        (200, {}, {"choices": [], "why": "loading"}),
        (200, {}, {"choices": [{"message": {"content": ["loading"]}}]}),
    ],
)
def test_an_answer_that_stays_bad_fails_after_the_retries_and_says_how_to_go_on(answer: Reply) -> None:
    fake = StandInServer(lambda body: answer)
    with fake.running() as url, pytest.raises(Failure, match=r"in 4 tries.*loading") as caught:
        write(engine_at(url, retries=3), make_orders(1))
    assert caught.value.hint == "Run the same command again; it continues."
    assert len(fake.bodies) == 4


def test_once_an_order_has_failed_the_others_are_not_repeated_on() -> None:
    """With long pauses between tries, a server that is down would hold the command up for minutes more."""
    counts = itertools.count()

    def reply(body: dict[str, Any]) -> Reply:
        return (401, {}, b"no") if next(counts) == 3 else (503, {"Retry-After": "60"}, b"down")

    started = time.monotonic()
    fake = StandInServer(reply)
    with fake.running() as url, pytest.raises(UserError, match="401"):
        write(engine_at(url, concurrency=4), make_orders(4))
    assert time.monotonic() - started < 5
    assert len(fake.bodies) <= 4 + 3  # a pause is cut short, and the try after it is the last


def test_an_answer_that_trickles_in_is_waited_for_no_longer_than_any_other() -> None:
    """The HTTP library's timeout starts anew with every byte."""

    def trickle() -> Iterator[bytes]:
        while not fake.over.wait(0.05):
            yield b" "

    fake = StandInServer(lambda body: (200, {}, trickle()))
    started = time.monotonic()
    with fake.running() as url, pytest.raises(Failure, match=r"no answer within 0\.3 s"):
        write(engine_at(url, timeout=0.3, retries=1), make_orders(1))
    assert time.monotonic() - started < 3


def test_the_pause_is_what_the_server_asks_for() -> None:
    answers = iter([(429, {"Retry-After": "1"}, b"slow down"), (429, {"Retry-After": "Fri, 31 Dec"}, b""), chat("a")])
    started = time.monotonic()
    with StandInServer(lambda body: next(answers)).running() as url:
        write(engine_at(url), make_orders(1))
    assert 1 <= time.monotonic() - started < 3


def test_a_redirect_is_not_followed() -> None:
    other = StandInServer(echo)
    with other.running() as elsewhere:
        fake = StandInServer(lambda body: (307, {"Location": f"{elsewhere}/chat/completions"}, b""))
        with fake.running() as url, pytest.raises(Failure, match=f"307: a redirect to {elsewhere}"):
            write(engine_at(url), make_orders(1))
    assert other.headers == []


def test_nobody_listening_at_first_says_how_to_start_a_server() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    for model in ("tiny", None):
        with pytest.raises(UserError, match=f"No server answers at {url}") as caught:
            write(engine_at(url, model=model), make_orders(3))
        assert "mlx_lm.server --model" in caught.value.hint


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
    assert sorted(one.key for one in written) == ["k0", "k1", "k2"]


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080/v1", "localhost:8080/v1", "ftp://host/v1", "http://", "http://host:99999", "file:///v1"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="no http or https address"):
        Server(url)


@pytest.mark.parametrize("url", ["http://me:secret@host/v1", "https://secret@host", "me:secret@host:80/v1"])
def test_a_password_in_the_address_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(UserError) as caught:
        Server(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://host/v1?api-key=secret", "http://bob:secret@host/v1"])
def test_an_address_that_holds_a_secret_is_refused_without_showing_it(url: str) -> None:
    """It would stand in the run's recipe for good."""
    with pytest.raises(UserError, match="holds a user, a password or a query for host") as caught:
        Server(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("http://localhost:8080/v1", False),
        ("http://127.0.0.1/v1", False),
        ("http://127.3.2.1/v1", False),
        ("http://[::1]:8080/v1", False),
        ("http://192.168.0.7/v1", True),
        ("https://127.0.0.1.example.com/v1", True),
        ("https://localhost.example.com/v1", True),
    ],
)
def test_only_loopback_is_not_remote(url: str, remote: bool) -> None:
    assert engine_at(url).remote is remote


def test_a_proxy_from_the_environment_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with StandInServer(echo).running() as url:
        write(engine_at(url), make_orders(1))


def test_the_only_model_that_is_listed_is_taken() -> None:
    fake = StandInServer(echo)
    fake.models = 200, {}, {"data": [{"id": "base"}, {"id": "adapter", "parent": "base"}]}
    with fake.running() as url:
        assert engine_at(url, model=None).identity()["model"] == "base"
        fake.models = 200, {}, {"data": [{"id": "one"}, {"id": "two"}]}
        with pytest.raises(UserError, match="several models: one, two"):
            engine_at(url, model=None)
        fake.models = 404, {}, b""
        with pytest.raises(UserError, match="lists no model"):
            engine_at(url, model=None)


def test_what_is_asked_is_the_prompt_and_the_sampling() -> None:
    fake = StandInServer(echo)
    order = ReasoningRequest("k", "i feel", "joy", seed=2**63 - 2)
    with fake.running() as url:
        engine = engine_at(f"{url}/")
        write(engine, [order], Sampling(max_tokens=7))
        write(engine, [order], Sampling(7, temperature=0.7, top_p=0.9, min_p=0.05, repetition_penalty=1.1))
    plain, full = fake.bodies
    assert plain == {
        "model": "tiny",
        "messages": [{"role": "user", "content": QUESTION.prompt(order).message}],
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 7,
        "stream": False,
    }
    assert full == plain | {
        "seed": 2**31 - 2,
        "temperature": 0.7,
        "top_p": 0.9,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
    }


def test_seeds_of_63_bits_are_sent_in_31_of_them() -> None:
    fake = StandInServer(echo)
    seeds = [0, 2**31 - 1, 2**31, 2**40 + 5, 2**63 - 1]
    with fake.running() as url:
        orders = [ReasoningRequest(f"k{seed}", "text", "joy", seed) for seed in seeds]
        write(engine_at(url, concurrency=1), orders, Sampling(7, temperature=1.0))
    assert [body["seed"] for body in fake.bodies] == [0, 2**31 - 1, 0, 5, 2**31 - 1]


def test_what_is_written_carries_its_length_and_why_it_ended(codec: Codec) -> None:
    answers = [chat("so happy", "length", 5), chat(None), chat("so happy", "tool_calls", None)]
    with StandInServer(lambda body: answers[int(text_of(body))]).running() as url:
        orders = [ReasoningRequest(str(number), str(number), "joy", 0) for number in range(3)]
        written, counted = write(engine_at(url), orders), write(engine_at(url, codec), orders)
    assert written["0"] == GeneratedReasoning("0", "so happy", 5, "length")
    assert written["1"] == GeneratedReasoning("1", "", 3, "stop")
    assert written["2"] == GeneratedReasoning("2", "so happy", 2, "stop")
    assert counted["2"].tokens == len(codec.given("so happy")) != 2


def test_a_control_token_that_is_written_out_is_found(codec: Codec) -> None:
    with StandInServer(lambda body: chat(f"so{text_of(body)}")).running() as url:
        texts = {" happy": False, "<|eot_id|>": True, " <|python_tag|> x": True, "<|eot_id": False, " <b>": False}
        orders = [ReasoningRequest(text, text, "joy", 0) for text in texts]
        written = write(engine_at(url, codec), orders)
        assert {key: one.control for key, one in written.items()} == texts
        assert not any(one.control for one in write(engine_at(url), orders).values())


def test_a_text_is_cut_so_that_the_answer_fits_behind_the_prompt(codec: Codec) -> None:
    fake = StandInServer(echo)
    texts = ["i feel happy today " * 50, "é🙂" * 100, "<|eot_id|>" * 40, "short"]
    orders = [ReasoningRequest(str(number), text, "joy", 0) for number, text in enumerate(texts)]
    limit = 200
    with fake.running() as url:
        write(engine_at(url, codec, max_seq_length=limit + SHORT.max_tokens, concurrency=1), orders)
        write(engine_at(url, concurrency=1), orders)
    cut, whole = [text_of(body) for body in fake.bodies[:4]], [text_of(body) for body in fake.bodies[4:]]
    assert whole == texts
    assert cut[3] == texts[3]
    for order, text in zip(orders[:3], cut[:3], strict=True):
        assert order.text.startswith(text)
        assert text not in ("", order.text)
        fits = QUESTION.prompt(ReasoningRequest(order.key, text, "joy", 0))
        assert codec.encode(fits, limit).trimmed == 0
        longer = QUESTION.prompt(ReasoningRequest(order.key, order.text[: len(text) + 12], "joy", 0))
        assert codec.encode(longer, limit).trimmed > 0


def test_a_prompt_without_room_for_its_text_says_so(codec: Codec) -> None:
    with StandInServer(echo).running() as url, pytest.raises(UserError, match="max_seq_length"):
        write(engine_at(url, codec, max_seq_length=20), make_orders(1))
