from .changes import Change, Changes, changes_of
from .html.page import render_html
from .junit import render_junit
from .markdown import render_markdown
from .write import HTML_FILE, JUNIT_FILE, MARKDOWN_FILE, write_report

__all__ = [
    "HTML_FILE",
    "JUNIT_FILE",
    "MARKDOWN_FILE",
    "Change",
    "Changes",
    "changes_of",
    "render_html",
    "render_junit",
    "render_markdown",
    "write_report",
]
