"""Which timed step held a rank's peak of memory, and what each phase of that step needs.

Steps whose samples differ in images differ in memory. In the window the allocator's peak is read between steps, on the
host and without waiting; behind it the steps that held some rank's peak are taken again under watch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from mimo_bench.meters.phases import Working, phases
from mimo_bench.meters.unmeasured import Unmeasured
from mimo_bench.trainer import MicroBatch, Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocator:
    """Who counts the bytes of a rank: torch's allocator of its GPU, read on the host in some 0.1 ms."""

    allocated: Callable[[], int] = torch.cuda.memory_allocated
    peak: Callable[[], int] = torch.cuda.max_memory_allocated
    """Most bytes at a time since `reset_peak`."""
    reset_peak: Callable[[], None] = torch.cuda.reset_peak_memory_stats


class PeakStep:
    """The step of a window that first held its peak; one reading of the allocator between steps."""

    def __init__(self, allocator: Allocator) -> None:
        """No step has ended; the window's peak counts from here."""
        self._peak_of_window = allocator.peak
        self._ended = 0
        self.peak = 0
        self.step: int | None = None
        """Counts from 0; None before the first step has ended."""

    def keep(self) -> None:
        """A step ends here."""
        if (peak := self._peak_of_window()) > self.peak:
            self.peak, self.step = peak, self._ended
        self._ended += 1

    def of_all_ranks(self) -> list[int]:
        """The steps that held some rank's peak, in order; collective over the world."""
        everyone: list[int | None] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, self.step)
        return sorted({step for step in everyone if step is not None})


@dataclass(slots=True)
class Moment:
    """The busiest moment so far of something."""

    peak: int = 0
    """Bytes beyond what rested before the step."""
    activations: int = 0
    during: str = ""

    @property
    def workspace(self) -> int:
        """Memory that was neither resting nor left behind by a forward pass."""
        return self.peak - self.activations

    def take(self, peak: int, activations: int, during: str) -> None:
        """Keep what is busier than all before."""
        if peak > self.peak:
            self.peak, self.activations, self.during = peak, activations, during


@dataclass(slots=True)
class MemoryWatch:
    """Reads the allocator at every change of phase in one step; waits for nothing, costs some 0.1 ms a change."""

    allocator: Allocator
    resting: int = 0
    """Allocated before the step."""
    working: Working = None
    begun_with: int = 0
    busiest: Moment = field(default_factory=Moment)
    by_module: dict[str, Moment] = field(default_factory=lambda: defaultdict(Moment))
    held_activations: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    most_activations: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def peak(self) -> int:
        """Most bytes at a time in the step."""
        return self.resting + self.busiest.peak

    def begin(self) -> None:
        """The step begins."""
        self.resting = self.begun_with = self.allocator.allocated()
        self.allocator.reset_peak()

    def mark(self, working: Working) -> None:
        """A phase ends and another begins."""
        now, peak = self.allocator.allocated(), self.allocator.peak()
        # A forward pass has activations at its end, a backward pass at its beginning.
        activations = max(0, max(self.begun_with, now) - self.resting)
        if self.working is not None:
            module, phase = self.working
            if phase in ("forward", "backward"):
                self.held_activations[module] += now - self.begun_with
                self.most_activations[module] = max(self.most_activations[module], self.held_activations[module])
            else:
                activations = 0
            self.by_module[module].take(peak - self.resting, activations, f"{module} {phase}")
            self.busiest.take(peak - self.resting, activations, f"{module} {phase}")
        else:
            self.busiest.take(peak - self.resting, activations, "between modules")
        self.working, self.begun_with = working, now
        self.allocator.reset_peak()


def watch_peak(
    trainer: Trainer,
    batches: Sequence[Sequence[MicroBatch]],
    at_peak: PeakStep,
    allocator: Allocator,
    unmeasured: Unmeasured,
) -> MemoryWatch | None:
    """Take the steps of a window that held some rank's peak again; collective over the world.

    Returns:
        What this rank's busiest of them needed; None where no rank knows of a peak.
    """
    watched = [_watch_step(trainer, batches[step], allocator, unmeasured) for step in at_peak.of_all_ranks()]
    return max(watched, key=lambda watch: watch.peak, default=None)


def _watch_step(
    trainer: Trainer, batch: Sequence[MicroBatch], allocator: Allocator, unmeasured: Unmeasured
) -> MemoryWatch:
    watch = MemoryWatch(allocator)
    unmeasured.attempt("memory", watch.begin)
    mark = unmeasured.guarded("memory", watch.mark)
    with unmeasured.entered("memory", phases(trainer, mark)):
        trainer.train_step(batch)
    mark(None)
    return watch
