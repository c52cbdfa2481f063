"""Answers in the forms of other servers: what is kept, what is no answer, and what no answer can break."""

from __future__ import annotations

import sys
from typing import Any

import httpx2
import pytest
from server_requests import KEY, engine_at, make_orders, write
from server_stand_in import Reply, StandInServer, chat, echo, text_of

from rir_mlx.augmentation.engines import answers
from rir_mlx.augmentation.engines.answers import Answer, problem_of, read_answer
from rir_mlx.augmentation.engines.base import GeneratedReasoning
from rir_mlx.errors import UserError

GOOD = "The writer laughs in the sun"
SECRET = "Hm, let me think about joy"


def with_reply(reply: Reply, rows: int = 12) -> dict[str, GeneratedReasoning]:
    """Twelve rows, of which the fourth gets that reply."""
    fake = StandInServer(lambda body: reply if text_of(body).startswith("text 3 ") else echo(body))
    with fake.running() as url:
        return write(engine_at(url), make_orders(rows))


def read(message: dict[str, Any], reason: Any = "stop", **more: Any) -> Answer:
    return read_answer({"choices": [{"message": message, "finish_reason": reason}], **more})


def test_a_header_in_utf_8_is_read_with_its_answer() -> None:
    """The header was decoded and then encoded as ASCII, which ended the job."""
    region = "Zürich".encode().decode("latin-1")  # the stand-in writes Latin-1
    written = with_reply((200, {"X-Region": region}, chat(GOOD)[2]))
    assert written["k3"].text == GOOD


@pytest.mark.parametrize("status", [200, 400, 403, 500])
@pytest.mark.parametrize("charset", ["undefined", "base64", "rot13", "idna", "x"])
def test_a_charset_that_is_none_fails_its_row_alone(charset: str, status: int) -> None:
    """Python knows some charsets that decode no text, and the job ended with their errors."""
    written = with_reply((status, {"Content-Type": f"text/html; charset={charset}"}, b"<html>flagged oops \xe9"))
    assert [key for key, result in written.items() if not result.text] == ["k3"]
    assert "oops" in written["k3"].failed + written["k3"].refused


def test_an_answer_that_nobody_foresaw_fails_its_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_badly(data: dict[str, Any]) -> Answer:
        found = read_answer(data)
        return found if "text 3 " not in found.text else found.missing  # type: ignore[attr-defined, no-any-return]

    monkeypatch.setattr("rir_mlx.augmentation.engines.server.read_answer", read_badly)
    with StandInServer(echo).running() as url:
        written = write(engine_at(url), make_orders(12))
    assert [key for key, result in written.items() if result.failed] == ["k3"]
    assert "AttributeError" in written["k3"].failed


@pytest.mark.parametrize("tokens", [10**40, 2**31, -1, True, "7", 7.5, None])
def test_a_count_of_tokens_that_cannot_be_is_ignored(tokens: Any) -> None:
    """It was put into the journal, and each rerun ended at it."""
    assert read({"content": GOOD}, usage={"completion_tokens": tokens}).tokens is None
    assert with_reply(chat(GOOD, tokens=tokens))["k3"].tokens == len(GOOD.split())


@pytest.mark.parametrize(
    "part",
    [
        *({"type": kind} for kind in ("reasoning_text", "reasoning.text", "summary_text", "reasoning_summary")),
        *({"type": kind} for kind in ("thinking_text", "thoughts", "analysis", "tool_use", "thinking", "Reasoning")),
        *({"thought": True}, {"type": "text", "thought": True}),
    ],
    ids=str,
)
def test_parts_that_are_no_answer_are_left_out(part: dict[str, Any]) -> None:
    """Thoughts under a name that was not known became part of the reasoning."""
    thoughts = {**part, "text": SECRET}
    assert read({"content": [thoughts, {"type": "text", "text": GOOD}]}).text == GOOD
    assert read({"content": [thoughts, GOOD]}).text == GOOD
    assert read({"content": [thoughts]}).text == read({"content": thoughts}).text == answers.THOUGHTS


@pytest.mark.parametrize("between", ["\n\n", " ", "", "</think>"])
@pytest.mark.parametrize(
    "beside",
    [
        {"reasoning_content": f"{SECRET}\n"},
        {"reasoning": SECRET},
        {"thinking_blocks": [{"type": "thinking", "thinking": SECRET, "signature": "x"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": SECRET}]},
    ],
    ids=lambda beside: next(iter(beside)),
)
def test_thoughts_that_stand_beside_the_answer_and_in_front_of_it_are_cut_off(
    beside: dict[str, Any], between: str
) -> None:
    assert read({"content": f"{SECRET}{between}{GOOD}", **beside}).text == GOOD
    assert read({"content": GOOD, **beside}).text == GOOD
    assert read({"content": SECRET, **beside}).text == answers.THOUGHTS


@pytest.mark.parametrize("key", [KEY, 'sk-"quoted\\-123', "ollama"])
def test_an_answer_that_repeats_the_key_is_not_kept(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It came into the journal and the training file. A placeholder for a key is a word that an answer may contain."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    written = with_reply(chat(f"Invalid key {key} the writer laughs"))
    if key == "ollama":
        assert key in written["k3"].text
        return
    assert written["k3"].failed.endswith("Invalid key *** the writer laughs")
    assert not any(key in str(result) for result in written.values())


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        *((reason, answers.RequestRefused) for reason in ("sensitive", "ERROR_TOXIC", "censored", "content-filtered")),
        *((reason, answers.RequestFailed) for reason in ("network_error", "server_error", "engine_error", "failed")),
        *((reason, answers.RequestFailed) for reason in ("malformed_function_call", "OTHER", "suspended", "error")),
    ],
)
def test_an_answer_that_did_not_end_well_is_none(reason: str, error: type[Exception]) -> None:
    """What was not known passed for a stop."""
    with pytest.raises(error, match=reason.lower()):
        read({"content": GOOD}, reason)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        *((reason, "stop") for reason in ("stop", "eos", "eos_token", "STOP", "end_turn", "COMPLETE", "tool_calls")),
        *((reason, "stop") for reason in (None, "", "stop_sequence", "function_call", "unknown", "hit_eos")),
        *((reason, "stop") for reason in ("eot", "eot_id", "natural")),
        *((reason, "length") for reason in ("length", "max_tokens", "stopped_by_limit", "not_finished", "aborted")),
    ],
)
def test_an_answer_that_ended_is_kept_with_how_it_ended(reason: str | None, finish: str) -> None:
    assert read({"content": GOOD}, reason).finish_reason == finish


def test_the_answer_is_the_choice_of_the_first_index() -> None:
    """Some servers list several as they finish."""
    first, other = ({"index": n, "message": {"content": text}} for n, text in ((0, GOOD), (1, "another")))
    assert answers.read_answer({"choices": [other, first]}).text == GOOD
    assert answers.read_answer({"choices": [{"message": {"content": GOOD}}, other]}).text == GOOD


def test_an_error_beside_the_choices_is_one() -> None:
    with pytest.raises(answers.GatewayFailed, match="cut off upstream"):
        read({"content": GOOD}, error={"message": "cut off upstream", "code": 502})
    assert read({"content": GOOD}, error=None).text == GOOD


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, answers.ServerBusy) for status in (503, 498, 529)),
        *((status, answers.GatewayFailed) for status in (502, 504, 520, 524)),
        *((status, answers.RequestFailed) for status in (500, 424, 499, 418, 431)),
        *((status, answers.Unusable) for status in (402, 405, 301)),
    ],
)
def test_a_status_says_whose_fault_it_is_and_how_long_to_wait(status: int, error: type[Exception]) -> None:
    """A status that was not known ended the job, and only 429 was asked how long it takes."""
    problem = problem_of(httpx2.Response(status, headers={"Retry-After": "20"}, json={"error": "no"}))
    assert type(problem) is error
    assert getattr(problem, "wait", 20) == 20


@pytest.mark.parametrize("status", [424, 499, 504])
def test_a_row_with_an_odd_status_is_set_aside(status: int) -> None:
    written = with_reply((status, {}, {"error": "Request failed during generation"}))
    assert [key for key, result in written.items() if result.failed] == ["k3"]


@pytest.mark.parametrize(
    ("variable", "proxy"),
    [
        ("ALL_PROXY", "socks5://u:hunter2@127.0.0.1:1"),
        ("HTTP_PROXY", "ftp://u:hunter2@127.0.0.1:1"),
        ("https_proxy", "http://[::1"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(variable: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(variable, proxy)
    monkeypatch.setitem(sys.modules, "socksio", None)  # as if it were not installed
    with pytest.raises(UserError, match=variable) as caught:
        write(engine_at("http://192.0.2.1:9/v1"), make_orders(1))
    assert "hunter2" not in str(caught.value)
    assert ("socksio" in caught.value.hint) == proxy.startswith("socks")


def test_the_reset_of_a_limit_that_is_not_used_up_is_no_wait() -> None:
    """Many gateways name it in every answer: one 503 held everything back for an hour, and ended the job."""
    headers = {"x-ratelimit-remaining": "4990", "x-ratelimit-reset": "3000", "ratelimit-reset": "50"}
    busy = answers.problem_of(httpx2.Response(503, headers=headers))
    assert isinstance(busy, answers.ServerBusy)
    assert busy.wait == 0
    limited = answers.problem_of(httpx2.Response(429, headers=headers))
    assert isinstance(limited, answers.RateLimited)
    assert limited.wait == 50, "the limit whose rest is not named"


def test_an_answer_may_begin_with_the_words_of_a_short_thought() -> None:
    beside = {"reasoning_content": "I"}
    assert read({"content": "I conclude that the writer is glad.", **beside}).text.startswith("I conclude")


def test_a_part_of_an_unknown_kind_is_a_part_of_the_answer() -> None:
    assert read({"content": [{"type": "message", "text": GOOD}]}).text == GOOD
