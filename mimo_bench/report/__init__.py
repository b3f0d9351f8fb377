"""The report: what a record says, for people. HTML for the desk, Markdown for a CI summary.

scenario -> layout -> trainer -> meters -> record -> parity -> [report]

Everything here is read from the record and from nothing else, so `mimo-bench report DIR` can render it again.
"""

from __future__ import annotations

from pathlib import Path

from mimo_bench.record.files import write_atomically
from mimo_bench.record.schema import RunRecord
from mimo_bench.report.changes import Change, Changes
from mimo_bench.report.html import render_html
from mimo_bench.report.markdown import render_markdown

__all__ = ["HTML_FILE", "MARKDOWN_FILE", "Change", "Changes", "render_html", "render_markdown", "write_report"]

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"


def write_report(directory: Path, record: RunRecord, *, changes: Changes | None = None) -> None:
    """Write `report.html` and `report.md` into `directory`, with what changed since an earlier run if that is known."""
    # What is not ASCII becomes a character reference, so that no server or mail gateway can garble the page.
    write_atomically(directory / HTML_FILE, render_html(record, changes=changes).encode("ascii", "xmlcharrefreplace"))
    write_atomically(directory / MARKDOWN_FILE, render_markdown(record, changes=changes).encode())
