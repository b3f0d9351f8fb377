"""Records of one rank and of one layout."""

from __future__ import annotations

from typing import Any, Literal

from mimo_bench.record.schema.base import Count, Entry, Finite, Mode, Seconds, Status
from mimo_bench.record.schema.communication import Account, Communication, RankAccount, RankCommunication
from mimo_bench.record.schema.memory import Comparing, DeviceProcess, Energy, Memory, RankEnergy, RankMemory
from mimo_bench.record.schema.parity import EvaluationResult, OptimizerDifferences, ParameterDifference, Parity
from mimo_bench.record.schema.timing import Launch, Loading, PhaseSeconds, RankLoading, Timing


class ModuleGrid(Entry):
    """One module's degrees and its global ranks."""

    tp: int
    cp: int
    pp: int
    dp: int
    ep: int = 1
    """Expert-parallel degree of the language model."""
    ranks: tuple[int, ...]


class RankRecord(Entry):
    """Record of one rank of one launch, written by the rank and merged by the matrix."""

    rank: int
    mode: Mode
    host: str
    device: str
    modules: tuple[str, ...]
    seed_used: int
    started_at: float
    """Unix time when the rank's program began."""
    first_step_at: float | None
    """Unix time when the first optimizer step began."""
    last_step_at: float | None
    """Unix time when the last optimizer step ended."""
    losses: tuple[Finite | None, ...]
    """Mean loss per answer token of each step; null if it is not finite."""
    grad_norms: dict[str, tuple[Finite | None, ...]]
    """Pre-clip gradient norm of each step, by module; every rank holds every module's."""
    tokens: tuple[Count, ...]
    """Non-padding language positions of each step, over the whole job."""
    items: dict[str, tuple[Count, ...]]
    """Items that each encoder read in each step, such as images, over the whole job."""
    scored: tuple[Count, ...] = ()
    """Answer tokens of each step, over the whole job."""
    token_pairs: tuple[Count, ...] = ()
    """Squared number of non-padding positions, summed over the samples of each step; attention's cost grows with it."""
    clock: Literal["wall", "cuda_events"]
    step_seconds: tuple[Seconds, ...]
    """Step times of the timed window."""
    micro_batch_items: dict[str, tuple[Count, ...]] = {}
    """By encoder on the rank, items of its replica in each micro-batch of the timed window."""
    loading: RankLoading | None = None
    """Timing mode only."""
    skipped_samples: dict[str, Count] = {}
    """By split, samples that cannot be read and were skipped, the same on every rank."""
    weights_match_at_start: bool | None = None
    samples_match: bool | None = None
    mismatch: str | None = None
    """Difference from the baseline before the first step; the layout then took no step."""
    evaluation: EvaluationResult | None = None
    """After the last step."""
    held_out: EvaluationResult | None = None
    """After the last parity step."""
    repeated_loss: Finite | None = None
    """Loss of the first batch once more, after the last parity step; of the baseline only."""
    movement: dict[str, Finite] = {}
    """By trained module, norm of its update by two steps, less its decay, over the rounding of its weights; of the
    baseline only."""
    groups: str | None = None
    """First setting of a parameter group that is not the scenario's, as text; null if all are."""
    counts: str | None = None
    """First count of a step that is not the loader's, as text; null if all are."""
    memory: RankMemory | None = None
    """Null on CPU ranks."""
    communication: tuple[RankCommunication, ...] = ()
    """Comm mode only."""
    account: RankAccount | None = None
    """Comm mode only."""
    module_seconds: dict[str, PhaseSeconds] = {}
    """Timing mode only; per step of the timed window, by hosted module."""
    warmup_seconds: tuple[Seconds, ...] = ()
    num_rehearsed: Count = 0
    """Batches of the timed window that ran forward and backward before it, without a change of the weights."""
    reserved_bytes: tuple[Count, ...] = ()
    """Memory that the allocator had reserved after each step; empty on CPU ranks."""
    energy: RankEnergy | None = None
    pid: int | None = None
    processes: tuple[DeviceProcess, ...] = ()
    """All processes on the rank's device after the timed window."""
    unmeasured: dict[str, str] = {}
    """Meters that failed, with the reason; the run continued."""
    first_step_seconds: Seconds | None = None
    phases: dict[str, Seconds] = {}
    gradients: tuple[ParameterDifference, ...] | None = None
    """Gradients of the first step, by parameter of the whole model; null for the baseline and in comm mode."""
    late_updates: tuple[ParameterDifference, ...] | None = None
    """Updates by all steps that are compared; null for the baseline, in comm mode, and for two steps."""
    comparing_seconds: Seconds | None = None
    """Time of the comparison of single parameters in timing mode, outside of the timed window."""
    replicas: str | None = None
    """First disagreement of replicas; null if they agree."""
    optimizer: OptimizerDifferences | None = None
    """State after the second step; null for the baseline and in other modes."""
    comparing: Comparing | None = None
    """Parity mode on GPUs only."""


class LayoutRecord(Entry):
    """Record of one layout."""

    name: str
    placement: Literal["colocated", "disjoint"]
    world_size: int
    modules: dict[str, ModuleGrid]
    settings: dict[str, Any]
    """Settings of the timed steps."""
    status: Status
    reason: str
    losses: tuple[Finite | None, ...] = ()
    """Loss of each parity step, in full precision."""
    grad_norms: dict[str, tuple[Finite | None, ...]] = {}
    """Pre-clip gradient norm of each parity step, by module."""
    evaluation: EvaluationResult | None = None
    """Held-out samples after the last step."""
    held_out: EvaluationResult | None = None
    """Held-out samples after the last parity step, which is what is compared; null in older records."""
    parity: Parity | None = None
    timing: Timing | None = None
    memory: Memory | None = None
    comparing: Comparing | None = None
    """Null if nothing was compared, on CPU ranks, and in older records."""
    loading: Loading | None = None
    """Null if nothing was timed."""
    imbalance: dict[str, Finite] = {}
    """By encoder, items of the busiest replica over the mean of all, summed over the micro-batches of the timed window.
    1 if all replicas have equal numbers; at 1.5 the mean replica waits half as long as it works."""
    skipped_samples: dict[str, Count] = {}
    """By split, samples that cannot be read and were skipped; rank logs name each."""
    communication: tuple[Communication, ...] = ()
    energy: Energy | None = None
    account: Account | None = None
    unmeasured: dict[str, str] = {}
    """Meters without a result, with the reason."""
    launches: tuple[Launch, ...] = ()
