"""The layouts that may be recommended, best first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mimo_bench.record import LayoutRecord, Timing


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A layout that passed and was timed."""

    layout: LayoutRecord
    timing: Timing

    @property
    def name(self) -> str:
        """The layout's."""
        return self.layout.name

    @property
    def rate(self) -> float:
        """Tokens per second for each allocated GPU, by which it is ranked."""
        return self.timing.estimated_rate

    @property
    def peak_allocated_bytes(self) -> int | None:
        """Peak of its fullest rank; None on CPU ranks."""
        memory = self.layout.memory
        return max(rank.peak_allocated_bytes for rank in memory.ranks) if memory and memory.ranks else None


def candidates(layouts: Iterable[LayoutRecord]) -> list[Candidate]:
    """Layouts that passed parity and were timed, by tokens per second and allocated GPU, best first."""
    timed = (
        Candidate(layout=layout, timing=layout.timing)
        for layout in layouts
        if layout.status == "passed" and layout.timing is not None
    )
    return sorted(timed, key=lambda candidate: candidate.rate, reverse=True)
