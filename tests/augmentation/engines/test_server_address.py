"""Addresses, keys and models of a server: what is refused, and what is shown nowhere."""

from __future__ import annotations

import logging

import pytest
from server_requests import KEY, engine_at, free_port, make_orders, write
from server_stand_in import Reply, StandInServer, echo

from rir_mlx.augmentation.engines.address import Server, is_same_server
from rir_mlx.errors import Failure, RirError, UserError


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
        assert {headers["authorization"] for headers in fake.headers} == {f"Bearer {KEY}"}
        shown += [str(caught.value), repr(caught.value), repr(engine), repr(engine.server), str(engine.identity())]
    assert len(shown) == 25
    assert not any(KEY[:8] in text for text in (*shown, caplog.text))


def test_no_authorization_is_sent_where_the_variable_is_not_set() -> None:
    fake = StandInServer(echo)
    with fake.running() as url:
        write(engine_at(url), make_orders(1))
    assert not any("authorization" in headers for headers in fake.headers)


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
    fake.models = 200, {}, {"data": [{"id": "llama-3b"}, {"id": "llama\x1b-8b\n"}]}
    with fake.running() as url, pytest.raises(UserError, match=r"'lama-8b'.*does not exist") as caught:
        write(engine_at(url, model="lama-8b"), make_orders(1))
    assert caught.value.hint == "It lists llama-3b, llama -8b. Did you mean 'llama -8b'?"


def test_an_address_without_v1_is_said_to_want_it() -> None:
    fake = StandInServer(lambda body: (404, {}, b"Not Found"))
    fake.models = 404, {}, b"Not Found"
    with fake.running() as url, pytest.raises(UserError, match="ends in /v1"):
        write(engine_at(url.removesuffix("/v1")), make_orders(1))


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


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:8080/v1", "localhost:8080/v1", "ftp://host/v1", "http://", "http://host:99999", "file:///v1"),
        *("http://host:-1/v1", "http://a..b/v1", f"http://{'a' * 64}.com/v1", "http://[::1/v1", "http://host／.b/v1"),
    ],
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
    ("other", "same"),
    [
        *[(f"http://{host}/v1", True) for host in ("named.com", "NAMED.com:80", "named.com:080", "named.com:")],
        *[("http://named.com/v1@else.com", True), ("HTTP://named.com/other", True)],
        *[("https://named.com/v1", False), ("http://named.com:81/v1", False), ("http://named.com./v1", False)],
        *[("http://named.com\\@else.com/v1", False), ("http://else.com#@named.com/v1", False)],
        *[("http://named.com@else.com/v1", False), ("http://named.com.else.com/v1", False)],
        *[("http://named.com%2eelse.com/v1", False), ("http://nаmed.com/v1", False)],  # a Cyrillic letter
        *[("http://named.com／.else.com/v1", False), ("http://[::1/v1", False), ("", False), ("named.com", False)],
    ],
)
def test_only_an_address_of_the_same_host_and_port_is_the_one_that_the_user_named(other: str, same: bool) -> None:
    """Two parsers read addresses, and one of them raised ValueError for a bracket that was open."""
    assert is_same_server("http://named.com/v1", other) is same
    assert is_same_server(other, "http://named.com/v1") is same


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
    assert engine_at(url).server.remote is remote


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
