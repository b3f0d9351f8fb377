from .changes import Change, Changes, changes_of
from .check.data import SampleNotes, read_samples
from .check.memory import layout_needs, needs_table
from .check.rank_map import describe_layouts
from .console import live
from .events import LayoutEnded, LayoutStarted, MatrixEnded, MatrixStarted, OnEvent
from .frames import Run, load_run
from .gate import (
    describe_clean_run,
    describe_finding,
    describe_mutant,
    plot_alarms,
    render_alarms,
    render_mutants,
    render_selftest,
)
from .history.expectations import accept_since, read_expectations
from .history.judgement import compare_with_history, regressions, unexpected
from .history.pair import compare_runs, notes, pair_table
from .history.store import History
from .history.trend import list_table, write_trend
from .html.page import render_html
from .junit import render_junit
from .markdown import render_markdown, table
from .ranking import rank_layouts
from .words import first_line, skipped_samples, stopped_early
from .write import HTML_FILE, JUNIT_FILE, MARKDOWN_FILE, write_report

__all__ = [
    "HTML_FILE",
    "JUNIT_FILE",
    "MARKDOWN_FILE",
    "Change",
    "Changes",
    "History",
    "LayoutEnded",
    "LayoutStarted",
    "MatrixEnded",
    "MatrixStarted",
    "OnEvent",
    "Run",
    "SampleNotes",
    "accept_since",
    "changes_of",
    "compare_runs",
    "compare_with_history",
    "describe_clean_run",
    "describe_finding",
    "describe_layouts",
    "describe_mutant",
    "first_line",
    "layout_needs",
    "list_table",
    "live",
    "load_run",
    "needs_table",
    "notes",
    "pair_table",
    "plot_alarms",
    "rank_layouts",
    "read_expectations",
    "read_samples",
    "regressions",
    "render_alarms",
    "render_html",
    "render_junit",
    "render_markdown",
    "render_mutants",
    "render_selftest",
    "skipped_samples",
    "stopped_early",
    "table",
    "unexpected",
    "write_report",
    "write_trend",
]
