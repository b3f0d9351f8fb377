"""Traces that comm mode left: read on their own, and made small enough to be committed.

    python -m tests.support.traces DIR/layouts/NAME/comm tests/fixtures/traces/NAME

is what a session on GPUs does with a run in DIR; `tests/meters/test_independent_reading.py` reads them. Of each
`rank<k>.trace.json.gz` the first traced step stays: what ran on the device, what launched it, and our own ranges.
Nothing about the host's code, paths or machine is kept.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mimo_bench.meters.communication.account import summarise
from mimo_bench.meters.communication.calls import Call
from mimo_bench.meters.communication.intervals import subtract, total, union
from mimo_bench.meters.communication.json_stream import read_array
from mimo_bench.meters.communication.kineto import MARK, RANGE, TURN, observe

FIXTURES = Path(__file__).parents[1] / "fixtures" / "traces"
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")
_LONGEST_NAME = 60
_SAID = ("correlation", "stream", "device", "Collective name", "Process Group Description",
         "Process Group Ranks", "Group size")  # fmt: skip

_SEVERAL = (0, 1)
"""A group of more than one rank, as those of one are left out of the table."""

TOTALS = ("compute", "communication", "exposed communication", "hidden communication")

Event = dict[str, Any]
COALESCED = "coalesced"
"""A batched send and receive."""

Reading = dict[str, float]
"""Seconds: the totals, those of each role, and those of its batched calls as the role and `COALESCED`."""


def shorten(source: Path, target: Path) -> None:
    """Write what tests need of the trace `source` into `target`."""
    events = [event for event in read_array(source, "traceEvents") if event.get("ph") == "X"]
    marks = sorted(event["ts"] for event in events if event["name"] == MARK and event["cat"] == "user_annotation")
    begin, end = marks[0], marks[1]
    launches = {
        event["args"]["correlation"]: event
        for event in events
        if event.get("cat") in LAUNCHES and "correlation" in event.get("args", {}) and begin <= event["ts"] < end
    }
    kept = [
        event
        for event in events
        if event.get("cat") in ON_DEVICE and event.get("args", {}).get("correlation") in launches
    ]
    launched = {event["args"]["correlation"] for event in kept}
    kept += [event for correlation, event in launches.items() if correlation in launched]
    kept += [event for event in events if _is_ours(event) and begin <= event["ts"] <= end]
    write(target, map(_bare, sorted(kept, key=lambda event: float(event["ts"]))))


def write(path: Path, events: Iterable[Event]) -> None:
    """A trace as torch's profiler writes it; the same events are always the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schemaVersion": 1, "deviceProperties": [], "traceEvents": list(events)})
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def read(path: Path) -> Reading:
    """Comm mode's reading of a trace: computation, communication, and the seconds of each role in its table."""
    observed = observe(path, [_asked(name) for name in _ranges(path)])
    compute = union(span for spans in observed.compute.values() for span in spans)
    communication = union(span for call in observed.calls for span in call.spans)
    exposed = total(subtract(communication, compute))
    by_role: dict[str, float] = defaultdict(float)
    for row in summarise(observed.calls, None, num_steps=1, compute=observed.compute):
        by_role[f"{row.role} {COALESCED}" if row.collective == COALESCED else row.role] += row.seconds_per_step
    totals = (total(compute), total(communication), exposed, total(communication) - exposed)
    return {**dict(zip(TOTALS, totals, strict=True)), **{role: seconds for role, seconds in by_role.items() if seconds}}


def role_of(name: str) -> str:
    """The role of the call that a range is named after; it may hold spaces."""
    return " ".join(name.removeprefix(RANGE).split(" ")[1:-1])


def _asked(name: str) -> Call:
    """The call of that range, without what only the rank knew."""
    return Call(role=role_of(name), collective=name.rpartition(" ")[2], ranks=_SEVERAL, parts=(), spans=())


def _ranges(path: Path) -> list[str]:
    """The names of the ranges around calls, in the order of their numbers."""
    names = {
        event["name"]
        for event in read_array(path, "traceEvents")
        if event.get("cat") == "user_annotation" and event["name"].startswith(RANGE)
    }
    return sorted(names, key=lambda name: int(name.removeprefix(RANGE).partition(" ")[0]))


def _is_ours(event: Event) -> bool:
    return event.get("cat") == "user_annotation" and event["name"].startswith((MARK, RANGE, TURN))


def _bare(event: Event) -> Event:
    said = event.get("args", {})
    return {
        **{key: event[key] for key in ("ph", "cat", "pid", "tid", "ts", "dur")},
        "name": event["name"][:_LONGEST_NAME] if event["cat"] in ON_DEVICE else event["name"],
        "args": {key: said[key] for key in _SAID if key in said},
    }


def main() -> None:
    """Shorten every rank's trace of one layout."""
    source, target = map(Path, sys.argv[1:])
    for path in sorted(source.glob("rank*.trace.json.gz")):
        shorten(path, target / path.name)


if __name__ == "__main__":
    main()
