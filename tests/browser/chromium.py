"""A real headless Chromium, as the system has it: nothing is downloaded, and it needs no display."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from noxfile import CHROMIUMS


def executable() -> str | None:
    """The path of the first Chromium found; None where there is none."""
    return next((path for name in CHROMIUMS if (path := shutil.which(name))), None)


@contextmanager
def running() -> Iterator[Browser]:
    """A browser that is closed with the context.

    Raises:
        FileNotFoundError: there is no Chromium.
    """
    if (path := executable()) is None:
        raise FileNotFoundError(f"no Chromium: none of {', '.join(CHROMIUMS)} is on PATH; apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()
