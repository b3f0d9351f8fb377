"""Calls between ranks, whatever saw them, and how much of each was transfer and how much waiting. No torch.

A rank's call lasts from its own start until the data is there, so it holds waiting for peers that come later. No rank
transfers for longer than the one that waits least: *transfer* is the shortest duration of a call among the ranks that
take part, *wait* is the rest. A message has two ends, and its transfer is the shorter of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mimo_bench.meters.communication.intervals import Interval, Intervals, total

BATCH = "coalesced"
"""The name of messages that were launched together, as the flight recorder has it."""

_PLAIN_NAMES = {
    "allreduce": "all_reduce",
    "allreduce_coalesced": "all_reduce",
    "_all_gather_base": "all_gather",
    "_allgather_base": "all_gather",
    "allgather": "all_gather",
    "all_gather_into_tensor_coalesced": "all_gather",
    "allgather_into_tensor_coalesced": "all_gather",
    "_reduce_scatter_base": "reduce_scatter",
    "reduce_scatter_tensor_coalesced": "reduce_scatter",
    "all_to_all_single": "all_to_all",
    "all_to_allv": "all_to_all",
    "all_reduce_barrier": "barrier",
}


def plain_name(collective: str) -> str:
    """Return the name in `torch.distributed` of what NCCL's flight recorder or the profiler calls `collective`."""
    return _PLAIN_NAMES.get(collective, collective)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Data that a call moved; a batch of messages has one for each."""

    collective: str
    num_bytes: int
    """Of the tensors that this rank put in; of a `recv`, those that came."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One collective, message or batch of messages as one rank saw it."""

    role: str
    """Of the group: `language.tp`, `bridge.vision->language`."""
    collective: str
    ranks: tuple[int, ...]
    """Global ranks of the group."""
    parts: tuple[Part, ...]
    spans: tuple[Interval, ...]
    """When it ran on this rank, in seconds; on CPU ranks the time for which the rank was blocked in it."""
    messages: tuple[tuple[int, int], ...] = ()
    """Source and destination of every message, as global ranks; none of a collective."""

    @property
    def seconds(self) -> float:
        """Duration, waiting for peers included."""
        return total(self.spans)

    @property
    def num_bytes(self) -> int:
        """Bytes put in, and of receives those that came."""
        return sum(part.num_bytes for part in self.parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """Part of a call that its peers need; small, because every rank gets those of all."""

    role: str
    collective: str
    ranks: tuple[int, ...]
    messages: tuple[tuple[int, int], ...]
    seconds: float

    @classmethod
    def of(cls, call: Call) -> Signature:
        """The signature of a call."""
        return cls(
            role=call.role,
            collective=call.collective,
            ranks=call.ranks,
            messages=call.messages,
            seconds=call.seconds,
        )


def transfer_seconds(by_rank: Sequence[Sequence[Signature]], rank: int) -> list[float | None]:
    """Return the transfer time of each call of `rank`; None where a peer's side of it is not known.

    Args:
        by_rank: every rank's calls over the same steps, in the order in which it made them.
        rank: whose calls to split.

    A collective is known again on other ranks by its group and its number within the group: all ranks of a group call
    in the same order, or they would hang. A message is known by its two ends and its number between them. Where some
    ranks of a group have no duration of a call and others do, it is unknown, not instantaneous.
    """
    shortest: dict[tuple[object, ...], list[float]] = {}
    for calls in by_rank:
        for call, keys in _numbered(calls):
            for key in keys:
                shortest.setdefault(key, []).append(call.seconds)
    found: list[float | None] = []
    for call, keys in _numbered(by_rank[rank]):
        num_sides = 2 if call.messages else len(call.ranks)
        sides = [shortest[key] for key in keys]
        is_known = bool(sides) and all(len(side) == num_sides and (all(side) or not any(side)) for side in sides)
        # A batch ends with its last message.
        found.append(max(min(side) for side in sides) if is_known else None)
    return found


def transfer_spans(call: Call, transfer: float) -> Intervals:
    """The last `transfer` seconds of a call: a rank waits first and transfers then."""
    spans: list[Interval] = []
    left = min(transfer, call.seconds)
    for begin, end in reversed(call.spans):
        if left <= 0:
            break
        taken = min(left, end - begin)
        spans.append((end - taken, end))
        left -= taken
    return sorted(spans)


def _numbered(calls: Sequence[Signature]) -> Iterator[tuple[Signature, list[tuple[object, ...]]]]:
    """Each call with the keys by which its other sides are found."""
    counts: Counter[tuple[object, ...]] = Counter()
    for call in calls:
        ends = call.messages or ((),)
        keys = []
        for end in ends:
            # Messages travel between two ranks whatever they were batched with, so their call's name is no part of it.
            key = (call.role, *end) if call.messages else (call.role, call.collective, call.ranks)
            keys.append((*key, counts[key]))
            counts[key] += 1
        yield call, keys


def bus_bytes(collective: str, *, num_bytes: int, num_ranks: int) -> float | None:
    """Bytes that each rank's link has to carry, by the convention of NCCL's own tests; None for what has none.

    Args:
        collective: as calls name it.
        num_bytes: that a rank put in.
        num_ranks: of the group.
    """
    if num_ranks < 2:
        return None
    factors = {
        "all_reduce": 2 * (num_ranks - 1) / num_ranks,
        # A rank puts one part in and gets the others.
        "all_gather": float(num_ranks - 1),
        "reduce_scatter": (num_ranks - 1) / num_ranks,
        "all_to_all": (num_ranks - 1) / num_ranks,
        "broadcast": 1.0,
        "reduce": 1.0,
        "send": 1.0,
        "recv": 1.0,
    }
    factor = factors.get(collective)
    return None if factor is None else factor * num_bytes
