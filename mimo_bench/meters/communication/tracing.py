"""A short trace of torch's profiler, with markers that say what a rank turns to. What it shows is read in `kineto`.

Profiling slows launches down by some percent, so it belongs to comm mode and covers two steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mimo_bench.meters.clock import CudaClock
from mimo_bench.meters.communication.kineto import MARK, TURN
from mimo_bench.meters.phases import Working
from mimo_bench.meters.unmeasured import Unmeasured


class Tracing:
    """Profiles the steps inside a block and writes their trace."""

    def __init__(self, path: Path) -> None:
        """Write to `path`, which ends in `.json.gz`."""
        self._path = path
        self.is_written = False

    @contextmanager
    def running(self, unmeasured: Unmeasured) -> Iterator[None]:
        """Profile until the end of the block; a profiler that fails leaves a reason and no trace."""
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        profiler = unmeasured.attempt("trace", lambda: _started(torch.profiler.profile(activities=activities)))
        yield
        if profiler is not None:
            self.is_written = bool(unmeasured.attempt("trace", lambda: self._write(profiler)))

    def mark(self, working: Working) -> None:
        """Leave a marker in the trace: the rank turns to another module."""
        with torch.profiler.record_function(f"{TURN}{working[0] if working is not None else ''}"):
            pass

    def _write(self, profiler: Any) -> bool:
        profiler.stop()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._path))
        return True


def _started(profiler: torch.profiler.profile) -> torch.profiler.profile:
    profiler.start()
    return profiler


class TracedClock(CudaClock):
    """A clock that leaves a marker in the trace wherever it takes the time, so that both speak of the same window."""

    def mark(self) -> None:
        """A step begins or ends here, as the host sees it, which runs ahead of the device."""
        super().mark()
        _leave_marker()

    def close(self) -> None:
        """The window ends here: waits for the device, whose last kernels run after the host has left the last step."""
        torch.cuda.synchronize()
        _leave_marker()


def _leave_marker() -> None:
    with torch.profiler.record_function(MARK):
        pass
