"""What the commands print: two runs side by side, and what a history follows."""

from __future__ import annotations

from collections.abc import Sequence

from mimo_bench.report import words
from mimo_bench.report.history.nights import Night, by_series
from mimo_bench.report.history.pair import Side
from mimo_bench.report.markdown import table


def pair_table(sides: Sequence[Side]) -> str:
    """Two runs as a Markdown table."""
    heads = ("layout", "old", "new", "old step", "new step", "change", "noise", "verdict")
    return table(heads, (_row(side) for side in sides))


def list_table(nights: Sequence[Night]) -> str:
    """One row a series: what it is of, how many nights it has, and the last of them."""
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


def _status(night: Night) -> str:
    """How it ended, and why its numbers are no reference where they are none."""
    return "; ".join(filter(None, (words.STATE_WORDS[night.status], night.tainted)))


def _row(side: Side) -> tuple[str, ...]:
    return (
        side.layout,
        side.old,
        side.new,
        words.seconds(side.old_seconds),
        words.seconds(side.new_seconds),
        words.DASH if side.ratio is None else f"{(side.ratio - 1.0) * 100.0:+.1f} %",
        words.DASH if side.noise is None else f"{side.noise * 100.0:.1f} %",
        side.verdict,
    )
