"""What the routes answer, and what they refuse."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from commands import LABELS
from served_models import SERVED, TEXTS, fake_classifier, serving, several_labels
from test_worker import Waiting

from rir_mlx.classification.scores import Prediction
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.errors import UserError
from rir_mlx.progress import Silent
from rir_mlx.prompting.codec import Codec
from rir_mlx.serving.guard import FILES, Policy, Slowdown
from rir_mlx.serving.server import ServeOptions, _logging, check_options
from rir_mlx.serving.wire import Served, classified
from rir_mlx.serving.worker import Limits
from rir_mlx.types import ReasonMode

FEELING = {"feeling": {"type": "choice", "criteria": dict.fromkeys(LABELS)}}
KEY = "0123456789abcdef0123"
LONG = {"a": "b " * 9999}
IS_IT = {"type": "predicate", "instructions": "Is it?"}
LEVELS = '{"state": "x", "questions": {"a": {"type": "score", "criteria": [%s]}}}'
EMPTY = {"type": "choice", "instructions": "", "choices": []}
HTTP = httpx2.Client(verify=False, timeout=30)
"""Made once: reading the certificates takes longer than a request."""


def error_of(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["message"]


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The server-sent events of a stream."""
    found = []
    for block in text.strip().split("\n\n"):
        if not block.startswith(":"):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_classify_answers_as_the_command_does(address: str, codec: Codec) -> None:
    response = HTTP.post(f"{address}/classify", json={"texts": TEXTS}).json()
    expected = fake_classifier(codec).predict(TEXTS, PredictOptions("always"))
    assert [found["reasoning"] for found in response["predictions"]] == [wanted.reasoning for wanted in expected]
    for found, wanted in zip(response["predictions"], expected, strict=True):
        assert found["abstained"] is (wanted.probability < 0.35)
        assert found["label"] == (None if found["abstained"] else wanted.label)
        assert found["probabilities"] == pytest.approx(wanted.probabilities)
    assert {found["abstained"] for found in response["predictions"]} == {True, False}


def test_a_request_s_threshold_stands_in_place_of_the_server_s(codec: Codec) -> None:
    classifier = several_labels(codec)
    expected = classifier.predict(TEXTS, PredictOptions("always"))
    with serving(classifier) as (address, _):

        def asked(**more: Any) -> list[dict[str, Any]]:
            return list(HTTP.post(f"{address}/classify", json={"texts": TEXTS, **more}).json()["predictions"])

        own, none, one = asked(), asked(threshold=0), asked(threshold=1)
        streamed = HTTP.post(f"{address}/classify", json={"texts": TEXTS[:1], "threshold": 0, "stream": True}).text
        assert HTTP.post(f"{address}/classify", json={"texts": ["x"], "threshold": 1.5}).status_code == 422
    assert {found["abstained"] for found in own} == {True, False}
    assert [(found["label"], found["labels"]) for found in one] == [(None, [])] * len(TEXTS)
    assert [(found["label"], found["labels"]) for found in none] == [(it.label, [*it.labels]) for it in expected]
    assert dict(events_of(streamed))["prediction"]["labels"] == none[0]["labels"]


@pytest.mark.parametrize("asked", [{"stream": True}, {}])
def test_a_stream_has_the_reasonings_in_pieces_then_the_predictions(
    address: str, codec: Codec, asked: Mapping[str, Any]
) -> None:
    headers = {} if asked else {"Accept": "text/event-stream"}
    response = HTTP.post(f"{address}/classify", json={"texts": TEXTS[:3], **asked}, headers=headers)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    expected = fake_classifier(codec).predict(TEXTS[:3], PredictOptions("always"))
    for place, wanted in enumerate(expected):
        pieces = [data["text"] for name, data in events if name == "reasoning" and data["index"] == place]
        assert "".join(pieces) == wanted.reasoning
        assert len(pieces) > 1
        [found] = [data for name, data in events if name == "prediction" and data["index"] == place]
        assert found["probabilities"] == pytest.approx(wanted.probabilities)
    assert events[-1] == (
        "done",
        {"model": "small", "calibrated": True, "usage": events[-1][1]["usage"]},
    )
    assert events[-1][1]["usage"]["output_tokens"] == sum(wanted.tokens for wanted in expected)


def test_a_failure_in_a_stream_is_its_last_event(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = fake_classifier(codec)
    monkeypatch.setattr(classifier.model, "generate", lambda *_, **__: 1 / 0)
    with serving(classifier) as (address, _):
        response = HTTP.post(f"{address}/classify", json={"texts": ["x"], "stream": True})
    [(name, data)] = events_of(response.text)
    assert (name, data["error"]["type"]) == ("error", "api_error")


def test_a_client_that_hangs_up_leaves_nothing_behind(codec: Codec) -> None:
    model = Waiting()
    with serving(fake_classifier(codec, model=model)) as (address, worker):
        for path, body in (("classify", {"texts": TEXTS, "stream": True}), ("classify", {"texts": TEXTS})):
            with (
                pytest.raises(httpx2.TimeoutException),
                HTTP.stream("POST", f"{address}/{path}", json=body, timeout=0.3) as response,
            ):
                response.read()
        model.go.release(200)
        until = time.monotonic() + 10
        while worker.rows and time.monotonic() < until:
            time.sleep(0.01)
        assert worker.rows == 0
        model.go.release(200)
        assert HTTP.post(f"{address}/classify", json={"texts": ["x"]}).status_code == 200


def test_what_is_in_flight_is_answered_when_the_server_stops(codec: Codec) -> None:
    model, found = Waiting(), list[httpx2.Response]()
    with serving(fake_classifier(codec, model=model)) as (address, worker):
        asking = threading.Thread(
            target=lambda: found.append(HTTP.post(f"{address}/classify", json={"texts": TEXTS}, timeout=30))
        )
        asking.start()
        while not worker.rows:
            time.sleep(0.005)
        threading.Timer(0.3, model.go.release, [500]).start()
    asking.join(10)
    assert [response.status_code for response in found] == [200]
    assert len(found[0].json()["predictions"]) == len(TEXTS)


def test_too_many_texts_get_503_and_a_time_to_come_again(codec: Codec) -> None:
    with serving(fake_classifier(codec), limits=Limits(rows=2)) as (address, _):
        response = HTTP.post(f"{address}/classify", json={"texts": TEXTS[:3]})
    assert response.status_code == 503
    assert 1 <= int(response.headers["retry-after"]) <= 60


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("v1/systemone", '{"state": ', 400, "Invalid JSON"),
        ("v1/systemone", '{"state": "\\ud800"}', 400, "Invalid JSON"),
        ("v1/systemone", "[" * 5000, 400, "recursion"),
        ("v1/systemone", "{}", 422, "state: Field required"),
        ("v1/systemone", {"state": "", "questions": FEELING}, 422, "the state: the text is empty"),
        ("v1/systemone", {"state": "x", "questions": {}}, 422, "at least 1"),
        ("v1/systemone", {"state": "x", "questions": {"a": {"type": "box"}}}, 422, "'box'"),
        ("v1/systemone", {"state": "x", "questions": {"a": {"type": "noul"}}}, 422, "needs instructions"),
        ("v1/systemone", {"state": "x", "questions": FEELING, "images": ["data:"]}, 422, "text alone"),
        ("v1/systemone", {"state": "x", "questions": FEELING, "reason": "maybe"}, 422, "'always'"),
        ("v1/systemone", {"state": "x", "questions": {"a": {"type": "choice", "criteria": LONG}}}, 422, "left"),
        ("v1/decisions", {"input": "x", "questions": [EMPTY]}, 422, "at least 2"),
        ("v1/decisions", {"input": "x", "questions": []}, 422, "at least 1"),
        ("v1/decisions", {"input": "a\0", "questions": [IS_IT]}, 422, "the input: the text holds a NUL byte"),
        ("v1/decisions", {"input": [{"role": "user", "content": "a\0"}], "questions": [IS_IT]}, 422, "a NUL byte"),
        ("v1/decisions", {"input": [{"role": "user", "content": " "}] * 2, "questions": [IS_IT]}, 422, "text is empty"),
        ("v1/systemone", LEVELS % '[NaN], "b"', 400, "NaN is no number"),
        ("v1/systemone", LEVELS % '{"x": -Infinity}, "b"', 400, "Infinity is no number"),
        ("v1/systemone", LEVELS % '{"x": [1e999]}, "b"', 400, "1e999 is no number"),
        ("v1/systemone", '{"state": {"a": NaN}, "questions": {}}', 400, "NaN is no number"),
        ("v1/systemone", '{"state": "x", "questions": {"a": {"type": "noul"}, "a": {}}}', 400, "'a' stands twice"),
        ("v1/systemone", '{"state": "x", "state": "y", "questions": {}}', 400, "'state' stands twice"),
        ("v1/systemone", '{"state": {"": 1, "": 2}, "questions": {}}', 400, "'' stands twice"),
        ("classify", {"texts": ["a", "\0"]}, 422, "texts[1]: the text holds a NUL byte"),
        ("classify", {"texts": ["a"] * 257}, 422, "at most 256"),
        ("classify", {"texts": "a"}, 422, "valid array"),
        ("classify", {"texts": ["a"], "reasons": "never"}, 422, "reasons: "),
    ],
)
def test_what_does_not_fit_is_refused_in_words(address: str, path: str, body: Any, status: int, message: str) -> None:
    raw = body if isinstance(body, str) else json.dumps(body)
    response = HTTP.post(f"{address}/{path}", content=raw, headers={"Content-Type": "application/json"})
    found = error_of(response)
    assert found[0] == status, found
    assert message in found[1]


def test_bodies_are_bounded_packed_or_not(address: str) -> None:
    def post(content: Any, **headers: str) -> httpx2.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return HTTP.post(f"{address}/classify", content=content, headers={"Content-Type": "application/json", **named})

    good, bomb = json.dumps({"texts": ["i was sad"]}).encode(), b" " * 5_000_000
    assert post(gzip.compress(good), Content_Encoding="gzip").status_code == 200
    assert post(gzip.compress(good) + b"more", Content_Encoding="gzip").status_code == 400
    assert post(gzip.compress(good) + gzip.compress(b" "), Content_Encoding="gzip").status_code == 400
    assert post(gzip.compress(bomb), Content_Encoding="gzip").status_code == 413
    assert post(gzip.compress(good)[:-9], Content_Encoding="gzip").status_code == 400
    assert post(good, Content_Encoding="gzip").status_code == 400
    assert post(good, Content_Encoding="br").status_code == 415
    assert post(bomb).status_code == 413
    assert post(bomb[start : start + 99_999] for start in range(0, 5_000_000, 99_999)).status_code == 413
    assert post(good, Content_Type="text/plain").status_code == 415
    zstd = pytest.importorskip("backports.zstd")
    assert post(zstd.compress(good), Content_Encoding="zstd").status_code == 200
    assert post(zstd.compress(bomb), Content_Encoding="zstd").status_code == 413


def status_line(connection: socket.socket) -> bytes:
    """Of an answer whose body is an object, which is read to its end."""
    data = b""
    while not data.endswith(b"}"):
        data += connection.recv(4096)
    return data.partition(b"\r\n")[0]


def test_a_connection_without_a_whole_head_is_closed_and_one_that_asks_is_kept(codec: Codec) -> None:
    """Some hundreds that sent nothing, or half a head, locked everybody out for ever."""
    model = Waiting()
    head = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    body = json.dumps({"texts": ["x"]}).encode()
    post = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with serving(fake_classifier(codec, model=model), head_seconds=0.3) as (address, _), ExitStack() as opened:
        place = "127.0.0.1", int(address.rpartition(":")[2])
        connections = [opened.enter_context(socket.create_connection(place, timeout=10)) for _ in range(4)]
        silent, half, later, asking = connections
        half.sendall(head)
        later.sendall(head + b"\r\n")
        assert status_line(later) == b"HTTP/1.1 200 OK"
        later.sendall(head)
        asking.sendall(post % len(body) + body)
        assert [connection.recv(4096) for connection in (silent, half, later)] == [b"", b"", b""]
        model.go.release(200)
        assert status_line(asking) == b"HTTP/1.1 200 OK"
        time.sleep(0.5)
        asking.sendall(head + b"\r\n")
        assert status_line(asking) == b"HTTP/1.1 200 OK"


def test_a_body_whose_length_is_given_twice_is_refused(address: str) -> None:
    """Programs between a client and the server may read it as two requests (RFC 9112, section 6.1)."""
    head = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    body = json.dumps({"texts": ["x"]}).encode()
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    twice = b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(body)
    once = b"Transfer-Encoding: chunked\r\n\r\n"
    place = "127.0.0.1", int(address.rpartition(":")[2])
    for lengths, status in ((once, b"HTTP/1.1 200 OK"), (twice, b"HTTP/1.1 400 Bad Request")):
        with socket.create_connection(place, timeout=10) as connection:
            connection.sendall(head + lengths + chunk)
            assert status_line(connection) == status


def test_only_this_server_s_own_names_and_pages_may_ask(address: str, codec: Codec) -> None:
    """A page whose name was rebound to this machine sends its own name as Host; another site's page, its Origin."""
    port = address.rpartition(":")[2]

    def status(**headers: str) -> int:
        return HTTP.get(f"{address}/v1/models", headers=headers).status_code

    assert [status(Host=f"{name}:{port}") for name in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]")] == [200] * 4
    assert [status(Host=name) for name in ("evil.example", f"localhost.evil.example:{port}", "a b", "u@localhost")] == [
        403
    ] * 4
    assert status(Origin=f"http://127.0.0.1:{port}") == 200
    assert [status(Origin=origin) for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "")] == [403] * 4
    allowed = HTTP.options(f"{address}/classify", headers={"Access-Control-Request-Method": "POST"})
    assert allowed.status_code == 405
    assert not [name for name in allowed.headers if name.startswith("access-control")]
    with serving(fake_classifier(codec), Policy(frozenset({"rir.lan"}))) as (named, _):
        assert HTTP.get(f"{named}/health", headers={"Host": "rir.lan"}).status_code == 200


def test_a_key_opens_everything_but_what_tells_nothing(codec: Codec) -> None:
    with serving(fake_classifier(codec), Policy(key=KEY)) as (address, _):
        begun = time.monotonic()
        wrong = HTTP.get(f"{address}/v1/models", headers={"Authorization": "Bearer wrong"})
        assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")
        assert time.monotonic() - begun > 0.25
        right = {"Authorization": f"Bearer {KEY}"}
        assert HTTP.get(f"{address}/v1/models", headers=right).status_code == 200
        assert HTTP.post(f"{address}/classify", json={"texts": ["x"]}, headers=right).status_code == 200
        for path in (*FILES, "/health", "/docs", "/openapi.json"):
            assert HTTP.get(f"{address}{path}").status_code == 200


def test_a_key_is_sent_as_a_bearer_s() -> None:
    policy = Policy(key=KEY)
    assert policy.is_key(f"Bearer {KEY}")
    assert policy.is_key(f"bearer  {KEY} ")
    for given in ("", KEY, "Bearer", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer é"):
        assert not policy.is_key(given)
    assert KEY not in repr(policy)


def test_wrong_keys_wait_longer_each_time_and_are_forgiven_later() -> None:
    slow = Slowdown()
    assert [slow.delay("a", now) for now in (0, 1, 2, 3, 4, 5, 6)] == [0.25, 0.5, 1, 2, 4, 8, 8]
    assert slow.delay("b", 6) == 0.25
    assert slow.delay("a", 607) == 0.25


def test_the_page_comes_with_all_that_it_needs_and_nothing_inline(address: str) -> None:
    page = HTTP.get(f"{address}/")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"<script>|<style>|\bstyle=|\bon\w+=|//", page.text)
    scripts = [name for name in FILES if name.endswith(".js")]
    assert len(scripts) == 5
    for name in re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page.text):
        assert f"/{name}" in FILES
    for name in scripts:
        script = HTTP.get(f"{address}{name}")
        assert script.headers["content-type"].startswith("text/javascript")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|https?:", script.text)
        assert {f"/{used}" for used in re.findall(r'from "\./(\w+\.js)"', script.text)} <= set(scripts)
        for used in re.findall(r'\bby\("([\w-]+)"\)', script.text):
            assert f'id="{used}"' in page.text, used


def test_every_route_is_described_without_anything_of_another_server(address: str) -> None:
    described = HTTP.get(f"{address}/openapi.json").json()
    assert set(described["paths"]) == {"/v1/systemone", "/v1/decisions", "/classify", "/v1/models", "/health"}
    for path, methods in described["paths"].items():
        if "post" in methods:
            content = methods["post"]["requestBody"]["content"]["application/json"]
            assert content["schema"]["$ref"].rpartition("/")[2] in described["components"]["schemas"]
            assert HTTP.post(f"{address}{path}", json=content["example"]).status_code == 200
    page = HTTP.get(f"{address}/docs")
    assert all(path in page.text for path in described["paths"])
    assert "//" not in page.text.replace('"http://json', "")
    assert "script-src 'self'" in page.headers["content-security-policy"]


def test_a_prediction_is_held_to_the_threshold_of_the_way_in_which_it_was_asked_for() -> None:
    """With `auto` a text was held to the threshold of how it came to be scored, and not to the one that was measured
    for `auto`: the doubtful rows alone reach the wanted accuracy at another one."""
    prediction = Prediction("joy", {"joy": 0.33, "sadness": 0.33, "anger": 0.32}, 0.9, reasoning="because")
    served = replace(SERVED, thresholds=dict(SERVED.thresholds) | {"auto": 0.33})
    reasons: tuple[ReasonMode, ...] = ("never", "always", "auto")

    def abstained(served: Served) -> list[bool]:
        return [classified(prediction, served, reason).abstained for reason in reasons]

    assert abstained(served) == [False, True, False]
    assert abstained(replace(served, arm="qar")) == [False] * 3, "it writes the label first"
    assert abstained(SERVED) == [False, True, True], "not measured for auto: the highest"
    assert abstained(replace(SERVED, thresholds={})) == [False] * 3


def test_the_log_does_not_tell_the_report_s_address() -> None:
    said = list[str]()

    class Told(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    log = _logging(Told())
    log("GET", "/report/a-secret", 200, 0.01)
    log("GET", "/review", 200, 0.01)
    assert said == ["GET /report/… 200 10 ms", "GET /review 200 10 ms"]


def test_no_text_can_be_answered_without_waiting() -> None:
    with pytest.raises(UserError, match="none would be answered"):
        check_options(ServeOptions(seconds=0))
