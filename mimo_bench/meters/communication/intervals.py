"""Intervals of time as sorted lists of (begin, end): what is covered, what is not, what two have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Interval = tuple[float, float]
Intervals = list[Interval]
"""Sorted, without overlap, where a function below made them."""


def union(intervals: Iterable[Interval]) -> Intervals:
    """The time that any of `intervals` covers."""
    merged: Intervals = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        elif end > begin:
            merged.append((begin, end))
    return merged


def subtract(intervals: Sequence[Interval], others: Sequence[Interval]) -> Intervals:
    """Return the time in `intervals` that none of `others` covers; both as `union` gives them."""
    left: Intervals = []
    index = 0
    for begin, end in intervals:
        at = begin
        while index and others[index - 1][1] > begin:
            index -= 1
        while index < len(others) and others[index][0] < end:
            if others[index][1] > at:
                if others[index][0] > at:
                    left.append((at, others[index][0]))
                at = others[index][1]
            index += 1
        if at < end:
            left.append((at, end))
    return left


def within(intervals: Iterable[Interval], window: Interval) -> Intervals:
    """Return the part of `intervals` inside the window."""
    first, last = window
    return [(max(begin, first), min(end, last)) for begin, end in intervals if end > first and begin < last]


def total(intervals: Iterable[Interval]) -> float:
    """Seconds that intervals without overlap cover."""
    return sum(end - begin for begin, end in intervals)
