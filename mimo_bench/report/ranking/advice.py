"""Advice besides the first place: layouts that are faster as a whole, and that need less memory.

Sentences, from the layouts that may be recommended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mimo_bench.record import LayoutRecord
from mimo_bench.report.ranking.candidates import Candidate, candidates
from mimo_bench.report.ranking.reasons import GIB

NOTABLE_SAVING_SHARE = 0.1
"""Of the first place's memory: what another has to save to be worth a sentence."""


def advice(layouts: Iterable[LayoutRecord]) -> tuple[str, ...]:
    """Sentences that belong next to the recommendation; none where nothing can be recommended."""
    ranked = candidates(layouts)
    return (*_faster_as_a_whole(ranked), *_leaner(ranked)) if ranked else ()


def _faster_as_a_whole(ranked: Sequence[Candidate]) -> Iterator[str]:
    """The layout that takes most tokens per second over all its ranks, where that is another one."""
    best = ranked[0]
    fastest = max(ranked, key=lambda candidate: candidate.timing.estimated_tokens_per_second)
    if fastest.timing.estimated_tokens_per_second > best.timing.estimated_tokens_per_second:
        yield f"Faster as a whole: {fastest.name}, {_whole(fastest)} instead of {_whole(best)}."


def _whole(candidate: Candidate) -> str:
    return f"{candidate.timing.estimated_tokens_per_second:,.0f} tokens/s on {candidate.layout.world_size}"


def _leaner(ranked: Sequence[Candidate]) -> Iterator[str]:
    """The fastest of those that save a notable share of the memory."""
    best, *others = ranked
    if (most := best.peak_allocated_bytes) is None:
        return
    for other in others:
        peak = other.peak_allocated_bytes
        if peak is not None and peak <= most * (1.0 - NOTABLE_SAVING_SHARE):
            slower, less = 100.0 - other.rate / best.rate * 100.0, (most - peak) / GIB
            yield f"If memory is short: {other.name} needs {less:,.1f} GiB less and is {slower:.1f} % slower."
            return
