"""What one rank leaves, and what is known of one layout."""

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
    """Groups that the language model's experts are dealt out over."""
    ranks: tuple[int, ...]


class RankRecord(Entry):
    """What one rank of one launch leaves behind, written by the worker and merged by the matrix."""

    rank: int
    mode: Mode
    host: str
    device: str
    modules: tuple[str, ...]
    seed_used: int
    started_at: float
    """Unix time of the rank's first line."""
    first_step_at: float | None
    """Unix time when the first optimizer step began."""
    last_step_at: float | None
    """Unix time when the last optimizer step ended."""
    losses: tuple[Finite | None, ...]
    """Mean loss per answer token of each step; null where it is not finite."""
    grad_norms: dict[str, tuple[Finite | None, ...]]
    """Pre-clip gradient norm of each step, by module; every rank holds every module's."""
    tokens: tuple[Count, ...]
    """Non-padding language positions of each step, over the whole job."""
    items: dict[str, tuple[Count, ...]]
    """What each encoder read in each step, such as images, over the whole job."""
    token_pairs: tuple[Count, ...] = ()
    """Sum over the samples of each step of their squared number of non-padding positions: what attention costs."""
    clock: Literal["wall", "cuda_events"]
    step_seconds: tuple[Seconds, ...]
    """Timed window only."""
    micro_batch_items: dict[str, tuple[Count, ...]] = {}
    """By encoder that the rank holds, items of its replica in each micro-batch of the timed window."""
    loading: RankLoading | None = None
    """Timing mode only."""
    skipped_samples: dict[str, Count] = {}
    """By split, samples that cannot be read and were left out, the same on every rank."""
    weights_match_at_start: bool | None = None
    samples_match: bool | None = None
    mismatch: str | None = None
    """What differed from the baseline before the first step; the layout then took no step."""
    evaluation: EvaluationResult | None = None
    memory: RankMemory | None = None
    """Null on CPU ranks."""
    communication: tuple[RankCommunication, ...] = ()
    """Comm mode only."""
    account: RankAccount | None = None
    """Comm mode only."""
    module_seconds: dict[str, PhaseSeconds] = {}
    """Timing mode only; per step of the timed window, by hosted module."""
    warmup_seconds: tuple[Seconds, ...] = ()
    reserved_bytes: tuple[Count, ...] = ()
    """What the allocator had reserved after each step; none on CPU ranks."""
    energy: RankEnergy | None = None
    pid: int | None = None
    processes: tuple[DeviceProcess, ...] = ()
    """Everybody on the rank's device after the timed window."""
    unmeasured: dict[str, str] = {}
    """Meters that failed, and how; the run went on."""
    first_step_seconds: Seconds | None = None
    phases: dict[str, Seconds] = {}
    gradients: tuple[ParameterDifference, ...] | None = None
    """Of the first parity step, by parameter, over the whole model; null for the baseline and in other modes."""
    replicas: str | None = None
    """What is wrong between replicas in the first parity step, or after the last one, if anything."""
    scored_tokens: Count | None = None
    """Answer tokens of the first parity step's global batch, by which its gradients are divided."""
    optimizer: OptimizerDifferences | None = None
    """After the second step; null for the baseline and in other modes."""
    comparing: Comparing | None = None
    """Parity mode on GPUs only."""


class LayoutRecord(Entry):
    """Everything known about one layout."""

    name: str
    placement: Literal["colocated", "disjoint"]
    world_size: int
    modules: dict[str, ModuleGrid]
    settings: dict[str, Any]
    """As the timed steps used them."""
    status: Status
    reason: str
    losses: tuple[Finite | None, ...] = ()
    """Full precision, one per parity step."""
    grad_norms: dict[str, tuple[Finite | None, ...]] = {}
    """Pre-clip, by module, one per parity step."""
    evaluation: EvaluationResult | None = None
    parity: Parity | None = None
    timing: Timing | None = None
    memory: Memory | None = None
    comparing: Comparing | None = None
    """Null where nothing was compared, on CPU ranks, and in older records."""
    loading: Loading | None = None
    """Null where nothing was timed."""
    imbalance: dict[str, Finite] = {}
    """By encoder, items of the busiest replica over the mean of all, summed over the micro-batches of the timed window:
    1 where all replicas have as many, 1.5 where the others wait for half as much again as their own work."""
    skipped_samples: dict[str, Count] = {}
    """By split, samples that cannot be read and were left out; rank logs name each."""
    communication: tuple[Communication, ...] = ()
    energy: Energy | None = None
    account: Account | None = None
    unmeasured: dict[str, str] = {}
    """Meters that could not tell, and why."""
    launches: tuple[Launch, ...] = ()
