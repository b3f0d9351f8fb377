"""Step times, launches and loading."""

from __future__ import annotations

from typing import Literal

from mimo_bench.record.schema.base import Count, Entry, Finite, Mode, Seconds


class ModuleTiming(Entry):
    """Where one module's ranks spend the step."""

    compute_seconds: Seconds | None
    """Time in which anything of the module was computed, per step, on the rank that computes longest; by the account
    of comm mode, null without it."""
    idle_share: Finite | None
    """Idle time over step time, mean over the ranks that host the module; by the account of comm mode."""
    forward_seconds: Seconds | None = None
    """Per step on the compute stream, collectives inside the module included, on the module's slowest rank."""
    backward_seconds: Seconds | None = None
    """The same of the backward passes, recomputation included."""
    optimizer_seconds: Seconds | None = None
    """The same of the optimizer step: norms, clipping's reductions, update, gathering of sharded parameters."""
    model_flops_per_step: Finite | None = None
    """What the module's arithmetic needs, whatever carries it out."""


class Timing(Entry):
    """How fast the layout trains, over the timed window."""

    clock: Literal["wall", "cuda_events"]
    """Wall clock on CPU ranks, CUDA events on GPUs."""
    step_seconds: tuple[Seconds, ...]
    """Time between the ends of consecutive optimizer steps on the slowest rank."""
    launch_medians: tuple[Seconds, ...] = ()
    """Median step time of every timing launch (`run --launches`), of which the first is `step_seconds_median`. They
    differ by what one window of steps cannot show. Empty in older records."""
    step_seconds_median: Seconds
    step_seconds_iqr: Seconds
    """Distance between the first and the third quartile of the step times, interpolated linearly between steps."""
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
    """The steps before the timed window, like step_seconds."""
    settled_after: Count | None = None
    """Steps after which the allocator reserved no more and every step took less than 1.2 times the timed median; more
    than the warm-up steps means that the window began too early. Null where it never settled."""


class PhaseSeconds(Entry):
    """What one module's work took on one rank, per step, on its compute stream or by the wall clock."""

    forward: Seconds = 0.0
    backward: Seconds = 0.0
    gradients: Seconds = 0.0
    """Reducing and normalising gradients of all modules of the rank, entered under the first."""
    optimizer: Seconds = 0.0


class Launch(Entry):
    """What it cost to get the ranks of one mode going."""

    mode: Mode
    start_seconds: Seconds
    """From asking for ranks until every rank runs its first line."""
    setup_seconds: Seconds
    """From there until the first optimizer step begins: groups, model, weights, data."""
    gap_seconds: Seconds | None
    """From the end of the previous launch's last step to the start of this one's first; null for the first launch."""
    first_step_seconds: Seconds | None = None
    """Wall time of the first step, with whatever is compiled or set up on first use."""
    phases: dict[str, Seconds] = {}
    """What the set-up consists of, in order, each on its slowest rank."""


class RankLoading(Entry):
    """What loading cost one rank over some steps behind the timed window, fed as a training run is."""

    num_workers: Count
    samples_per_second_per_worker: Finite | None
    """Samples that one worker thread makes its part of in a second, while the model trains; null for a rank that reads
    none."""
    stall_share: Finite
    """Share of the time in which training stood still because the next batch was not ready."""


class Loading(Entry):
    """What loading cost the job; the judged times are of batches that were held ready, and have none of it."""

    num_workers: Count
    """Threads on each rank."""
    samples_per_second_per_worker: Finite | None
    """Samples that one worker thread of the slowest rank makes its part of in a second, while the model trains."""
    stall_share: Finite
    """Share of the time in which the rank that waits most stood still for its next batch."""
