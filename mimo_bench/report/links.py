"""Speed of a layout's communication compared with the machine's links without other load."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable

from mimo_bench.record import Communication, LinkSpeed

BATCH = "coalesced"
"""Messages that were launched together; their sizes are on the rows of the messages."""

_MESSAGES = ("send", "recv", BATCH)
"""What is measured as `send`: between two ranks, however many their group has."""


def share_of_links(row: Communication, rows: Iterable[Communication], links: Iterable[LinkSpeed]) -> float | None:
    """Bus bandwidth of a row over that of the same collective among as many ranks, measured alone at its message size.

    Messages go between two ranks, of whatever group. The size is the mean over the row's calls, of a batch that over
    the messages which its role sends, found among `rows`. Between the sizes that were measured the bandwidth is
    interpolated, both on a logarithmic scale; beyond them it is that of the nearest. None where one of the two is not
    known, as between hosts: links are measured on one.
    """
    size = _message_bytes(row, rows)
    if row.bus_bytes_per_second is None or row.spans_hosts or not size:
        return None
    is_message = row.collective in _MESSAGES
    wanted = "send" if is_message else row.collective
    measured = sorted(
        (link.num_bytes, link.bus_bytes_per_second)
        for link in links
        if link.collective == wanted and (is_message or link.num_ranks == row.group_size) and link.bus_bytes_per_second
    )
    return row.bus_bytes_per_second / _at(size, measured) if measured else None


def _message_bytes(row: Communication, rows: Iterable[Communication]) -> float | None:
    """Mean bytes of a call; of a batch, of the messages that ranks of its role sent."""
    if row.collective == BATCH:
        row = next((other for other in rows if other.collective == "send" and _group(other) == _group(row)), row)
    return row.bytes_per_step / row.calls_per_step if row.calls_per_step else None


def _group(row: Communication) -> tuple[str, bool]:
    return row.role, row.spans_hosts


def _at(size: float, measured: list[tuple[int, float]]) -> float:
    """The bandwidth at `size` bytes, of pairs that are sorted by size."""
    above = bisect_left(measured, size, key=lambda pair: pair[0])
    if above in (0, len(measured)):
        return measured[min(above, len(measured) - 1)][1]
    (low, slower), (high, faster) = measured[above - 1], measured[above]
    part = math.log(size / low) / math.log(high / low)
    return slower * math.pow(faster / slower, part)
