"""Generated pages are what the code says today."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import generated


@pytest.mark.parametrize(("path", "text"), generated.pages().items(), ids=lambda value: getattr(value, "name", ""))
def test_a_generated_page_is_up_to_date(path: Path, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, "run nox -s docs"
