"""The page, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from browsers import Page, chromium
from served_models import CALIBRATION, TASK, TEXTS, fake_classifier, serving
from test_worker import Waiting

from rir_mlx.backends.fake import FakeModel
from rir_mlx.classification.classifier import Classifier
from rir_mlx.prompting.codec import Codec
from rir_mlx.serving.guard import Policy

MANY = (*(f"label {number:02}" for number in range(76)), "<img src=x onerror=alert(1)>")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
KEY = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def classify(page: Any, text: str) -> None:
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Classify").click()


def test_the_reasoning_appears_while_it_is_written_and_then_every_label(browser: Any, codec: Codec) -> None:
    model = Waiting()
    with serving(fake_classifier(codec, model=model)) as (address, _), Page(browser, address) as page:
        classify(page, TEXTS[0])
        model.go.release(2)
        page.wait_for_function("document.querySelector('.reasoning.open')?.textContent.length > 0")
        shown = page.locator(".reasoning").inner_text()
        assert page.locator(".verdict").inner_text() == ""
        model.go.release(200)
        page.locator(".verdict:not(:empty)").wait_for()
        whole = page.locator(".reasoning").inner_text()
        assert whole.startswith(shown)
        assert len(shown) < len(whole)
        model.go.release(200)
        answer = httpx2.post(f"{address}/classify", json={"texts": TEXTS[:1]}).json()["predictions"][0]
        assert whole == answer["reasoning"].strip()
        assert page.locator("progress").count() == 3


def test_seventy_seven_labels_are_all_there_and_no_text_becomes_markup(browser: Any, codec: Codec) -> None:
    task = replace(TASK, labels=dict.fromkeys(MANY, ""), max_seq_length=2000)
    classifier = Classifier(FakeModel(400), codec, task, "qra", CALIBRATION)
    with serving(classifier) as (address, _), Page(browser, address) as page:
        classify(page, HOSTILE)
        page.get_by_text("71 more labels").click()
        assert sorted(page.locator(".bars th").all_inner_texts()) == sorted(MANY)
        assert page.locator(".given").inner_text() == HOSTILE
        assert page.locator("#results img, #results script").count() == 0


def test_a_server_with_a_key_is_asked_with_it(browser: Any, codec: Codec) -> None:
    with serving(fake_classifier(codec), Policy(key=KEY)) as (address, _):
        opened = Page(browser, address)
        with opened as page:
            page.get_by_label("API key").fill(KEY)
            page.get_by_label("API key").press("Tab")
            page.get_by_text("rir-mlx classifier (qra)").wait_for()
            classify(page, TEXTS[0])
            page.locator(".verdict:not(:empty)").wait_for()
            assert len(opened.faults) == 1
            assert "401" in opened.faults.pop()
