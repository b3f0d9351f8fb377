"""How near a layout's communication comes to what the machine's links carry when nothing else goes on.

scenario -> layout -> trainer -> meters -> [record] -> parity -> report
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable

from mimo_bench.record.schema import Communication, LinkSpeed

_SAME_ROAD = {"recv": "send"}
"""What is measured under another name: a message has two ends."""


def share_of_links(row: Communication, links: Iterable[LinkSpeed]) -> float | None:
    """Bus bandwidth of a row over that of the same collective among as many ranks, measured alone at its message size.

    The size is the mean over the row's calls. Between the sizes that were measured the bandwidth is interpolated, both
    on a logarithmic scale; beyond them it is that of the nearest. None where one of the two is not known.
    """
    if row.bus_bytes_per_second is None or not row.calls_per_step:
        return None
    collective = _SAME_ROAD.get(row.collective, row.collective)
    measured = sorted(
        (link.num_bytes, link.bus_bytes_per_second)
        for link in links
        if (link.collective, link.num_ranks) == (collective, row.group_size) and link.bus_bytes_per_second
    )
    size = row.bytes_per_step / row.calls_per_step
    if not measured or not size:
        return None
    return row.bus_bytes_per_second / _at(size, measured)


def _at(size: float, measured: list[tuple[int, float]]) -> float:
    """The bandwidth at `size` bytes, of pairs that are sorted by size."""
    above = bisect_left(measured, size, key=lambda pair: pair[0])
    if above in (0, len(measured)):
        return measured[min(above, len(measured) - 1)][1]
    (low, slower), (high, faster) = measured[above - 1], measured[above]
    part = math.log(size / low) / math.log(high / low)
    return slower * math.pow(faster / slower, part)
