"""A run compared with a history of runs."""

from __future__ import annotations

from typing import Literal

from mimo_bench.record.schema.base import Count, Entry, Finite

Quantity = Literal["step_seconds", "peak_allocated_bytes"]
"""What is followed from run to run; of both, less is better."""


class Comparison(Entry):
    """One quantity of one layout held against the runs before."""

    layout: str
    quantity: Quantity
    verdict: Literal["regressed", "improved", "suspect", "steady", "unknown"]
    """`suspect`: out of the band for the first time, which one more run will confirm or not; `unknown`: there is not
    enough to hold it against."""
    reason: str
    value: Finite | None
    reference: Finite | None = None
    """The level it was held against."""
    ratio: Finite | None = None
    """Value over reference."""
    p: Finite | None = None
    """Of a difference at least as large, in either direction, where there is none; null against a written reference."""
    expected: str | None = None
    """Why it was expected to regress, with a link; it then does not count."""


class ExpectedFailure(Entry):
    """A layout that was expected to fail, and did or did not."""

    layout: str
    expected_status: str
    has_failed: bool
    reason: str
    link: str


class HistoryComparison(Entry):
    """This run held against a history of runs (`run --history`)."""

    directory: str
    num_runs: Count
    """Comparable ones, over all layouts."""
    since: str | None = None
    """The last of them in a few words."""
    not_compared: str | None = None
    """Why there is none, if there is none."""
    held: tuple[Comparison, ...] = ()
    expected_failures: tuple[ExpectedFailure, ...] = ()
