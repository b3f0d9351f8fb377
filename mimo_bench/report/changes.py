"""Changes since earlier runs, as the report shows them: from the record, if the run was compared with a history.

The report compares nothing itself; a run that was not compared has no changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from mimo_bench.record import Comparison, ExpectedFailure, HistoryComparison, RunRecord

Direction = Literal["better", "worse", "other"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One thing that is different in one layout, beyond the noise."""

    layout: str
    direction: Direction
    """`other` where it is neither, such as a layout that is new."""
    said: str
    """What and by how much: `step time 205 ms -> 251 ms, +22 %`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """A run compared with an earlier one."""

    since: str
    """The earlier run in a few words: `2026-11-21 02:00 UTC, commit a11b01e`."""
    changes: tuple[Change, ...] = ()
    """Worst first; empty when nothing moved beyond the noise."""
    not_compared: str | None = None
    """Why nothing was compared, if nothing was; no change of a number is among the changes then."""


ORDER: Final = ("regressed", "suspect", "improved")
"""Verdicts that are news, worst first."""


def changes_of(record: RunRecord) -> Changes | None:
    """Return the changes since the runs before; None if the record was not compared with any."""
    if (held := record.history) is None:
        return None
    news = sorted((each for each in held.held if each.verdict in ORDER), key=lambda each: ORDER.index(each.verdict))
    return Changes(
        since=held.since or "earlier runs",
        changes=(*map(_moved, news), *map(_failed, held.expected_failures)),
        not_compared=held.not_compared or _too_little(held),
    )


def _too_little(held: HistoryComparison) -> str | None:
    """Why no number of this run has a verdict, though there are runs to compare with; None if any has one."""
    if not held.held:
        return "no layout has a step time or a peak of memory to compare"
    if any(each.verdict != "unknown" for each in held.held):
        return None
    first = held.held[0]
    return f"{first.layout}: {first.reason}"


def _moved(held: Comparison) -> Change:
    direction: Direction = "better" if held.verdict == "improved" else "worse"
    what = {"step_seconds": "step time", "peak_allocated_bytes": "peak memory"}[held.quantity]
    said = f"{held.verdict}: {what} {held.reason}"
    if held.expected is not None:
        return Change(layout=held.layout, direction="other", said=f"{said}; expected: {held.expected}")
    return Change(layout=held.layout, direction=direction, said=said)


def _failed(known: ExpectedFailure) -> Change:
    why = f"{known.reason} ({known.link})"
    if known.has_failed:
        return Change(layout=known.layout, direction="other", said=f"{known.expected_status} as expected: {why}")
    said = f"no longer {known.expected_status}: take it out of expectations.toml, where it stands as {why}"
    return Change(layout=known.layout, direction="better", said=said)
