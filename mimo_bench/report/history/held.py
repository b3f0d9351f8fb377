"""A run held against a history: what `run --history` writes into the record and `--gate-performance` goes by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mimo_bench.record import PLANTED, ExpectedFailure, HeldAgainst, LayoutRecord, RunRecord, incomparable, read_run
from mimo_bench.report.history.expectations import Expectations, read_expectations
from mimo_bench.report.history.judgement import hold
from mimo_bench.report.history.nights import Night, nights_of
from mimo_bench.report.history.store import History
from mimo_bench.util import RecordError


def hold_against(record: RunRecord, directory: Path) -> HeldAgainst:
    """What the history in `directory` says of a finished run that is not part of it yet.

    Raises:
        HistoryError: the file of expectations cannot be read.
    """
    history = History(directory)
    expectations = read_expectations(history.expectations_file)
    tonight = list(nights_of(record, run="tonight"))
    before = [night for night in history.nights() if night.started_at < record.started_at]
    series = {night.series for night in tonight}
    comparable = [night for night in before if night.series in series and night.tainted is None]
    is_clean = record.tainted is None or record.tainted.endswith(PLANTED)
    return HeldAgainst(
        directory=str(directory),
        num_runs=len({night.run for night in comparable}) if is_clean else 0,
        since=in_words(comparable[-1]) if comparable and is_clean else None,
        not_compared=None if comparable and is_clean else _why_not(record, before, history),
        held=hold(tonight, before, expectations),
        expected_failures=tuple(_expected_failures(record, tonight, expectations)),
    )


def in_words(night: Night) -> str:
    """A run as a person refers to it: `2026-11-21 02:00 UTC, commit a11b01e`."""
    return f"{night.started_at:%Y-%m-%d %H:%M} UTC" + (f", commit {night.commit[:7]}" if night.commit else "")


def regressions(held: HeldAgainst | None) -> list[str]:
    """Layouts that got slower or larger and were not expected to."""
    found = held.held if held is not None else ()
    return [each.layout for each in found if each.verdict == "regressed" and each.expected is None]


def unexpected(layouts: Iterable[LayoutRecord], held: HeldAgainst | None) -> list[LayoutRecord]:
    """The layouts whose status counts: all but those that were known to end as they did."""
    known = {each.layout for each in held.expected_failures if each.has_failed} if held is not None else set()
    return [layout for layout in layouts if layout.name not in known]


def _why_not(record: RunRecord, before: Sequence[Night], history: History) -> str:
    if record.tainted is not None and not record.tainted.endswith(PLANTED):
        return f"this run is tainted: {record.tainted}"
    names = {night.scenario for night in nights_of(record, run="")}
    last = next((night for night in reversed(before) if night.scenario in names), None)
    if last is None:
        return "the history holds no earlier run of this scenario"
    try:
        reasons = incomparable(read_run(history.run_directory(last.run)), record)
    except RecordError as error:
        reasons = [str(error)]
    return f"to {in_words(last)}: {'; '.join(reasons) or 'no layout is the same'}"


def _expected_failures(
    record: RunRecord, tonight: Sequence[Night], expectations: Expectations
) -> Iterator[ExpectedFailure]:
    status = {layout.name: layout.status for layout in record.layouts}
    for night in tonight:
        for known in expectations.failure_of(night):
            # Whether a layout regressed is told where it was held against the nights before.
            if known.status != "regressed":
                yield ExpectedFailure(
                    layout=night.layout,
                    expected_status=known.status,
                    has_failed=status[night.layout] == known.status,
                    reason=known.reason,
                    link=known.link,
                )
