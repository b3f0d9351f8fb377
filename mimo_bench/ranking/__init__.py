"""Which layout to take: those that passed, by speed for each allocated GPU, with what the measurement leaves open.

scenario -> layout -> trainer -> meters -> record -> [ranking] -> report
"""

from __future__ import annotations

from collections.abc import Sequence

from mimo_bench.ranking.reasons import Candidate, reason
from mimo_bench.ranking.uncertainty import are_tied, rate_interval
from mimo_bench.record.schema import LayoutRecord, Ranked

__all__ = ["rank_layouts"]


def rank_layouts(layouts: Sequence[LayoutRecord]) -> tuple[Ranked, ...]:
    """Layouts that passed parity and were timed, by tokens per second and allocated GPU, best first.

    Those that the steps do not tell from the first are tied with it, whatever their order.
    """
    timed = [
        Candidate(layout=layout, timing=layout.timing)
        for layout in layouts
        if layout.status == "passed" and layout.timing is not None
    ]
    best_first = sorted(timed, key=lambda candidate: candidate.rate, reverse=True)
    if not best_first:
        return ()
    best, *others = best_first
    tied = [other for other in others if are_tied(best.timing, other.timing, num_comparisons=len(others))]
    return tuple(
        Ranked(
            name=candidate.layout.name,
            reason=reason(candidate, ranked=best_first, tied=tied),
            tokens_per_second_per_gpu=candidate.rate,
            interval=rate_interval(candidate.timing),
            tied_with_best=candidate in tied if candidate is not best else None,
            peak_allocated_bytes=candidate.peak_allocated_bytes,
        )
        for candidate in best_first
    )
