"""The live table of a running matrix: one row a layout, from waiting to its verdict.

`console.py` keeps it on screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from mimo_bench.layout import Layout
from mimo_bench.record import LayoutRecord, Mode, RunRecord
from mimo_bench.report import HTML_FILE, words
from mimo_bench.report.compared import compared
from mimo_bench.report.events import Event, LayoutEnded, LayoutStarted, MatrixEnded, MatrixStarted
from mimo_bench.report.history.judgement import regressions

WIDE = 124
"""Width in columns from which placement and grids fit as well."""

PLACEMENT_WIDTH, STATE_WIDTH = 10, 13
NUMBERS = (("time", 5), ("loss rel", 8), ("grad rel", 8), ("tokens/s", 8))
"""Columns of numbers and their widths."""

LINES_AROUND = 8
"""Lines that are not rows: question, borders, heads, summary."""


@dataclass(kw_only=True, slots=True)
class Row:
    """State of one layout."""

    name: str
    placement: str
    grids: str
    mode: Mode | None = None
    started_at: float | None = None
    ended_at: float | None = None
    ended: LayoutRecord | None = None


class Board:
    """Takes events and draws itself; the clock comes from outside, so that a test can hold it still."""

    def __init__(self, *, now: Callable[[], float]) -> None:
        """An empty board."""
        self._now = now
        self._started: MatrixStarted | None = None
        self._rows: dict[str, Row] = {}
        self._record: RunRecord | None = None
        self._contradictions: tuple[str, ...] = ()
        self._closed = False
        self._spinner = Spinner("line")

    def take(self, event: Event) -> None:
        """Learn what happened."""
        match event:
            case MatrixStarted():
                self._started = event
                self._rows = {name: _row(name, event.scenario.case(name).layout) for name in event.names}
                for layout in event.kept:
                    self._rows[layout.name].ended = layout
            case LayoutStarted(name=name, mode=mode):
                row = self._rows[name]
                row.mode = mode
                row.started_at = self._now() if row.started_at is None else row.started_at
            case LayoutEnded(layout=layout):
                row = self._rows[layout.name]
                row.ended, row.ended_at = layout, self._now()
            case MatrixEnded():
                self._record, self._contradictions = event.record, event.contradictions

    def close(self) -> None:
        """Nothing more will happen: what still ran was interrupted."""
        self._closed = True
        for row in self._rows.values():
            row.ended_at = self._now() if row.ended_at is None else row.ended_at

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Question, table and, at the end, the counts and where the report lies."""
        if self._started is None:
            return
        yield Text(self._started.scenario.question, style="bold")
        if self._started.is_resumed:
            yield Text(words.going_on(num_layouts=len(self._started.names), num_kept=len(self._started.kept)))
        rows = list(self._rows.values())
        shown = rows if self._closed else _window(rows, console.height - LINES_AROUND)
        yield self._table(shown, width=options.max_width)
        if len(shown) < len(rows):
            yield Text(f"{len(rows) - len(shown)} of {len(rows)} layouts are not shown", style="dim")
        if self._record is not None:
            yield from summary_lines(self._record, self._contradictions, self._started.directory)

    def _table(self, rows: Sequence[Row], *, width: int) -> Table:
        is_wide = width >= WIDE
        # The box puts one blank between columns.
        gap = 2 if is_wide else 1
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
        # What may be cut gets the room that the numbers leave; fixed widths keep the table still while it fills.
        room = width - STATE_WIDTH - sum(gap + each for _, each in NUMBERS) - gap
        name_width = min(max(len(row.name) for row in rows), room)
        table.add_column("layout", no_wrap=True, width=name_width)
        if is_wide:
            room -= name_width + gap + PLACEMENT_WIDTH + gap
            table.add_column("placement", no_wrap=True, width=PLACEMENT_WIDTH)
            table.add_column("grids", no_wrap=True, width=max(room, 1))
        table.add_column("state", no_wrap=True, width=STATE_WIDTH)
        for head, each in NUMBERS:
            table.add_column(head, no_wrap=True, justify="right", width=each)
        for row in rows:
            numbers = measured(row.ended) if row.ended else (words.DASH,) * 3
            where = (row.placement, row.grids) if is_wide else ()
            texts = (Text(cell) for cell in (row.name, *where))
            table.add_row(*texts, self._state(row), self._elapsed(row), *map(Text, numbers))
        return table

    def _state(self, row: Row) -> Text | Spinner:
        if row.ended is not None:
            style = {"passed": "green", "as_timed": "cyan", "unjudged": "yellow"}.get(
                words.state(row.ended), "bold red"
            )
            return Text(words.status(row.ended), style=style)
        if row.mode is None:
            return Text("not run" if self._closed else "waiting", style="dim")
        if self._closed:
            return Text(words.STATE_WORDS["interrupted"], style="bold red")
        self._spinner.update(text=Text(row.mode))
        return self._spinner

    def _elapsed(self, row: Row) -> Text:
        if row.started_at is None:
            return Text(words.DASH)
        seconds = (self._now() if row.ended_at is None else row.ended_at) - row.started_at
        return Text(f"{seconds:.0f} s")


def summary_lines(record: RunRecord, contradictions: Sequence[str], directory: Path) -> Iterator[Text]:
    """Yield the end of a run: counts, failures, regressions, the best layout and the path of the report."""
    yield Text(words.summary(record.layouts), style="bold")
    for layout in record.layouts:
        if not words.is_good(layout):
            yield Text(f"FAILED {words.failure(layout)}", style="red", overflow="fold")
    for each in regressions(record.history):
        yield Text(f"REGRESSED {each.layout}: {each.reason}", style="red", overflow="fold")
    if skipped := words.skipped(record):
        yield Text(skipped, style="yellow")
    yield from (Text(f"held-out samples answered right: {said}") for said in words.learnt(record))
    if (best := words.recommended(record)) is not None:
        yield Text(f"best: {best.name}, {best.reason}")
    elif record.ranking or "parity" not in record.modes:
        yield Text(words.none_to_take(record))
    if record.finished_at is None:
        yield Text(words.stopped_early(directory), overflow="fold")
    if contradictions:
        yield Text(words.in_doubt(contradictions, directory), style="yellow", overflow="fold")
    yield Text(f"report: {directory / HTML_FILE}", overflow="fold")


def measured(layout: LayoutRecord) -> tuple[str, str, str]:
    """Loss difference, worst gradient-norm difference and tokens per second, in words."""
    found = compared(layout.parity)
    return (
        words.relative(found.loss_rel),
        words.relative(found.worst_grad_norm_rel),
        words.rate(layout.timing.estimated_tokens_per_second if layout.timing else None),
    )


def _row(name: str, layout: Layout) -> Row:
    return Row(name=name, placement=layout.placement, grids=words.grids(layout))


def _window(rows: Sequence[Row], room: int) -> Sequence[Row]:
    """As many rows as there is room for, around the one that runs."""
    if len(rows) <= (room := max(room, 3)):
        return rows
    running = next((index for index, row in enumerate(rows) if row.ended is None), len(rows) - 1)
    first = min(max(running - room + 2, 0), len(rows) - room)
    return rows[first : first + room]
