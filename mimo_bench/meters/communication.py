"""What a rank sent to whom: totals per group role and collective, from NCCL's flight recorder.

scenario -> layout -> trainer -> [meters] -> record -> parity -> report

The recorder keeps every collective with its group, sizes and, in comm mode, its duration on the device. It costs time
of its own, so timing mode runs without it. A duration holds waiting for late peers as well as the transfer.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._C._distributed_c10d import _dump_nccl_trace_json  # type: ignore[attr-defined]  # not in the stubs

from mimo_bench.record.schema import RankCommunication

_SETTLE_SECONDS = 5.0
_ELEMENT_BYTES = {"Float": 4, "BFloat16": 2, "Half": 2, "Double": 8, "Long": 8, "Int": 4, "Byte": 1, "Bool": 1}


def last_record_id() -> int:
    """The number of the newest entry; entries behind it belong to the window that starts now."""
    return max((entry["record_id"] for entry in _entries()), default=-1)


def read_communication(after: int, *, num_steps: int) -> tuple[RankCommunication, ...]:
    """This rank's totals per step over the entries behind `after`. Waits for the device to finish them."""
    torch.cuda.synchronize()
    return summarise(_settled_entries(after), num_steps=num_steps)


def summarise(entries: Sequence[Mapping[str, Any]], *, num_steps: int) -> tuple[RankCommunication, ...]:
    """Totals per step by group role and collective.

    Sends and receives that were batched appear twice: one entry for the batch, with the duration, and one for each
    message, with the size; together they are counted once.
    """
    calls: dict[tuple[str, str], int] = defaultdict(int)
    sizes: dict[tuple[str, str], int] = defaultdict(int)
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for entry in entries:
        role, collective = _role(entry), entry["profiling_name"].removeprefix("nccl:").split(" ")[0]
        key = (role, collective)
        seconds[key] += (entry.get("duration_ms") or 0.0) / 1e3
        calls[key] += 1
        sizes[key] += _input_bytes(entry)
    return tuple(
        RankCommunication(
            role=role,
            collective=collective,
            calls_per_step=calls[role, collective] / num_steps,
            bytes_per_step=sizes[role, collective] / num_steps,
            seconds_per_step=seconds[role, collective] / num_steps,
        )
        for role, collective in sorted(calls)
    )


def _role(entry: Mapping[str, Any]) -> str:
    """The description that the group was made with; its number where nobody gave it one."""
    name, description = entry["process_group"]
    return description if description not in ("", "undefined") else f"group {name}"


def _input_bytes(entry: Mapping[str, Any]) -> int:
    pairs = zip(entry.get("input_sizes") or (), entry.get("input_dtypes") or (), strict=False)
    return sum(math.prod(shape) * _ELEMENT_BYTES.get(dtype, 0) for shape, dtype in pairs)


def _settled_entries(after: int) -> list[dict[str, Any]]:
    """Entries behind `after` once the recorder has the durations; its own thread fills them in."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        entries = [entry for entry in _entries() if entry["record_id"] > after]
        waiting = [entry for entry in entries if entry["state"] == "scheduled" and not entry.get("is_p2p")]
        if not waiting or time.monotonic() > deadline:
            return entries
        time.sleep(0.2)


def _entries() -> list[dict[str, Any]]:
    dump = json.loads(_dump_nccl_trace_json(includeCollectives=True, onlyActive=False))
    return list(dump.get("entries", []))
