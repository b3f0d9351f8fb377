"""Sees every call between ranks where Python hands it to a process group: role, bytes, peers and wall-clock time.

Every path of torch and megatron-core ends in a method of `ProcessGroup`, whatever name a caller imported. On CPU ranks
the time for which a rank is blocked is its time in the call and in the wait for it. On GPUs a call only launches a
kernel; calls and bytes count there, and a marked range around the launch lets a trace tell whose kernel it was. Costs
a few microseconds a call, so it belongs to comm mode.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from mimo_bench.meters.communication.calls import BATCH, Call, Part
from mimo_bench.meters.communication.intervals import Interval
from mimo_bench.meters.communication.kineto import RANGE
from mimo_bench.util import METHODS


@dataclass(slots=True)
class _Seen:
    role: str
    collective: str
    ranks: tuple[int, ...]
    parts: list[Part]
    messages: list[tuple[int, int]]
    spans: list[Interval] = field(default_factory=list)

    def finished(self) -> Call:
        return Call(
            role=self.role,
            collective=self.collective,
            ranks=self.ranks,
            parts=tuple(self.parts),
            spans=tuple(self.spans),
            messages=tuple(self.messages),
        )


class Interceptor:
    """Calls of this process while it is entered, in the order in which they were made."""

    def __init__(self, *, marks_ranges: bool = False) -> None:
        """See calls; with `marks_ranges`, name each in a profiler's trace."""
        self._marks_ranges = marks_ranges
        self._seen: list[_Seen] = []
        self._waiting: dict[int, tuple[Any, _Seen]] = {}
        self._batches: dict[str, _Seen] = {}
        self._ranks: dict[str, tuple[int, ...]] = {}

    @property
    def calls(self) -> list[Call]:
        """Calls so far."""
        return [seen.finished() for seen in self._seen]

    @contextmanager
    def watching(self) -> Iterator[Interceptor]:
        """Watch calls from here until the end of the block; afterwards calls run as before."""
        with ExitStack() as undo:
            for name, (collective, argument) in METHODS.items():
                original = getattr(dist.ProcessGroup, name)
                _put(undo, dist.ProcessGroup, name, self._watch(original, collective, argument))
            _put(undo, dist.ProcessGroup, "_start_coalescing", self._begin_batch(dist.ProcessGroup._start_coalescing))
            _put(undo, dist.ProcessGroup, "_end_coalescing", self._end_batch(dist.ProcessGroup._end_coalescing))
            _put(undo, dist.Work, "wait", self._wait(dist.Work.wait))
            yield self
        # A call that was never waited for gave no result either.
        self._waiting.clear()

    def _watch(self, original: Callable[..., Any], collective: str, argument: int | None) -> Callable[..., Any]:
        def call(group: dist.ProcessGroup, *args: Any, **kwargs: Any) -> Any:
            num_bytes = 0 if argument is None else _num_bytes(args[argument])
            messages = self._messages(group, collective, args)
            if (batch := self._batches.get(group.group_name)) is not None:
                batch.parts.append(Part(collective=collective, num_bytes=num_bytes))
                batch.messages += messages
                return original(group, *args, **kwargs)
            seen = self._see(group, collective, messages)
            seen.parts.append(Part(collective=collective, num_bytes=num_bytes))
            return self._timed(seen, lambda: original(group, *args, **kwargs))

        return call

    def _begin_batch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def begin(group: dist.ProcessGroup, *args: Any) -> Any:
            self._batches[group.group_name] = self._see(group, BATCH, [])
            return original(group, *args)

        return begin

    def _end_batch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def end(group: dist.ProcessGroup, *args: Any) -> Any:
            seen = self._batches.pop(group.group_name, None)
            return original(group, *args) if seen is None else self._timed(seen, lambda: original(group, *args))

        return end

    def _wait(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wait(work: Any, *args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = original(work, *args, **kwargs)
            _, seen = self._waiting.pop(id(work), (None, None))
            if seen is not None:
                seen.spans.append((begin, time.perf_counter()))
            return result

        return wait

    def _see(self, group: dist.ProcessGroup, collective: str, messages: list[tuple[int, int]]) -> _Seen:
        seen = _Seen(
            role=group.group_desc if group.group_desc not in ("", "undefined") else f"group {group.group_name}",
            collective=collective,
            ranks=self._ranks_of(group),
            parts=[],
            messages=messages,
        )
        self._seen.append(seen)
        return seen

    def _timed(self, seen: _Seen, launch: Callable[[], Any]) -> Any:
        number = len(self._seen) - 1
        name = f"{RANGE}{number} {seen.role} {seen.collective}"
        marked = torch.profiler.record_function(name) if self._marks_ranges else nullcontext()
        begin = time.perf_counter()
        with marked:
            work = launch()
        seen.spans.append((begin, time.perf_counter()))
        if work is not None:
            # Held until it is waited for, so that no other work can get its number.
            self._waiting[id(work)] = (work, seen)
        return work

    def _messages(self, group: dist.ProcessGroup, collective: str, args: tuple[Any, ...]) -> list[tuple[int, int]]:
        if collective not in ("send", "recv"):
            return []
        ranks = self._ranks_of(group)
        own, peer = ranks[group.rank()], ranks[args[1]]
        return [(own, peer) if collective == "send" else (peer, own)]

    def _ranks_of(self, group: dist.ProcessGroup) -> tuple[int, ...]:
        if (known := self._ranks.get(group.group_name)) is None:
            known = self._ranks[group.group_name] = tuple(dist.get_process_group_ranks(group))
        return known


def _put(undo: ExitStack, target: Any, name: str, value: Any) -> None:
    undo.callback(setattr, target, name, getattr(target, name))
    setattr(target, name, value)


def _num_bytes(tensors: Any) -> int:
    """Bytes of a tensor or of all tensors in nested lists."""
    if isinstance(tensors, torch.Tensor):
        return tensors.numel() * tensors.element_size()
    return sum(map(_num_bytes, tensors))
