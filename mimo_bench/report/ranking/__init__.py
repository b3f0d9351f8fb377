"""Which layout to take: those that passed, by speed for each allocated GPU, with what the measurement leaves open.

scenario -> layout -> trainer -> meters -> record -> [ranking] -> report
"""

from __future__ import annotations

from collections.abc import Iterable

from mimo_bench.record import LayoutRecord, Ranked
from mimo_bench.report.ranking.advice import advice
from mimo_bench.report.ranking.candidates import Candidate, candidates
from mimo_bench.report.ranking.reasons import reason
from mimo_bench.report.ranking.uncertainty import are_tied, rate_interval

__all__ = ["Candidate", "advice", "candidates", "rank_layouts", "rate_interval"]


def rank_layouts(layouts: Iterable[LayoutRecord]) -> tuple[Ranked, ...]:
    """A place for every candidate, with its reason; what the steps do not tell from the first is tied with it."""
    best_first = candidates(layouts)
    if not best_first:
        return ()
    best, *others = best_first
    tied = [other for other in others if are_tied(best.timing, other.timing, num_comparisons=len(others))]
    return tuple(
        Ranked(
            name=candidate.name,
            reason=reason(candidate, ranked=best_first, tied=tied),
            tokens_per_second_per_gpu=candidate.rate,
            interval=rate_interval(candidate.timing),
            tied_with_best=candidate in tied if candidate is not best else None,
            peak_allocated_bytes=candidate.peak_allocated_bytes,
        )
        for candidate in best_first
    )
