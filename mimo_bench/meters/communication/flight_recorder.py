"""The calls of one rank as NCCL's flight recorder timed them on the device.

The recorder keeps every collective with its group, sizes and, in comm mode, its duration. It costs time of its own, so
timing mode runs without it. Messages that were launched together appear twice: an entry for each, with its size, and
then one for the batch, with the duration.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._C._distributed_c10d import _dump_nccl_trace_json  # type: ignore[attr-defined]  # not in the stubs

from mimo_bench.meters.communication.calls import BATCH, Call, Part, plain_name
from mimo_bench.util import RecordError

_SETTLE_SECONDS = 5.0
_WATCHDOG_SECONDS = 0.2
"""Longer than it takes NCCL's watchdogs, one a group, to look at all calls that have ended, and to retire them."""
_ELEMENT_BYTES = {"Float": 4, "BFloat16": 2, "Half": 2, "Double": 8, "Long": 8, "Int": 4, "Byte": 1, "Bool": 1}
_PEERS = re.compile(r"(\d+)(->|<-)(\d+)")
_ARROWS = {"send": "->", "recv": "<-"}


def last_record_id() -> int:
    """The number of the newest entry; entries behind it belong to the window that starts now."""
    return max((entry["record_id"] for entry in _dump().get("entries", [])), default=-1)


def read_calls(after: int) -> list[Call]:
    """This rank's calls behind the entry `after`. Waits for the device to finish them.

    Raises:
        RecordError: the recorder no longer has all of them.
    """
    torch.cuda.synchronize()
    deadline, known = time.monotonic() + _SETTLE_SECONDS, -1
    while True:
        dump = _dump()
        entries = entries_behind(dump.get("entries", []), after)
        settled = [entry for entry in entries if is_settled(entry)]
        # Messages of a batch are never settled, single ones are: they are waited for as long as any of them moves.
        is_complete = all(is_settled(entry) or entry.get("is_p2p") for entry in entries) and len(settled) == known
        if is_complete or time.monotonic() > deadline:
            return calls_of(entries, groups=dump.get("pg_config") or {})
        known = len(settled)
        time.sleep(_WATCHDOG_SECONDS)


def entries_behind(entries: Sequence[Mapping[str, Any]], after: int) -> list[Mapping[str, Any]]:
    """The entries behind `after`, all of them: the recorder is a ring, and forgets its oldest entries first.

    Raises:
        RecordError: the first of them is gone.
    """
    found = [entry for entry in entries if entry["record_id"] > after]
    if found and (first := min(entry["record_id"] for entry in found)) > after + 1:
        raise RecordError(
            f"the flight recorder holds {len(entries)} calls and forgot the first {first - after - 1} of this window; "
            f"take fewer timed steps"
        )
    return found


def is_settled(entry: Mapping[str, Any]) -> bool:
    """Return True if the recorder's entry of a call is final: a watchdog times a call when it retires it, not before.

    The entry's state says less: reading the recorder makes it `completed` as soon as the device is done.
    """
    return bool(entry.get("retired")) or entry.get("duration_ms") is not None


def calls_of(entries: Sequence[Mapping[str, Any]], *, groups: Mapping[str, Any]) -> list[Call]:
    """Entries of the recorder as calls, messages joined to the batch that they were launched in.

    Args:
        entries: in the order in which they were recorded.
        groups: `pg_config` of the recorder, which lists the ranks of each group.
    """
    calls: list[Call] = []
    loose: dict[str, list[Call]] = defaultdict(list)
    for entry in entries:
        group = str(entry["process_group"][0])
        call = _call(entry, _ranks(groups.get(group)))
        if call.collective == BATCH:
            messages = loose.pop(group, [])
            call = Call(
                role=call.role,
                collective=BATCH,
                ranks=call.ranks,
                parts=tuple(part for message in messages for part in message.parts),
                spans=call.spans,
                messages=tuple(end for message in messages for end in message.messages),
            )
        elif entry.get("is_p2p") and not call.spans:
            loose[group].append(call)
            continue
        calls.append(call)
    return calls + [call for left in loose.values() for call in left]


def _call(entry: Mapping[str, Any], ranks: tuple[int, ...]) -> Call:
    said = entry["profiling_name"].removeprefix("nccl:").split(" ")
    collective = plain_name(said[0])
    seconds = (entry.get("duration_ms") or 0.0) / 1e3
    # A batch has no data of its own: its messages do.
    parts = () if collective == BATCH else (Part(collective=collective, num_bytes=_input_bytes(entry)),)
    return Call(
        role=_role(entry),
        collective=collective,
        ranks=ranks,
        parts=parts,
        # Only durations are known, not when.
        spans=((0.0, seconds),) if seconds else (),
        messages=_messages(collective, said[1:], ranks),
    )


def _messages(collective: str, said: Sequence[str], ranks: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The ends of a message by global rank, from words such as `0->2` that number the ranks inside the group."""
    found = _PEERS.search(" ".join(said)) if collective in _ARROWS else None
    if found is None:
        return ()
    own, peer = (int(found[number]) for number in (1, 3))
    if ranks and max(own, peer) < len(ranks):
        own, peer = ranks[own], ranks[peer]
    return ((own, peer),) if collective == "send" else ((peer, own),)


def _role(entry: Mapping[str, Any]) -> str:
    """Return the description that the group was made with; its number if it has none."""
    name, description = entry["process_group"]
    return description if description not in ("", "undefined") else f"group {name}"


def _ranks(config: Mapping[str, Any] | None) -> tuple[int, ...]:
    """The ranks of a group, which the recorder writes as a list or as the text of one."""
    listed = (config or {}).get("ranks") or ()
    return tuple(json.loads(listed) if isinstance(listed, str) else listed)


def _input_bytes(entry: Mapping[str, Any]) -> int:
    pairs = zip(entry.get("input_sizes") or (), entry.get("input_dtypes") or (), strict=False)
    return sum(math.prod(shape) * _ELEMENT_BYTES.get(dtype, 0) for shape, dtype in pairs)


def _dump() -> dict[str, Any]:
    dump: dict[str, Any] = json.loads(_dump_nccl_trace_json(includeCollectives=True, onlyActive=False))
    return dump
