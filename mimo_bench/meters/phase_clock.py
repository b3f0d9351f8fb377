"""Time of each module of a rank forward, backward and in its optimizer step, over the timed window.

An event of the compute stream at every change, read back after the window: some ten microseconds of launching for each
of a few dozen changes a step, and nothing waits. CPU ranks read the wall clock instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch

from mimo_bench.meters.phases import Working
from mimo_bench.record import PhaseSeconds


class PhaseClock:
    """Takes the time at every change and adds up what lies between."""

    def __init__(self, device_kind: Literal["cpu", "cuda"]) -> None:
        """Start without a change."""
        self._now: Callable[[], Any] = time.perf_counter if device_kind == "cpu" else _event
        self._changes: list[tuple[Any, Working]] = []

    def mark(self, working: Working) -> None:
        """The rank turns to something else now."""
        self._changes.append((self._now(), working))

    def seconds(self, num_steps: int) -> dict[str, PhaseSeconds]:
        """Seconds per step by module and phase; waits for the device."""
        if self._changes and isinstance(last := self._changes[-1][0], torch.cuda.Event):
            last.synchronize()
        sums: dict[str, dict[str, float]] = {}
        for (begin, working), (end, _) in pairwise(self._changes):
            if working is not None:
                module, phase = working
                of_module = sums.setdefault(module, {})
                of_module[phase] = of_module.get(phase, 0.0) + _between(begin, end) / num_steps
        return {module: PhaseSeconds(**phases) for module, phases in sums.items()}


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begin: Any, end: Any) -> float:
    if isinstance(begin, float):
        return float(end - begin)
    return max(0.0, float(begin.elapsed_time(end)) / 1e3)
