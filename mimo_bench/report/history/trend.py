"""The page over all nights: the last run of every scenario, and every layout from night to night.

One file without dependencies, in the style of the report's page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from markupsafe import Markup

from mimo_bench.record import Comparison
from mimo_bench.report import words
from mimo_bench.report.charts.nights import Dot, Shift, nights_chart, shifts
from mimo_bench.report.history.expectations import Expectations, read_expectations
from mimo_bench.report.history.judgement import choose_reference, compare, judge_nights, stands_out
from mimo_bench.report.history.nights import Night, by_series
from mimo_bench.report.history.store import TREND_FILE, History
from mimo_bench.report.html.templating import template
from mimo_bench.report.markdown import table
from mimo_bench.util import write_atomically

ORDER = ("regressed", "suspect", "improved", "steady", "unknown")
"""Verdicts in the order in which they are listed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One layout over the nights."""

    layout: str
    last: Night
    held: Comparison | None
    """Step time of the last night compared with its reference; None if the last night was not timed."""
    chart: Markup
    shifts: tuple[Shift, ...]
    num_nights: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Comparable runs: one scenario, one measuring version, one machine type."""

    scenario: str
    machine: str
    measured_by: str
    last: Night
    lines: tuple[Line, ...]
    held: tuple[Comparison, ...]
    """Comparisons of the last run, worst first."""

    @property
    def news(self) -> list[Comparison]:
        """Return the comparisons to look at."""
        return [each for each in self.held if each.verdict in ("regressed", "suspect", "improved")]

    @property
    def is_judged(self) -> bool:
        """Return whether there are enough runs to judge the last one."""
        return any(each.verdict != "unknown" for each in self.held)


def write_trend(history: History) -> Path:
    """Write the page and return its path.

    Raises:
        HistoryError: the file of expectations cannot be read.
    """
    page = render_trend(history.nights(), read_expectations(history.expectations_file))
    return write_atomically(history.directory / TREND_FILE, page.encode("ascii", "xmlcharrefreplace"))


def render_trend(nights: Sequence[Night], expectations: Expectations) -> str:
    """Return the whole page."""
    return template("trend.html.j2").render(
        groups=groups(nights, expectations), num_runs=len({night.run for night in nights}), words=words
    )


def list_table(nights: Sequence[Night]) -> str:
    """Return one row a series as a Markdown table: its facts, its number of nights, and the last of them."""
    heads = ("scenario", "layout", "machine", "nights", "last night", "status", "step", "measured by")
    rows = [
        (
            last.scenario,
            last.layout,
            last.machine,
            str(len(series)),
            f"{last.started_at:%Y-%m-%d %H:%M}",
            _status(last),
            words.seconds(last.step_seconds),
            last.measured_by[:12],
        )
        for series in by_series(nights).values()
        for last in series[-1:]
    ]
    return table(heads, sorted(rows))


def groups(nights: Sequence[Night], expectations: Expectations) -> list[Group]:
    """Return everything that is followed; the group with the latest run comes first."""

    def key(night: Night) -> tuple[str, str, str, str]:
        return (night.scenario, night.machine, night.scenario_hash, night.measured_by)

    found = [_group(list(each), expectations) for _, each in groupby(sorted(nights, key=key), key=key)]
    return sorted(found, key=lambda group: group.last.started_at, reverse=True)


def _group(nights: list[Night], expectations: Expectations) -> Group:
    nights = sorted(nights, key=lambda night: (night.started_at, night.run))
    last = nights[-1]
    tonight = [night for night in nights if night.run == last.run]
    before = [night for night in nights if night.run != last.run]
    held = judge_nights(tonight, before, expectations)
    steps = {each.layout: each for each in held if each.quantity == "step_seconds"}
    lines = [_line(series, steps.get(series[-1].layout), expectations) for series in by_series(nights).values()]
    return Group(
        scenario=last.scenario,
        machine=last.machine,
        measured_by=last.measured_by,
        last=last,
        lines=tuple(line for line in lines if line is not None),
        held=tuple(sorted(held, key=lambda each: ORDER.index(each.verdict))),
    )


def _line(series: Sequence[Night], held: Comparison | None, expectations: Expectations) -> Line | None:
    timed = [night for night in series if night.counts and night.step_seconds]
    if not timed:
        return None
    dots = list(_dots(timed, expectations))
    label = f"{series[-1].layout}: step seconds over {len(timed)} nights"
    return Line(
        layout=series[-1].layout,
        last=series[-1],
        held=held,
        chart=nights_chart(dots, changed=list(_changed(timed)), label=label),
        shifts=tuple(shifts(dots)),
        num_nights=len(timed),
    )


def _dots(timed: Sequence[Night], expectations: Expectations) -> Iterator[Dot]:
    since = expectations.accepted_since(timed[-1])
    reference = choose_reference([night for night in timed if not since or night.started_at >= since], "step_seconds")
    for night in timed:
        found = None if night in reference else compare(reference, night, "step_seconds")
        assert night.step_seconds is not None
        label = f"{night.started_at:%Y-%m-%d %H:%M}: {words.seconds(night.step_seconds)}"
        yield Dot(
            at=night.started_at,
            value=night.step_seconds,
            stands_out=found is not None and stands_out(found) and (not since or night.started_at >= since),
            label=f"{label}, commit {night.commit[:7]}" if night.commit else label,
        )


def _changed(timed: Sequence[Night]) -> Iterator[tuple[int, str]]:
    """Yield the nights from which other software was used; commits are left out, as they may change every night."""
    for index, (before, after) in enumerate(pairwise(timed), start=1):
        if before.software != after.software:
            yield index, f"{before.software} -> {after.software}"


def _status(night: Night) -> str:
    """Return the status in words, with the reason if the night is tainted."""
    return "; ".join(filter(None, (words.STATE_WORDS[night.status], night.tainted)))
