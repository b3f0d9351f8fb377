"""Ranking: the layouts that passed, by speed per allocated GPU, with the uncertainty of each place.

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
    """Return a place for every candidate, with its reason, best first.

    A layout is tied with the best only if every better one is. A noisy layout below one that differs from the best is
    open: neither tied nor slower.
    """
    best_first = candidates(layouts)
    if not best_first:
        return ()
    best, *others = best_first
    ties: dict[str, bool | None] = {best.name: None}
    for other in others:
        tied = are_tied(best.timing, other.timing, num_comparisons=len(others))
        ties[other.name] = None if tied and False in ties.values() else tied
    return tuple(
        Ranked(
            name=candidate.name,
            reason=reason(candidate, ranked=best_first, ties=ties),
            tokens_per_second_per_gpu=candidate.rate,
            interval=rate_interval(candidate.timing),
            tied_with_best=ties[candidate.name],
            peak_allocated_bytes=candidate.peak_allocated_bytes,
        )
        for candidate in best_first
    )
