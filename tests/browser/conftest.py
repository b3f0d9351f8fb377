"""Pages opened from the file system, as a reader opens them, and watched for what a page must not do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from mimo_bench.record import RunRecord
from mimo_bench.report import HTML_FILE, write_report
from tests.browser import chromium

OpenReport = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    with chromium.running() as found:
        yield found


@pytest.fixture
def open_report(browser: Browser, tmp_path: Path) -> Iterator[OpenReport]:
    """Render a record and open its page; at the end nothing must have been complained of or asked from elsewhere."""
    noise: list[str] = []

    def open_it(record: RunRecord, *, at: str = "", width: int = 1280, **context: object) -> Page:
        write_report(tmp_path, record)
        page = browser.new_context(viewport={"width": width, "height": 900}, **context).new_page()  # type: ignore[arg-type]
        address = (tmp_path / HTML_FILE).as_uri()
        page.on("console", lambda message: noise.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: noise.append(f"error: {error}"))
        page.on("request", lambda asked: noise.append(f"request: {asked.url}") if asked.url != address else None)
        page.on("dialog", lambda dialog: noise.append(f"dialog: {dialog.message}"))
        page.goto(address + at)
        return page

    yield open_it
    for context in browser.contexts:
        context.close()
    assert noise == []
