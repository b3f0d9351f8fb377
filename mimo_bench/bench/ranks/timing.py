"""Timing mode on one rank: warm-up, then the timed window with next to nothing in it, then what can wait until after.

In the window events of the compute stream are recorded, and the allocator's peak is read between steps, on the host.
Energy is the driver's own counter, read at the window's edges. What memory consists of is found behind the window:
the step that held the peak is taken again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from mimo_bench.parity import SketchProbe, jitter_weights, other_setting
from mimo_bench.record import RankLoading, RankMemory, RankRecord
from mimo_bench.scenario import Scenario
from mimo_bench.trainer import LoaderWatch, MicroBatch, Trainer

Batches = Sequence[Sequence[MicroBatch]]


class TimedComparison:
    """Comparison of single parameters under the timed settings, outside of the timed window.

    Gradients are compared in the first warm-up step, in which all layouts start alike, and updates after the last step
    of the window. Without warm-up there is no step for gradients.
    """

    def __init__(self, trainer: Trainer, request: LaunchRequest) -> None:
        """Compare with the baseline's tensors, or leave them."""
        gradients, updates = (request.baseline / "timed" / f"{kind}.json" for kind in ("gradients", "updates"))
        self._trainer = trainer
        # Without them nothing is judged as timed, as the baseline was not timed to its end.
        self._has_tensors = request.is_baseline or updates.exists()
        self._gradients = SketchProbe(gradients, is_baseline=request.is_baseline)
        self._updates = SketchProbe(updates, is_baseline=request.is_baseline)
        self._groups: str | None = None
        self._seconds = 0.0

    def inspect_gradients(self) -> None:
        """Save or compare gradients of the first step before they are clipped."""
        if self._has_tensors and self._trainer.optimizer.num_steps == 0:
            with self._outside():
                self._gradients.inspect_gradients(self._trainer)

    def check_groups(self) -> None:
        """Compare settings of the parameter groups with the scenario's after a step."""
        self._groups = self._groups or other_setting(self._trainer)

    def finish(self) -> dict[str, Any]:
        """Save or compare updates by all steps; return the fields of the rank's record."""
        self.check_groups()
        if self._has_tensors:
            with self._outside():
                self._updates.inspect_updates(self._trainer)
        return {
            "gradients": self._gradients.differences,
            "late_updates": self._updates.differences,
            "replicas": self._gradients.disagreement or self._updates.disagreement,
            "groups": self._groups,
            "comparing_seconds": self._seconds,
        }

    @contextmanager
    def _outside(self) -> Iterator[None]:
        """Time what is not part of a step, and leave no memory of it in the allocator."""
        began = time.perf_counter()
        beat()
        yield
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        self._seconds += time.perf_counter() - began
        beat()


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

    def measure(self, batches: Batches, *, num_warmup: int, compare: TimedComparison) -> dict[str, Any]:
        """Train on all of `batches`, the first `num_warmup` as warm-up; return the fields of the rank's record."""
        warmup_clock, reserved = build_clock(self._device_kind), list[int]()

        def after_step() -> None:
            compare.check_groups()
            self._keep_reserved(reserved)

        # The first step is the sharpest, as all layouts start alike; its warm-up time includes the comparison.
        self._log.train(
            self._trainer,
            batches[:num_warmup],
            clock=warmup_clock,
            inspect=compare.inspect_gradients,
            after_step=after_step,
        )
        rehearsed = rehearsal(batches, num_warmup=num_warmup)
        for batch in rehearsed:
            self._trainer.rehearse(batch)
            beat()
        phase_clock = PhaseClock(self._device_kind)
        mark = self._unmeasured.guarded("modules", phase_clock.mark)
        with self._unmeasured.entered("modules", phases(self._trainer, mark)):
            on_device = self._time(batches[num_warmup:])
        self._keep_reserved(reserved)
        compared = compare.finish()
        num_timed = len(batches) - num_warmup
        return {
            **compared,
            **on_device,
            **self._look_at_memory(batches[num_warmup:], on_device.get("memory")),
            "module_seconds": self._unmeasured.attempt("modules", lambda: phase_clock.seconds(num_timed)) or {},
            "warmup_seconds": warmup_clock.step_seconds(),
            "num_rehearsed": len(rehearsed),
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
        """Return the parts of the peak; every rank takes the steps, also one whose peak is unknown."""
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
    batches = held_ready(trainer, steps.warmup + steps.timed)
    compare = TimedComparison(trainer, request)
    if request.variant is not None:
        log.train(trainer, batches[: steps.warmup], inspect=compare.inspect_gradients)
        log.train(trainer, batches[steps.warmup :], after_step=compare.check_groups)
        return log.record(trainer, request.mode, phases=phases, **compare.finish())
    phases.end("load")
    window = Window(trainer, log, device_kind=request.device_kind)
    found = window.measure(batches, num_warmup=steps.warmup, compare=compare)
    found["micro_batch_items"] = items_of(batches[steps.warmup :])
    found["loading"] = watch_loader(trainer, request.scenario)
    return log.record(trainer, request.mode, phases=phases, **found)


def items_of(batches: Sequence[Sequence[MicroBatch]]) -> dict[str, tuple[int, ...]]:
    """By encoder that this rank holds, the items of each micro-batch."""
    micro_batches = [micro_batch for batch in batches for micro_batch in batch]
    modules = micro_batches[0].items_per_sample
    return {module: tuple(sum(batch.items_per_sample[module]) for batch in micro_batches) for module in modules}


def watch_loader(trainer: Trainer, scenario: Scenario) -> RankLoading | None:
    """Measure the loader as it feeds training outside of the bench; after the timed window."""
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
