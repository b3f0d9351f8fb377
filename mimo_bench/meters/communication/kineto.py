"""Reader of a trace of torch's profiler of one rank: kernels, their modules and times. No torch.

A kernel's role is not told by its name, and batched messages carry no metadata at all. So launches are looked up: a
kernel belongs to the call, and to the module, in whose range it was launched. Communication is what NCCL's kernels do,
on whatever stream; everything else on the device is computation, copies included.
"""

from __future__ import annotations

import bisect
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mimo_bench.meters.communication.account import Observed
from mimo_bench.meters.communication.calls import Call, Part, plain_name
from mimo_bench.meters.communication.intervals import Interval
from mimo_bench.meters.communication.json_stream import read_array
from mimo_bench.util import RecordError

RANGE = "mimo_bench.call "
"""The range around a launch is called this, the number of the call, its role and its collective."""
MARK = "mimo_bench.mark"
"""A marker where the host begins or ends a traced step, and a last one where the device has ended the last of them."""
TURN = "mimo_bench.turn "
"""A marker where a rank turns to a module; the name behind it is the module's, or nothing."""

_ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
_LAUNCHES = {"cuda_runtime", "cuda_driver"}
_MICROSECOND = 1e-6


@dataclass(slots=True)
class _Range:
    begin: float
    end: float
    number: int


@dataclass(slots=True)
class _Kernel:
    span: Interval
    correlation: int | None
    is_communication: bool
    said: dict[str, Any]
    """What the profiler knew of a communication kernel."""


@dataclass(slots=True)
class _Read:
    """Kept part of a trace: a few numbers for each kernel and launch."""

    marks: list[float] = field(default_factory=list)
    kernels: list[_Kernel] = field(default_factory=list)
    launches: dict[int, float] = field(default_factory=dict)
    """When, by correlation."""
    ranges: list[_Range] = field(default_factory=list)
    """Of calls. They never overlap, also not between threads: one waits while the other runs a backward pass."""
    turns: list[tuple[float, str | None]] = field(default_factory=list)


def observe(path: Path, calls: Sequence[Call]) -> Observed:
    """Return the observations in the trace of a rank.

    Args:
        path: the trace.
        calls: what the rank called while it was traced, in order; their times are replaced by those of their kernels.

    Raises:
        RecordError: it is no such trace, or was cut short.
    """
    read = _read(path)
    if len(read.marks) < 2:
        raise RecordError(f"{path}: holds {len(read.marks)} of the markers {MARK!r}, which part the steps: run again")
    read.turns.sort(key=lambda turn: turn[0])
    read.ranges.sort(key=lambda one: one.begin)
    spans: dict[int, list[Interval]] = defaultdict(list)
    compute: dict[str | None, list[Interval]] = defaultdict(list)
    nobodys: list[Call] = []
    for kernel in read.kernels:
        at = None if kernel.correlation is None else read.launches.get(kernel.correlation)
        if not kernel.is_communication:
            compute[_module(read.turns, at)].append(kernel.span)
        elif (number := _number(read.ranges, at)) is not None and number < len(calls):
            spans[number].append(kernel.span)
        else:
            nobodys.append(_unasked(kernel))
    # Peers know a call again by its number within its group.
    nobodys.sort(key=lambda call: call.spans)
    found = [replace(call, spans=tuple(sorted(spans[number]))) for number, call in enumerate(calls)]
    return Observed(window=(min(read.marks), max(read.marks)), compute=compute, calls=found + nobodys)


def _read(path: Path) -> _Read:
    read = _Read()
    for event in read_array(path, "traceEvents"):
        if event.get("ph") != "X":
            continue
        category, name = event.get("cat"), str(event.get("name", ""))
        begin = float(event["ts"]) * _MICROSECOND
        end = begin + float(event.get("dur", 0)) * _MICROSECOND
        said = event.get("args") or {}
        if category in _ON_DEVICE:
            is_communication = category == "kernel" and "nccl" in name.lower()
            read.kernels.append(
                _Kernel(
                    span=(begin, end),
                    correlation=said.get("correlation"),
                    is_communication=is_communication,
                    said=said if is_communication else {},
                )
            )
        elif category in _LAUNCHES and "correlation" in said:
            read.launches[said["correlation"]] = begin
        elif category == "user_annotation":
            _take_range(read, name, begin, end)
    return read


def _take_range(read: _Read, name: str, begin: float, end: float) -> None:
    if name == MARK:
        read.marks.append(begin)
    elif name.startswith(RANGE):
        read.ranges.append(_Range(begin, end, int(name.removeprefix(RANGE).partition(" ")[0])))
    elif name.startswith(TURN):
        read.turns.append((begin, name.removeprefix(TURN) or None))


def _number(ranges: Sequence[_Range], at: float | None) -> int | None:
    """The call in whose range a launch at `at` lies."""
    if at is None:
        return None
    index = bisect.bisect_right(ranges, at, key=lambda one: one.begin) - 1
    return ranges[index].number if index >= 0 and at <= ranges[index].end else None


def _module(turns: Sequence[tuple[float, str | None]], at: float | None) -> str | None:
    """The module that the rank had turned to when it launched something at `at`."""
    if at is None:
        return None
    index = bisect.bisect_right(turns, at, key=lambda turn: turn[0]) - 1
    return turns[index][1] if index >= 0 else None


def _unasked(kernel: _Kernel) -> Call:
    """A communication kernel that Python asked for nowhere, as in compiled code, with what the profiler says of it."""
    said = kernel.said
    collective = plain_name(str(said.get("Collective name") or "unknown"))
    return Call(
        role=str(said.get("Process Group Description") or "unknown"),
        collective=collective,
        ranks=_ranks(said),
        parts=(Part(collective=collective, num_bytes=0),),
        spans=(kernel.span,),
    )


def _ranks(said: Mapping[str, Any]) -> tuple[int, ...]:
    """The ranks of a kernel's group; nothing where the profiler abridged its list, as it does for large groups."""
    listed = tuple(map(int, re.findall(r"\d+", str(said.get("Process Group Ranks") or ""))))
    return listed if len(listed) == said.get("Group size") else ()
