"""A Chromium that tests drive through Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser of this machine; skips the test where there is none. While it is open, asyncio has a running loop in
    this thread: use it in one module, and close it at its end."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium here; Debian's package is called chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def assert_count(elements: Any, count: int) -> None:
    """So many elements are on the page, or soon will be."""
    from playwright.sync_api import expect

    expect(elements).to_have_count(count, timeout=60_000)


def assert_value(field: Any, text: str) -> None:
    """The field holds the text, or soon will."""
    from playwright.sync_api import expect

    expect(field).to_have_value(text, timeout=60_000)


def assert_says(element: Any, *said: str, exactly: bool = False) -> None:
    """The element shows each of these texts, or soon will: a page may show what it is told before what it fetches."""
    from playwright.sync_api import expect

    for text in said:
        if exactly:
            expect(element).to_have_text(text, timeout=60_000, use_inner_text=True)
        else:
            expect(element).to_contain_text(text, timeout=60_000, use_inner_text=True)


class Page:
    """A page of the server, and everything that went wrong on it: errors of scripts, what the policy refused, requests
    to other servers."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.address, self.faults = address, list[str]()
        self.context = browser.new_context(**({"reduced_motion": "reduce"} | options))
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        self.page.on("request", self._check)
        self.page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))

    def _check(self, request: Any) -> None:
        if not request.url.startswith((self.address, "blob:", "data:", "about:")):
            self.faults.append(f"asks {request.url}")

    def __enter__(self) -> Any:
        self.page.goto(self.address)
        return self.page

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.faults == []
