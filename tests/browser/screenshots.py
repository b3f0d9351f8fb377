"""The README's pictures, from a committed record: part of `nox -s reports`.

Light, dark and one layout opened, each a small PNG of a palette's colours.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, Page

from mimo_bench.record.files import read_run
from mimo_bench.report import HTML_FILE, write_report
from tests.browser import chromium

REPOSITORY = Path(__file__).parents[2]
PICTURES = REPOSITORY / "docs"
RECORDS = ("gpu4", "gpu2", "gpu1")
"""The first of these that is committed is shown."""
WIDTH, HEIGHT = 1280, 900


def main() -> None:
    """Take every picture anew."""
    directory = next(path for name in RECORDS if (path := REPOSITORY / "reports" / name).is_dir())
    record = read_run(directory)
    best = next(index for index, layout in enumerate(record.layouts) if layout.name == record.ranking[0].name)
    with tempfile.TemporaryDirectory() as folder, chromium.running() as browser:
        write_report(Path(folder), record)
        address = (Path(folder) / HTML_FILE).as_uri()
        for scheme in ("light", "dark"):
            _save(_open(browser, address, scheme=scheme).screenshot(), f"page-{scheme}")
        page = _open(browser, f"{address}#layout-{best}", scheme="light")
        page.mouse.move(0, 0)
        _save(page.screenshot(), "page-layout")
    print(f"pictures of {directory.relative_to(REPOSITORY)} in {PICTURES.relative_to(REPOSITORY)}/")


def _open(browser: Browser, address: str, *, scheme: Literal["light", "dark"]) -> Page:
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
    page.goto(address)
    return page


def _save(png: bytes, name: str) -> None:
    """A page has few colours: a palette keeps the picture small and sharp, and an octree keeps the rare ones true."""
    PICTURES.mkdir(exist_ok=True)
    colours = Image.open(io.BytesIO(png)).convert("RGB")
    picture = colours.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    picture.save(PICTURES / f"{name}.png", optimize=True)
