"""The time of each step on one rank. Nothing is read back until the end, so timing never stalls a GPU."""

from __future__ import annotations

import time
from typing import Literal, Protocol

import torch


class StepClock(Protocol):
    """Marks the ends of steps."""

    kind: Literal["wall", "cuda_events"]

    def mark(self) -> None:
        """A step ends here."""
        ...

    def step_seconds(self) -> tuple[float, ...]:
        """Seconds between consecutive marks; one fewer than marks. Waits for the device."""
        ...


class WallClock:
    """For CPU ranks, where work is done when the call returns. Costs a system call a step."""

    kind: Literal["wall", "cuda_events"] = "wall"

    def __init__(self) -> None:
        """Start without a mark."""
        self._marks: list[float] = []

    def mark(self) -> None:
        """A step ends here."""
        self._marks.append(time.perf_counter())

    @property
    def window(self) -> tuple[float, float]:
        """The first and the last mark, as `time.perf_counter` counts."""
        return self._marks[0], self._marks[-1]

    def step_seconds(self) -> tuple[float, ...]:
        """Seconds between consecutive marks."""
        return tuple(later - earlier for earlier, later in zip(self._marks, self._marks[1:], strict=False))


class CudaClock:
    """For GPU ranks: an event on the compute stream a step, a few microseconds of launch and no waiting."""

    kind: Literal["wall", "cuda_events"] = "cuda_events"

    def __init__(self) -> None:
        """Start without a mark."""
        self._marks: list[torch.cuda.Event] = []

    def mark(self) -> None:
        """A step ends here, when the device gets to it."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def step_seconds(self) -> tuple[float, ...]:
        """Seconds between consecutive marks; waits for the last one."""
        if self._marks:
            self._marks[-1].synchronize()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return tuple(earlier.elapsed_time(later) / 1e3 for earlier, later in pairs)


def build_clock(device_kind: Literal["cpu", "cuda"]) -> StepClock:
    """The clock for ranks of `device_kind`."""
    return WallClock() if device_kind == "cpu" else CudaClock()
