"""Which of very many layouts the page shows in full, so that it opens in a browser and goes through a mail gateway.

record -> [report]: the table always holds every layout; what a layout opens to, and its ranks, take most of the page.
"""

from __future__ import annotations

from dataclasses import dataclass

from mimo_bench.record.schema import RunRecord

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
