"""A run compared with a history of runs."""

from __future__ import annotations

from typing import Literal

from mimo_bench.record.schema.base import Count, Entry, Finite

Quantity = Literal["step_seconds", "peak_allocated_bytes"]
"""Quantities followed from run to run; less is better for both."""


class Comparison(Entry):
    """One quantity of one layout compared with earlier runs."""

    layout: str
    quantity: Quantity
    verdict: Literal["regressed", "improved", "suspect", "steady", "unknown"]
    """`suspect`: out of the band for the first time, and the next run decides; `unknown`: there are too few runs to
    compare with."""
    reason: str
    value: Finite | None
    reference: Finite | None = None
    """Reference level."""
    ratio: Finite | None = None
    """Value over reference."""
    p: Finite | None = None
    """Probability of a difference at least as large, in either direction, if there is none; null with a written
    reference."""
    expected: str | None = None
    """Reason why a regression was expected, with a link; it then does not count."""


class ExpectedFailure(Entry):
    """A layout that was expected to fail, and whether it did."""

    layout: str
    expected_status: str
    has_failed: bool
    reason: str
    link: str


class HistoryComparison(Entry):
    """This run compared with a history of runs (`run --history`)."""

    directory: str
    num_runs: Count
    """Comparable runs, over all layouts."""
    since: str | None = None
    """The last comparable run in words."""
    not_compared: str | None = None
    """Reason why no run is comparable; null if one is."""
    held: tuple[Comparison, ...] = ()
    expected_failures: tuple[ExpectedFailure, ...] = ()
