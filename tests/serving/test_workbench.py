"""The routes of the page: what they answer of a run, and what they refuse."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import MARKUP
from evaluated_run import export_of, opened, reopened_export
from review_runs import lines_of
from served_models import described, fake_classifier, served_run, serving
from test_routes import HTTP, KEY, error_of, events_of
from test_worker import Waiting

from rir_mlx.backends.fake import FakeModel
from rir_mlx.classification.loading import load_classifier
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.data.loading import load_labelled
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.schema import Recipe
from rir_mlx.review.new_tables import write_new_tables
from rir_mlx.serving.guard import Policy, Slowdown
from rir_mlx.serving.jobs import Busy
from rir_mlx.serving.workbench.arms import Arms, Loaded
from rir_mlx.serving.workbench.tables import TABLE_BYTES, TableRequest
from rir_mlx.serving.worker import Limits, Worker
from rir_mlx.storage.layout import RunDir
from rir_mlx.types import Arm

GETS = ("run", "threshold", "review", "review/rows", "review/row?id=train:2")
POSTS = ("tables?name=a.csv", "review/decide", "review/undo")


@pytest.fixture
def there(small: tuple[RunDir, Recipe], codec: Codec) -> Iterator[str]:
    classifier = fake_classifier(codec)
    with serving(classifier, source=served_run(*small, classifier)) as (address, _):
        yield address


def get(address: str, path: str, **values: Any) -> Any:
    answer = HTTP.get(f"{address}/{path}", params=values)
    assert answer.status_code == 200, answer.text
    return answer.json()


def decision(address: str, row: str, **values: Any) -> httpx2.Response:
    found = get(address, "review/row", id=row)
    body = {"row": row, "seen": found["version"], "digest": found["digest"], "action": "edit", "label": found["label"]}
    return HTTP.post(f"{address}/review/decide", json=body | values)


def test_every_route_asks_for_the_key_and_refuses_other_hosts_and_pages(
    small: tuple[RunDir, Recipe], codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slowdown, "delay", lambda *_: 0.0)
    classifier = fake_classifier(codec)
    with serving(classifier, Policy(key=KEY), source=served_run(*small, classifier)) as (address, _):
        right = {"Authorization": f"Bearer {KEY}"}
        for path in (*GETS, *POSTS):
            method = "POST" if path in POSTS else "GET"
            for headers, status in (
                ({}, 401),
                (right | {"Host": "evil.example"}, 403),
                (right | {"Origin": "http://evil.example"}, 403),
                (right | {"Origin": "null"}, 403),
                (right | {"Origin": "http://["}, 403),
            ):
                wrong = HTTP.request(method, f"{address}/{path}", headers=headers)
                assert wrong.status_code == status, (path, headers)
        assert HTTP.get(f"{address}/run", headers=right).status_code == 200
        report = HTTP.get(f"{address}/run", headers=right).json()["report"]
        assert HTTP.get(f"{address}/{report}").status_code == 200
        assert HTTP.get(f"{address}/report/{KEY}").status_code == 404
    assert not small[0].review.exists()


def test_a_form_of_another_site_cannot_write(there: str, small: tuple[RunDir, Recipe]) -> None:
    """What a page can send without being asked first: a form's kinds of body. Some browsers leave the Origin out."""
    body = json.dumps({"row": "train:2", "seen": 0, "action": "accept", "label": "joy"})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        for path in POSTS:
            answer = HTTP.post(f"{there}/{path}", content=body, headers={"Content-Type": kind})
            assert answer.status_code == 415, (path, kind)
    assert not small[0].review.exists()


def test_the_report_has_no_origin_and_may_be_framed_by_the_page_alone(there: str) -> None:
    report = HTTP.get(f"{there}/{get(there, 'run')['report']}")
    policies = report.headers.get_list("content-security-policy")
    assert len(policies) == 1
    assert {"sandbox allow-scripts", "frame-ancestors 'self'", "default-src 'none'"} <= set(policies[0].split("; "))
    for path in ("report/", "report/x", "report/../review", "report/%2e%2e/run", "report/x/../../run"):
        assert HTTP.get(f"{there}/{path}").status_code in (404, 200)
        assert "<h1>Report" not in HTTP.get(f"{there}/{path}").text
    assert "frame-ancestors 'none'" in HTTP.get(f"{there}/").headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("threshold?arm=qar", 404, "has not been measured"),
        ("threshold?arm=../../etc", 422, "arm"),
        ("review/rows?filter=other", 422, "filter"),
        ("review/rows?limit=100000", 422, "limit"),
        ("review/rows?offset=-1", 422, "offset"),
        ("review/rows?search=" + "x" * 501, 422, "search"),
        ("review/row?id=../../../etc/passwd", 404, "no such row"),
        ("review/row?id=" + "x" * 201, 422, "id"),
        ("review/row", 422, "id"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(there: str, path: str, status: int, message: str) -> None:
    found = error_of(HTTP.get(f"{there}/{path}"))
    assert found[0] == status, found
    assert message in found[1]


def test_texts_labels_and_reasonings_are_data_whatever_they_look_like(there: str) -> None:
    [row] = get(there, "review/rows", search="<img src=x")["rows"]
    answer = HTTP.get(f"{there}/review/row", params={"id": row["id"]})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()["text"] == MARKUP


def test_decisions_are_checked_saved_and_applied(there: str, small: tuple[RunDir, Recipe], tmp_path: Path) -> None:
    run, recipe = small
    data = load_labelled(recipe.data, recipe.seed)
    row, tested = data.train[1], data.test[0]
    assert error_of(decision(there, row.id, label="fear"))[0] == 422
    assert error_of(decision(there, row.id, action="delete"))[0] == 422
    assert error_of(decision(there, row.id, reasoning=" "))[0] == 422
    assert error_of(decision(there, row.id, reasoning="a\0b"))[0] == 422
    assert error_of(decision(there, row.id, reasoning="x" * 20_001))[0] == 422
    assert "test rows" in error_of(decision(there, tested.id, reasoning="because"))[1]
    nowhere = {"row": "train:999", "seen": 0, "digest": "", "action": "edit", "label": "joy"}
    assert HTTP.post(f"{there}/review/decide", json=nowhere).status_code == 404
    large = HTTP.post(f"{there}/review/decide", json=nowhere | {"reasoning": "x" * 2_000_000})
    assert large.status_code == 413
    assert not run.review.exists()
    saved = decision(there, row.id, reasoning=MARKUP)
    assert saved.json()["decided"] == {"action": "edit", "label": row.label, "reasoning": MARKUP}
    assert lines_of(run.review)[0]["text"] == row.text
    assert error_of(decision(there, row.id, seen=0))[0] == 409
    assert get(there, "review")["decided"] == 1
    assert [found["id"] for found in get(there, "review/rows", state="done")["rows"]] == [row.id]
    written = write_new_tables(run, recipe, tmp_path / "new.csv")
    assert written.reasonings == 1
    back = {"row": row.id, "digest": saved.json()["digest"]}
    undone = HTTP.post(f"{there}/review/undo", json=back | {"seen": 1}).json()
    assert undone["decided"] is None
    assert error_of(HTTP.post(f"{there}/review/undo", json=back | {"seen": 2}))[0] == 422


def test_a_row_that_changed_is_not_shown_as_decided(there: str, small: tuple[RunDir, Recipe], tmp_path: Path) -> None:
    row = load_labelled(small[1].data, small[1].seed).train[1]
    decision(there, row.id, reasoning="because")
    table = (tmp_path / "rows.csv").read_text(encoding="utf-8").replace(row.text, "another text")
    (tmp_path / "rows.csv").write_text(table, encoding="utf-8")
    overview = get(there, "review")
    assert (overview["changed"], overview["lost"], overview["decided"]) == (True, 1, 0)
    assert get(there, "review/rows", state="done")["total"] == 0


def post_table(address: str, body: Any, **values: Any) -> httpx2.Response:
    headers = {"Content-Type": "application/octet-stream"}
    return HTTP.post(f"{address}/tables", params={"name": "a.csv"} | values, content=body, headers=headers)


def test_tables_are_bounded_named_safely_and_their_faults_told(there: str) -> None:
    assert post_table(there, b" " * (TABLE_BYTES + 1)).status_code == 413
    assert post_table(there, b"text\nx\n", threshold=2).status_code == 422
    assert post_table(there, b"text\nx\n", arm="qar").status_code == 422
    events = dict(events_of(post_table(there, b"text\nhello\n", name="../../../tmp/x.csv").text))
    assert events["done"]["name"] == "x-classified.csv"
    for body, name, message in (
        (b"text\na,b\nc\n", "a.csv", "1 of 2 rows cannot be used"),
        (b"PK\x03\x04", "a.xyz", "files ending in .xyz cannot be read"),
        (b"", "a.csv", "empty"),
        (b"one,two\n1,2\n", "a.csv", "text"),
        (b'text\n"' + MARKUP.encode() + b"\n", "a.csv", "quotation"),
    ):
        [*_, (kind, error)] = events_of(post_table(there, body, name=name).text)
        assert kind == "error"
        assert message in error["error"]["message"], error
        assert "/tmp" not in error["error"]["message"]


def test_a_table_comes_out_of_a_server_that_takes_few_texts_with_the_run_s_own_thresholds(
    small: tuple[RunDir, Recipe], codec: Codec
) -> None:
    classifier = fake_classifier(codec)
    name = "語" * 200 + ".csv"
    assert len(TableRequest(name=name).file.encode()) <= 120
    source = served_run(*small, classifier)
    with serving(classifier, limits=Limits(rows=3, together=8), source=source) as (address, _):
        answer = post_table(address, b"text\n" + b"hello\n" * 9 + b"a,b\n", name=name).text
        assert events_of(answer)[-1][0] == "error"  # a row of two cells
        events = events_of(post_table(address, b"text\n" + b"hello\n" * 9, name=name).text)
        done = dict(events)["done"]
        assert (done["rows"], done["pieces"]) == (9, sum(kind == "table" for kind, _ in events))
        [header, first, *_] = "".join(data["text"] for kind, data in events if kind == "table").splitlines()
        assert header == "text,label,probability,reasoning,abstained"
        shown = dict(events)["rows"]["rows"][0]
        assert shown["abstained"] == (shown["probability"] < 0.35)
        assert first.endswith(str(shown["abstained"]).lower())


def test_errors_tell_no_folder_of_this_machine(there: str, small: tuple[RunDir, Recipe], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nx\n", encoding="utf-8")
    for path in ("review", "review/rows"):
        status, message = error_of(HTTP.get(f"{there}/{path}"))[:2]
        assert status == 422
        assert "rows.csv" in message
        assert str(tmp_path) not in message
    small[0].predictions("qra").write_text('{"predicted": "joy"}\n', encoding="utf-8")
    message = error_of(HTTP.get(f"{there}/threshold"))[1]
    assert "line 1, cannot be read: it has no 'probabilities'" in message
    assert str(tmp_path) not in message


def test_a_table_that_nobody_waits_for_ends_and_leaves_its_place(small: tuple[RunDir, Recipe], codec: Codec) -> None:
    model = Waiting()
    classifier = fake_classifier(codec, model=model)
    with serving(classifier, source=served_run(*small, classifier)) as (address, worker):
        body = b"text\n" + b"hello\n" * 200
        for _ in range(3):
            headers = {"Content-Type": "application/octet-stream"}
            with pytest.raises(httpx2.TimeoutException):
                HTTP.post(f"{address}/tables?name=a.csv", content=body, headers=headers, timeout=0.5)
        until = time.monotonic() + 20
        while any(thread.name == "rir-mlx-table" for thread in threading.enumerate()) and time.monotonic() < until:
            model.go.release(20)
            time.sleep(0.05)
        assert not [thread for thread in threading.enumerate() if thread.name == "rir-mlx-table"]
        model.go.release(10_000)
        assert dict(events_of(post_table(address, b"text\nhello\n").text))["done"]["rows"] == 1
        assert worker.rows == 0


def test_a_table_whose_client_left_is_not_classified_to_its_end(small: tuple[RunDir, Recipe], codec: Codec) -> None:
    """Whether somebody waits was looked at only where a few rows took half a second."""
    scored = list[int]()

    class Slow(FakeModel):
        def score(self, prompts: Any, *rest: Any, **more: Any) -> Any:
            time.sleep(0.02)
            scored.append(len(prompts))
            return super().score(prompts, *rest, **more)

    classifier = fake_classifier(codec, model=Slow(400))
    with serving(classifier, source=served_run(*small, classifier)) as (address, _):
        headers = {"Content-Type": "application/octet-stream"}
        url = f"{address}/tables?name=a.csv&reason=never"
        with HTTP.stream("POST", url, content=b"text\n" + b"hello\n" * 4000, headers=headers) as answer:
            next(answer.iter_bytes())
        until = time.monotonic() + 20
        while any(thread.name == "rir-mlx-table" for thread in threading.enumerate()) and time.monotonic() < until:
            time.sleep(0.02)
    assert 0 < sum(scored) < 3000


def test_another_arm_answers_once_it_is_loaded_and_gives_way_to_a_third(
    small: tuple[RunDir, Recipe], codec: Codec
) -> None:
    run, recipe = small
    for arm in ("qa", "qar"):
        run.classifier(arm).folder.mkdir()
        run.classifier(arm).record.write_text("{}", encoding="utf-8")
    loads = list[Arm]()

    def load(arm: Arm) -> Any:
        loads.append(arm)
        return fake_classifier(codec, arm)

    main = fake_classifier(codec)
    with serving(main, source=served_run(run, recipe, main, load)) as (address, _):
        assert [arm["loaded"] for arm in get(address, "run")["arms"]] == [True, False, False]
        for arm, reasons in (("qa", False), ("qa", False), ("qar", True), ("qra", True)):
            body = {"texts": ["hello"], "arm": arm}
            [found] = HTTP.post(f"{address}/classify", json=body).json()["predictions"]
            assert (found["reasoning"] is not None) is reasons
        assert loads == ["qa", "qar"]
        assert HTTP.post(f"{address}/classify", json={"texts": ["x"], "arm": "multitask"}).status_code == 422
        assert dict(events_of(post_table(address, b"text\nhello\n", arm="qar").text))["done"]["rows"] == 1
        assert [arm["loaded"] for arm in get(address, "run")["arms"]] == [True, False, True]


def test_an_arm_that_works_on_a_table_is_not_taken_away(small: tuple[RunDir, Recipe], codec: Codec) -> None:
    main = fake_classifier(codec)
    worker = Worker(lambda: main)
    arms = Arms(
        served_run(*small, main, lambda arm: fake_classifier(codec, arm)), Loaded(worker, described(main)), Limits()
    )
    kept = arms.get("qa", keep=True)
    assert arms.get("qa").worker is kept.worker
    with pytest.raises(Busy):
        arms.get("qar")
    assert kept.worker.alive
    arms.let_go("qa")
    assert arms.get("qar").served.arm == "qar"
    assert not kept.worker.alive
    arms.stop(10)


def test_a_server_without_a_run_has_one_arm_and_no_review(address: str) -> None:
    assert HTTP.post(f"{address}/classify", json={"texts": ["x"], "arm": "qa"}).status_code == 422
    assert {HTTP.get(f"{address}/{path}").status_code for path in GETS} == {404}


@pytest.mark.parametrize("place", ["os.fsync", "os.write", "os.open", "tempfile.mkdtemp", "pathlib.Path.write_bytes"])
def test_a_full_disk_is_one_clear_answer_loses_no_decision_and_the_server_goes_on(
    there: str, small: tuple[RunDir, Recipe], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A table that found no room ended its stream without a word, or as "The server failed to answer.".

    Of every write, `benchmarks/trouble/full_disk.py` says the same."""
    assert decision(there, "train:2", action="skip").status_code == 200
    kept = small[0].review.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    table, octets = "text\ni was sad\n", {"Content-Type": "application/octet-stream"}
    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        answers = [decision(there, "train:3", label="joy"), decision(there, "train:2", action="skip")]
        sent = HTTP.post(f"{there}/tables?name=a.csv", content=table, headers=octets)
        assert HTTP.get(f"{there}/health").status_code == 200
    told = [error_of(answer)[1] for answer in answers if answer.status_code != 200]
    kinds, last = [kind for kind, _ in events_of(sent.text)], events_of(sent.text)[-1][1]
    told += [last["error"]["message"]] if kinds[-1] == "error" else []
    assert told
    for message in told:
        assert "No space left on device (" in message
        assert "Make room" in message
        assert "/rir-mlx-" not in message
    if place not in ("tempfile.mkdtemp", "pathlib.Path.write_bytes"):
        assert [answer.status_code for answer in answers] == [500, 500]
        assert small[0].review.read_bytes() == kept
        assert decision(there, "train:3", label="joy").status_code == 200
    assert [line["row"] for line in lines_of(small[0].review)][:2] == ["train:2", "train:3"]
    sent = HTTP.post(f"{there}/tables?name=a.csv", content=table, headers=octets)
    assert events_of(sent.text)[-1][0] == "done"


@pytest.mark.slow
def test_an_export_is_served_with_the_answers_of_its_run_and_without_rows(evaluated_run: Path, tmp_path: Path) -> None:
    run, arm = opened(str(evaluated_run)), "qar"
    again, texts = reopened_export(export_of(run, arm, tmp_path / "out")), ["i feel happy 3", "i was sad 5"]
    source = served_run(again.run, again.recipe, load_classifier(again.run, again.model, arm))
    with serving(source.load(arm), source=source) as (address, _):
        answered = HTTP.post(f"{address}/classify", json={"texts": texts}).json()["predictions"]
        about = get(address, "run")
        missing = [error_of(HTTP.get(f"{address}/{path}")) for path in ("threshold", "review", "review/rows")]
        other = HTTP.post(f"{address}/classify", json={"texts": texts, "arm": "qa"})
    expected = load_classifier(run.run, run.model, arm).predict(texts, PredictOptions("always"))
    assert [found["probabilities"] for found in answered] == [wanted.probabilities for wanted in expected]
    assert [found["reasoning"] for found in answered] == [wanted.reasoning for wanted in expected]
    assert ([found["name"] for found in about["arms"]], about["report"]) == ([arm], None)
    assert all(status == 404 and text.endswith("serve the run that it comes from.") for status, text in missing)
    assert (other.status_code, "no trained qa classifier" in other.text) == (422, True)
