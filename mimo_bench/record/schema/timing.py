"""Step times, launches and loading."""

from __future__ import annotations

from statistics import median
from typing import Literal

from mimo_bench.record.schema.base import Count, Entry, Finite, Mode, Seconds


class ModuleTiming(Entry):
    """Step time of one module's ranks, by phase."""

    compute_seconds: Seconds | None
    """Time in which the module computed, per step, on the rank that computes longest; by the account of comm mode, null
    without it."""
    idle_share: Finite | None
    """Idle time over step time, mean over the ranks that host the module; by the account of comm mode."""
    forward_seconds: Seconds | None = None
    """Time of forward passes per step on the compute stream, collectives inside the module included, on the module's
    slowest rank."""
    backward_seconds: Seconds | None = None
    """Time of backward passes, measured alike, recomputation included."""
    optimizer_seconds: Seconds | None = None
    """Time of the optimizer step, measured alike: norms, reductions for clipping, update, gathering of sharded
    parameters."""
    model_flops_per_step: Finite | None = None
    """FLOPs of the module's arithmetic, independent of the implementation."""


class Timing(Entry):
    """Speed of a layout over the timed window."""

    clock: Literal["wall", "cuda_events"]
    """Wall clock on CPU ranks, CUDA events on GPUs."""
    step_seconds: tuple[Seconds, ...]
    """Time between the ends of consecutive optimizer steps on the slowest rank."""
    launch_medians: tuple[Seconds, ...] = ()
    """Median step time of every timing launch (`run --launches`); the first is `step_seconds_median`. They show the
    variation from launch to launch. Empty in older records."""
    step_seconds_median: Seconds
    step_seconds_iqr: Seconds
    """Distance between first and third quartile of the step times, interpolated linearly between steps."""
    tokens_per_step: Finite
    """Language sequence positions per step that are not padding, mean over the timed window."""
    tokens_per_second: Finite
    tokens_per_second_per_gpu: Finite
    """Divided by all allocated ranks, idle ones included."""
    samples_per_second: Finite
    images_per_second: Finite
    model_flops_per_step: Finite | None = None
    model_tflops_per_gpu: Finite | None = None
    mfu: Finite | None = None
    """Model FLOPs utilisation: model FLOPs over allocated GPUs times their dense peak times time."""
    modules: dict[str, ModuleTiming] = {}
    warmup_seconds: tuple[Seconds, ...] = ()
    """Times of the steps before the timed window, like step_seconds."""
    settled_after: Count | None = None
    """Steps after which the allocator reserved no more memory and every step took less than 1.2 times the timed median.
    If there are more than warm-up steps, the window began too early. Null if training never settled."""

    @property
    def estimated_step_seconds(self) -> float:
        """Median of the launches' medians: the step time that pages, comparisons and histories state."""
        return median(self.launch_medians or (self.step_seconds_median,))

    @property
    def estimated_tokens_per_second(self) -> float:
        """Tokens per second by all launches; by the totals of the window if there is only one."""
        if len(self.launch_medians) < 2:
            return self.tokens_per_second
        return self.tokens_per_step / self.estimated_step_seconds

    @property
    def estimated_rate(self) -> float:
        """Estimated rate for each allocated rank."""
        return self.estimated_tokens_per_second * self.tokens_per_second_per_gpu / self.tokens_per_second


class PhaseSeconds(Entry):
    """Time of one module's phases on one rank, per step, on its compute stream or by the wall clock."""

    forward: Seconds = 0.0
    backward: Seconds = 0.0
    gradients: Seconds = 0.0
    """Reduction and normalisation of the gradients of all modules on the rank; the first module has it."""
    optimizer: Seconds = 0.0


class Launch(Entry):
    """Cost of starting the ranks of one mode."""

    mode: Mode
    start_seconds: Seconds
    """From the request for ranks until every rank's program has begun."""
    setup_seconds: Seconds
    """From there until the first optimizer step begins: groups, model, weights, data."""
    gap_seconds: Seconds | None
    """From the end of the previous launch's last step to the first step; null for the first launch."""
    first_step_seconds: Seconds | None = None
    """Wall time of the first step, including compilation and set-up on first use."""
    phases: dict[str, Seconds] = {}
    """Parts of the set-up, in order, each on its slowest rank."""


class RankLoading(Entry):
    """Cost of loading on one rank, over some steps after the timed window that are fed as a training run is."""

    num_workers: Count
    samples_per_second_per_worker: Finite | None
    """Samples per second and worker thread, of which a thread makes the rank's part while the model trains; null for a
    rank that reads none."""
    stall_share: Finite
    """Share of the time in which training waited for the next batch."""


class Loading(Entry):
    """Cost of loading for the job; timed steps use batches that are ready, and do not contain it."""

    num_workers: Count
    """Threads on each rank."""
    samples_per_second_per_worker: Finite | None
    """Samples per second and worker thread, on the slowest rank."""
    stall_share: Finite
    """Share of the time in which the rank that waits most waited for its next batch."""
