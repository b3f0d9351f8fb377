"""Display of the terminal while a matrix runs: a live table where there is a terminal, a line an event elsewhere.

It only watches; everything it shows is in the record.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.live import Live

from mimo_bench.record import LayoutRecord
from mimo_bench.report import words
from mimo_bench.report.board import Board, measured, summary_lines
from mimo_bench.report.events import Event, LayoutEnded, LayoutStarted, MatrixEnded, MatrixStarted, OnEvent
from mimo_bench.util import counted


@contextmanager
def live(stream: TextIO | None = None) -> Iterator[OnEvent]:
    """Show events on `stream`, standard output unless told otherwise, for as long as the context is open.

    Yields what a matrix calls with each event. The last state stays on screen, also when the run is interrupted.
    """
    stream = sys.stdout if stream is None else stream
    if isinstance(stream, io.TextIOWrapper):
        # A character that an old terminal lacks must not end a run of hours.
        stream.reconfigure(errors="replace")
    with watch(Console(file=stream)) as on_event:
        yield on_event


@contextmanager
def watch(console: Console, *, now: Callable[[], float] = time.monotonic) -> Iterator[OnEvent]:
    """As `live`, on a console and by a clock of the caller's."""
    if not console.is_terminal:
        yield Lines(console, now=now)
        return
    board = Board(now=now)
    with Live(board, console=console, refresh_per_second=8) as screen:

        def on_event(event: Event) -> None:
            board.take(event)
            if isinstance(event, LayoutEnded) and not words.is_good(event.layout):
                # Above the table, where it stays: a reason is worth reading before the matrix has ended.
                _say(console, words.failure(event.layout))
            screen.refresh()

        try:
            yield on_event
        finally:
            board.close()
            # Cropping was for the redrawing; what stays is whole.
            screen.vertical_overflow = "visible"


class Lines:
    """One line for every event, for logs."""

    def __init__(self, console: Console, *, now: Callable[[], float]) -> None:
        """Write to `console`."""
        self._console = console
        self._now = now
        self._started: MatrixStarted | None = None
        self._layout_started_at: dict[str, float] = {}
        self._running: tuple[str, str] | None = None

    def __call__(self, event: Event) -> None:
        """Write what happened."""
        match event:
            case MatrixStarted():
                self._started = event
                modes = " and ".join(event.modes)
                self._say(f"{event.scenario.question}")
                layouts = f"{counted(len(event.names), 'layout')} of {event.scenario.model}"
                self._say(f"{layouts}, {modes} on {event.device_kind} ranks")
                if event.is_resumed:
                    self._say(words.going_on(num_layouts=len(event.names), num_kept=len(event.kept)))
                for layout in event.kept:
                    self._say(f"{self._place(layout.name)}{layout.name}: {words.status(layout)} before")
            case LayoutStarted(name=name, mode=mode):
                self._layout_started_at.setdefault(name, self._now())
                # The baseline's variants are launches of the same mode; one line tells them all.
                if self._running != (name, mode):
                    self._say(f"{self._place(name)}{name}: {mode} ...")
                self._running = (name, mode)
            case LayoutEnded(layout=layout):
                said = success(layout) if words.is_good(layout) else words.failure(layout)
                began = self._layout_started_at.get(layout.name)
                took = f" ({words.seconds(self._now() - began)}{self._time_left()})" if began is not None else ""
                self._say(f"{self._place(layout.name)}{said}{took}")
            case MatrixEnded(record=record, contradictions=contradictions):
                directory = self._started.directory if self._started is not None else Path()
                for line in summary_lines(record, contradictions, directory):
                    self._say(line.plain)

    def _time_left(self) -> str:
        """Return the time that the remaining layouts take if they take as long as those so far; empty for none."""
        num_ended = len(self._layout_started_at)
        num_left = len(self._started.names) - len(self._started.kept) - num_ended if self._started is not None else 0
        if not num_left:
            return ""
        so_far = self._now() - min(self._layout_started_at.values())
        return f"; about {words.seconds(so_far / num_ended * num_left)} left"

    def _place(self, name: str) -> str:
        if self._started is None or name not in self._started.names:
            return ""
        return f"[{self._started.names.index(name) + 1}/{len(self._started.names)}] "

    def _say(self, line: str) -> None:
        _say(self._console, line)


def success(layout: LayoutRecord) -> str:
    """A layout that nothing was found against and its numbers, those that are known."""
    numbers = zip(("loss rel", "grad norm rel", "tokens/s"), measured(layout), strict=True)
    known = [f"{what} {value}" for what, value in numbers if value != words.DASH]
    return ", ".join([f"{layout.name}: {words.status(layout)}", *known])


def _say(console: Console, line: str) -> None:
    # A log keeps its lines as they are: no wrapping at 80, no colour, no [brackets] taken for markup.
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.file.flush()
