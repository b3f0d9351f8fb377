"""Exit statuses, and the signals that end a command in good order."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mimo_bench.record import RunRecord

PARITY_FAILED = 1
DOES_NOT_FIT = 1
"""Status of `check --device-memory`."""
BAD_INPUT = 2
NO_RECORD = 3
SLOWER = 4
BUG = 70
"""EX_SOFTWARE of sysexits.h; Python's own 1 would read as a parity verdict."""
SIGNALLED = 128
"""Plus the number of the signal that stopped the command, as a shell has it: 130 for Ctrl-C."""


class Stopped(BaseException):
    """A signal other than Ctrl-C ends the command, in the same good order."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)


@contextmanager
def stopped_by(*signals: signal.Signals) -> Iterator[None]:
    """Raise `Stopped` when one of `signals` arrives: a scheduler's SIGTERM, a terminal that closes."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    before = {each: signal.getsignal(each) for each in signals}
    # An ignored signal stays ignored: that is what nohup asks for.
    chosen = [each for each, handler in before.items() if handler is not signal.SIG_IGN]
    for each in chosen:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each in chosen:
            signal.signal(each, before[each])


def exit_status(records: Iterable[RunRecord], *, gate_performance: bool = False) -> int:
    """Return 3 if a layout ended without a record, else 1 if one failed parity, else 4 if one became slower.

    The last counts only under `gate_performance`. A failure that was written down as expected does not count.
    """
    # Bad input never gets here, so it does not wait for pandas.
    from mimo_bench.report import regressions, unexpected

    records = list(records)
    statuses = {layout.status for record in records for layout in unexpected(record.layouts, record.history)}
    if statuses & {"crashed", "oom", "timeout", "interrupted", "not_run"}:
        return NO_RECORD
    if "parity_failed" in statuses:
        return PARITY_FAILED
    has_regressed = any(regressions(record.history) for record in records)
    return SLOWER if gate_performance and has_regressed else 0
