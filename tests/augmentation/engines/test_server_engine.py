"""Reasonings from a server: what is asked, in which order, and what an answer becomes."""

from __future__ import annotations

import itertools
import signal
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
from processes import start_code
from server_requests import QUESTION, SHORT, engine_at, free_port, make_orders, threads, write
from server_stand_in import Reply, StandInServer, chat, echo, text_of

from rir_mlx.augmentation.engines.base import GeneratedReasoning, ReasoningRequest
from rir_mlx.augmentation.model_output import answer_of
from rir_mlx.backends.base import Sampling
from rir_mlx.errors import UserError
from rir_mlx.prompting.codec import Codec


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
        for result in engine_at(url, concurrency=5).write(endless(), SHORT):
            written.append(result.key)
    assert sorted(written) == sorted(taken)
    assert 20 <= len(taken) <= 25


def test_an_order_that_takes_long_holds_up_no_other() -> None:
    def reply(body: dict[str, Any]) -> Reply:
        if text_of(body).startswith("text 0 "):
            fake.over.wait(0.5)
        return echo(body)

    fake = StandInServer(reply)
    with fake.running() as url:
        keys = [result.key for result in engine_at(url, concurrency=2).write(make_orders(6), SHORT)]
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


@pytest.mark.slow
def test_an_interrupt_ends_a_process_whose_server_hangs() -> None:
    """The threads of a pool are joined at exit, and would wait for the server."""
    program = (
        "import sys\n"
        "from rir_mlx.backends.base import Sampling\n"
        "from rir_mlx.augmentation.engines.base import ReasoningRequest\n"
        "from rir_mlx.prompting.prompts import LabelQuestion\n"
        "from rir_mlx.augmentation.engines.address import Server\n"
        "from rir_mlx.augmentation.engines.server import OpenAIEngine\n"
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
        "messages": [{"role": "user", "content": QUESTION.of_row(order.text, order.label).message}],
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
        texts = {" happy": False, "<|eot_id|> x": True, " <|python_tag|> x": True, "<|eot_id": False, " <b>": False}
        orders = [ReasoningRequest(text, text, "joy", 0) for text in texts]
        written = write(engine_at(url, codec), orders)
        assert {key: result.control for key, result in written.items()} == texts
        without_codec = write(engine_at(url), orders)
        assert {key: result.control for key, result in without_codec.items()} == texts


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
        fits = QUESTION.of_row(text, "joy")
        assert codec.encode(fits, limit).trimmed == 0
        longer = QUESTION.of_row(order.text[: len(text) + 12], "joy")
        assert codec.encode(longer, limit).trimmed > 0


@pytest.mark.slow
def test_a_prompt_without_room_for_its_text_says_so(codec: Codec) -> None:
    with StandInServer(echo).running() as url, pytest.raises(UserError, match="max_seq_length"):
        write(engine_at(url, codec, max_seq_length=20), make_orders(1))


def test_what_a_model_thinks_aloud_and_half_characters_are_left_out() -> None:
    answers = [chat("<think>\nwell, let me see\n</think>\n\nso happy"), chat("so happy \ud83d"), chat("a <b> b")]
    with StandInServer(lambda body: answers[int(text_of(body))]).running() as url:
        written = write(engine_at(url), [ReasoningRequest(str(number), str(number), "joy", 0) for number in range(3)])
    assert [written[key].text for key in "012"] == ["so happy", "so happy ?", "a <b> b"]


# a real mlx_lm.server

READY_WITHIN = 120.0


@pytest.fixture(scope="module")
def mlx_server(tiny: Path) -> Iterator[str]:
    if find_spec("mlx_lm") is None:
        pytest.skip("mlx_lm is not installed")
    port = free_port()
    process = start_code(tiny, "from mlx_lm.server import main; main()", "--model", str(tiny), "--port", str(port))
    try:
        deadline = time.monotonic() + READY_WITHIN
        while not healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"mlx_lm.server is not ready: {process.err()[-2000:]}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGKILL)


def healthy(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False, verify=False).is_success
    except httpx2.TransportError:
        return False


def alone(url: str, model: str, order: ReasoningRequest, sampling: Sampling) -> dict[str, Any]:
    """What the server gives when nothing else runs."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION.of_row(order.text, order.label).message}],
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": order.seed,
    }
    options = {"timeout": 60, "trust_env": False, "verify": False}  # certificates take longer to read than the answer
    answer: dict[str, Any] = httpx2.post(f"{url}/chat/completions", json=body, **options).json()
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_mlx_server_gives_each_order_the_text_that_it_gives_it_alone(
    mlx_server: str, tiny: Path, codec: Codec, temperature: float
) -> None:
    sampling = Sampling(max_tokens=12, temperature=temperature)
    engine = engine_at(mlx_server, codec, model=None, concurrency=4)
    assert engine.identity() == {"engine": "openai", "model": str(tiny.resolve()), "server": mlx_server}
    orders = make_orders(6)
    written = write(engine, orders, sampling)
    for order in orders:
        answer = alone(mlx_server, engine.model, order, sampling)
        content = answer["choices"][0]["message"]["content"] or ""
        assert written[order.key].text == (answer_of(content) or "")
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
