"""Page, summary and `junit.xml` of a run, written into its directory."""

from __future__ import annotations

from pathlib import Path

from mimo_bench.record import RunRecord
from mimo_bench.report.changes import Changes, changes_of
from mimo_bench.report.html.page import render_html
from mimo_bench.report.junit import render_junit
from mimo_bench.report.markdown import render_markdown
from mimo_bench.util import write_atomically

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"
JUNIT_FILE = "junit.xml"


def write_report(directory: Path, record: RunRecord, *, changes: Changes | None = None) -> None:
    """Write page, summary and `junit.xml` into `directory`, with what changed since an earlier run if that is known."""
    changes = changes_of(record) if changes is None else changes
    # What is not ASCII becomes a character reference, so that no server or mail gateway can garble the page.
    write_atomically(directory / HTML_FILE, render_html(record, changes=changes).encode("ascii", "xmlcharrefreplace"))
    write_atomically(directory / MARKDOWN_FILE, render_markdown(record, changes=changes).encode())
    write_atomically(directory / JUNIT_FILE, render_junit(record))
