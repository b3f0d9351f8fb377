"""In which order the layouts stand, and which of very many the page shows in full.

The table always holds every layout; what a layout opens to, and its ranks, take most of the page,
and that must open in a browser and go through a mail gateway.
"""

from __future__ import annotations

from dataclasses import dataclass

from mimo_bench.record import LayoutRecord, RunRecord

MOST_IN_FULL = 200
"""Layouts that can be opened."""
MOST_RANKS = 25_600
"""Ranks whose steps and memory are drawn, over all layouts: each takes about a hundred bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Names of layouts."""

    in_full: frozenset[str]
    drawn: frozenset[str]
    """Of these, those whose ranks are drawn."""


def by_place(record: RunRecord) -> list[LayoutRecord]:
    """Those that are ranked, the best first, then the others in the order of the run."""
    places = {place.name: index for index, place in enumerate(record.ranking)}
    return sorted(record.layouts, key=lambda layout: places.get(layout.name, len(places)))


def select(record: RunRecord) -> Selection:
    """All layouts where they are few; otherwise the baseline, those that did not pass, the best, then the others."""
    unhappy = [layout.name for layout in record.layouts if layout.status != "passed"]
    best = [place.name for place in record.ranking]
    others = [layout.name for layout in record.layouts]
    wanted = dict.fromkeys([record.baseline, *unhappy[: MOST_IN_FULL // 2], *best, *others])
    num_ranks = {layout.name: layout.world_size for layout in record.layouts}
    in_full = [name for name in wanted if name in num_ranks][:MOST_IN_FULL]
    drawn, left = [], MOST_RANKS
    for name in in_full:
        if num_ranks[name] <= left:
            drawn.append(name)
            left -= num_ranks[name]
    return Selection(in_full=frozenset(in_full), drawn=frozenset(drawn))
