"""What is measured from some moment on is the new normal: the entry that says so, filled in and checked."""

from __future__ import annotations

from datetime import UTC, datetime

from mimo_bench.report.history.expectations import Accepted, accept
from mimo_bench.report.history.store import History
from mimo_bench.util import UsageError, choices


def accept_since(
    history: History, *, scenario: str, layout: str | None, since: datetime | None, reason: str
) -> Accepted:
    """Write the entry into the history's expectations and return it; it holds from the last run on unless told.

    Raises:
        UsageError: the history holds no such scenario or layout, or there is no reason.
    """
    nights = history.nights()
    if scenario not in (known := sorted({night.scenario for night in nights})):
        raise UsageError(f"--scenario: {history.directory} holds no run of {scenario!r}; {choices(scenario, known)}")
    nights = [night for night in nights if night.scenario == scenario]
    if layout is not None and layout not in (known := sorted({night.layout for night in nights})):
        raise UsageError(f"--layout: {scenario} has no layout {layout!r}; {choices(layout, known)}")
    if not reason.strip():
        raise UsageError("--reason: is empty; say why, for whoever reads the trend next year")
    moment = nights[-1].started_at if since is None else since.replace(tzinfo=UTC)
    # Seconds are what the file keeps, and the run that is accepted must not be the one that is left out.
    entry = Accepted(since=moment.replace(microsecond=0), scenario=scenario, layout=layout, reason=reason)
    accept(history.expectations_file, entry)
    return entry
