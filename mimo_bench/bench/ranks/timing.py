"""Timing mode on one rank: warm-up, then the timed window with next to nothing in it, then what can wait until after.

In the window events of the compute stream are recorded, and the allocator's peak is read between steps, on the host.
Energy is the driver's own counter, read at the window's edges. What memory consists of is found behind the window:
the step that held the peak is taken again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch

from mimo_bench.bench.ranks.log import Phases, RankLog
from mimo_bench.bench.ranks.setup import held_ready, plant
from mimo_bench.bench.request import LaunchRequest
from mimo_bench.launch import beat
from mimo_bench.layout import LANGUAGE
from mimo_bench.meters import (
    Allocator,
    EnergyMeter,
    MemoryWatch,
    PeakStep,
    PhaseClock,
    Unmeasured,
    build_clock,
    device_uuid,
    held_by_module,
    phases,
    processes_on,
    read_memory,
    rehearsal,
    reset_peaks,
    watch_peak,
    with_parts,
)
from mimo_bench.parity import jitter_weights
from mimo_bench.record import RankLoading, RankMemory, RankRecord
from mimo_bench.scenario import Scenario
from mimo_bench.trainer import LoaderWatch, MicroBatch, Trainer

Batches = Sequence[Sequence[MicroBatch]]


class Window:
    """One rank's warm-up and timed window."""

    def __init__(self, trainer: Trainer, log: RankLog, *, device_kind: Literal["cpu", "cuda"]) -> None:
        """Nothing has been trained yet."""
        self._trainer = trainer
        self._log = log
        self._device_kind = device_kind
        self._unmeasured = Unmeasured()
        self._allocator = Allocator()
        self._at_peak = PeakStep(self._allocator)

    def measure(self, batches: Batches, *, num_warmup: int, num_compared: int) -> dict[str, Any]:
        """Train on all of `batches`, the first `num_warmup` as warm-up; the fields of the rank's record."""
        warmup_clock, reserved = build_clock(self._device_kind), list[int]()
        warmup = [*batches[:num_warmup], *rehearsal(batches, num_warmup=num_warmup, num_compared=num_compared)]
        self._log.train(self._trainer, warmup, clock=warmup_clock, after_step=lambda: self._keep_reserved(reserved))
        phase_clock = PhaseClock(self._device_kind)
        mark = self._unmeasured.guarded("modules", phase_clock.mark)
        with self._unmeasured.entered("modules", phases(self._trainer, mark)):
            on_device = self._time(batches[num_warmup:])
        self._keep_reserved(reserved)
        num_timed = len(batches) - num_warmup
        return {
            **on_device,
            **self._look_at_memory(batches[num_warmup:], on_device.get("memory")),
            "module_seconds": self._unmeasured.attempt("modules", lambda: phase_clock.seconds(num_timed)) or {},
            "warmup_seconds": warmup_clock.step_seconds(),
            "reserved_bytes": tuple(reserved),
            "unmeasured": self._unmeasured.reasons,
        }

    def _time(self, batches: Batches) -> dict[str, Any]:
        """The timed window, and on GPUs what counters say at its edges."""
        if self._device_kind == "cpu":
            self._log.train(self._trainer, batches, clock=self._log.clock)
            return {}
        attempt = self._unmeasured.attempt
        torch.cuda.synchronize()
        meter = attempt("energy", lambda: EnergyMeter(device_uuid()))
        keep = self._unmeasured.guarded("memory", self._at_peak.keep)
        reset_peaks()
        self._log.train(self._trainer, batches, clock=self._log.clock, after_step=keep)
        torch.cuda.synchronize()
        return {
            "energy": attempt("energy", meter.read) if meter is not None else None,
            "memory": attempt("memory", read_memory),
            "processes": attempt("processes", lambda: processes_on(device_uuid())) or (),
        }

    def _look_at_memory(self, batches: Batches, memory: RankMemory | None) -> dict[str, Any]:
        """What the peak consisted of; every rank takes the steps, also one whose peak is unknown."""
        if self._device_kind == "cpu":
            return {}
        watch = watch_peak(self._trainer, batches, self._at_peak, self._allocator, self._unmeasured)
        if memory is None or watch is None:
            return {}
        return {"memory": self._unmeasured.attempt("memory", lambda: self._with_parts(memory, watch)) or memory}

    def _with_parts(self, memory: RankMemory, watch: MemoryWatch) -> RankMemory:
        return with_parts(memory, watch, held_by_module(self._trainer))

    def _keep_reserved(self, reserved: list[int]) -> None:
        if self._device_kind == "cuda":
            reserved.append(torch.cuda.memory_reserved())


def run_timing(trainer: Trainer, request: LaunchRequest, *, undo: ExitStack, phases: Phases) -> RankRecord:
    """Warm-up, then the timed window with nothing else in it."""
    steps, log = request.scenario.steps, RankLog(build_clock(request.device_kind))
    plant(trainer, request, undo)
    if request.variant == "jitter":
        jitter_weights(trainer)
    if request.variant is not None:
        log.train(trainer, held_ready(trainer, steps.num_as_timed))
        return log.record(trainer, request.mode, phases=phases)
    batches = held_ready(trainer, steps.warmup + steps.timed)
    phases.end("load")
    window = Window(trainer, log, device_kind=request.device_kind)
    found = window.measure(batches, num_warmup=steps.warmup, num_compared=steps.num_as_timed)
    found["micro_batch_items"] = items_of(batches[steps.warmup :])
    found["loading"] = watch_loader(trainer, request.scenario)
    return log.record(trainer, request.mode, phases=phases, **found)


def items_of(batches: Sequence[Sequence[MicroBatch]]) -> dict[str, tuple[int, ...]]:
    """By encoder that this rank holds, the items of each micro-batch."""
    micro_batches = [micro_batch for batch in batches for micro_batch in batch]
    modules = micro_batches[0].items_per_sample
    return {module: tuple(sum(batch.items_per_sample[module]) for batch in micro_batches) for module in modules}


def watch_loader(trainer: Trainer, scenario: Scenario) -> RankLoading | None:
    """What the loader costs when it feeds training as it would outside of the bench; after the timed window."""
    if not (num_steps := scenario.loader.num_watched_steps):
        return None
    steps, watch = scenario.steps, LoaderWatch()
    batches = trainer.loader.batches("train", start=steps.warmup + steps.timed, watch=watch)
    try:
        # The first one is waited for whatever the loader can do: nothing was made ahead of it.
        parts = samples_made(batch := next(batches))
        trainer.train_step(batch).result()
        watch.waited_seconds, began = 0.0, time.perf_counter()
        for _ in range(num_steps):
            # Waiting for each step leaves the loader the time that a step takes, and no more.
            trainer.train_step(next(batches)).result()
            beat()
        seconds = time.perf_counter() - began
    finally:
        batches.close()
    return RankLoading(
        num_workers=scenario.loader.num_workers,
        samples_per_second_per_worker=parts * watch.num_batches / watch.busy_seconds if parts else None,
        stall_share=min(1.0, watch.waited_seconds / seconds),
    )


def samples_made(batch: Sequence[MicroBatch]) -> int:
    """Samples of which this rank makes a part in one step; 0 for a rank between the ends of a pipeline."""
    reads = {LANGUAGE} if batch[0].input_ids is not None else set()
    reads |= batch[0].encoder_inputs.keys()
    return sum(max((len(part.sample_ids[module]) for module in reads), default=0) for part in batch)
