"""The record: what one run leaves behind. People and programs read the same `run.json`.

Names carry their units; unknown is null, never a guess and never NaN. Fields may be added within a schema version,
so a reader passes over those it does not know.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from mimo_bench.util import Described

SCHEMA_VERSION: Final = 1

Status = Literal["passed", "parity_failed", "unjudged", "oom", "timeout", "crashed", "interrupted", "not_run"]
Mode = Literal["parity", "timing", "comm"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


_GIVEN: Final[dict[frozenset[str], set[str]]] = {}
"""Every set of fields that an entry was given."""


class _Entry(Described, BaseModel):
    # A number that is unknown by mistake shows when it is written, instead of becoming null.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, ser_json_inf_nan="constants")

    def model_post_init(self, context: Any) -> None:
        """Share what equal entries have in common: a set for each of a million would take a gigabyte."""
        given = self.__pydantic_fields_set__
        # Frozen, so nobody adds to the shared one; a copy gets a set of its own.
        object.__setattr__(self, "__pydantic_fields_set__", _GIVEN.setdefault(frozenset(given), given))


class ModuleGrid(_Entry):
    """One module's degrees and its global ranks."""

    tp: int
    cp: int
    pp: int
    dp: int
    ep: int = 1
    """Groups that the language model's experts are dealt out over."""
    ranks: tuple[int, ...]


class Tolerance(_Entry):
    """The bounds that a verdict was judged by, all relative."""

    loss_rel: Finite
    grad_norm_rel: Finite
    gradient_rel: Finite | None = None
    """Of each parameter's gradient in the first step; null where only norms are compared."""
    moment_rel: Finite | None = None
    """Of each parameter's Adam moments after the second step."""
    update_rel: Finite | None = None
    """Of each parameter's way through the first two steps."""


class ParameterDifference(_Entry):
    """One parameter's gradient, update or moment against the baseline's; Frobenius norms of the full tensors."""

    parameter: str
    """Canonical name, which begins with the module's."""
    module: str
    norm: Finite | None
    baseline_norm: Finite | None
    error_norm: Finite | None
    """Of the difference."""
    scale: Finite | None
    """The multiple of the baseline's tensor that comes closest; null where the baseline's is zero."""
    unscaled_error_norm: Finite | None
    """Of the difference to that multiple: near zero, the tensor differs by a factor alone."""
    baseline_max: Finite | None = None
    """The largest magnitude in the baseline's tensor."""
    error_max: Finite | None = None
    """The largest magnitude of the difference."""
    slice_error_norms: tuple[Finite, ...] = ()
    """Of the difference, in the slice of each tensor-parallel rank; empty where nothing is split or nothing differs."""
    along_weights_share: Finite | None = None
    """Of an update: the share of the squared difference that points along the starting weights."""
    resolution_norm: Finite | None = None
    """Of an update: how far rounding may move weights of their size; a difference below it cannot be seen."""


class OptimizerDifferences(_Entry):
    """Where two steps took every parameter, against the baseline: what moved it, and how far it moved."""

    first_moments: tuple[ParameterDifference, ...]
    second_moments: tuple[ParameterDifference, ...]
    updates: tuple[ParameterDifference, ...]
    """Weights after two steps minus weights before them, where the baseline's gradients are more than rounding."""


class Difference(_Entry):
    """The parameter that differs most from the baseline's."""

    module: str
    parameter: str
    rel: Finite | None
    """Error norm over the larger of the baseline's norm and a floor of its module's."""


VariantName = Literal["rerun", "jitter", "micro-batches", "tensor-parallel"]
"""The baseline once more, mathematically equal: as it was; from weights one unit in the last place off; with gradients
summed over other micro-batches; on the same ranks with data- and tensor-parallel degrees swapped."""


class Noise(_Entry):
    """How far one mathematically equal variant of the baseline lies from it: what rounding alone can do."""

    variant: VariantName
    loss_rel_max: Finite | None
    loss_rel_mean: Finite | None = None
    """Mean over the steps of the signed difference; null in older records."""
    grad_norm_rel_max: Finite | None
    gradient_rel_max: Finite | None = None
    """Of any parameter in the first step; null as timed, like those below."""
    moment_rel_max: Finite | None = None
    update_rel_max: Finite | None = None
    differs: str | None = None
    """What is not the same to the last bit, first of all; null if everything is."""


class AsTimed(_Entry):
    """Whether the very settings that are timed train the same model as the baseline under its own timed settings."""

    verdict: Literal["passed", "failed", "baseline"]
    reason: str
    num_steps: Count
    loss_rel_max: Finite | None = None
    loss_rel_mean: Finite | None = None
    """Mean of the signed differences, which rounding does not drive to one side; null in older records."""
    grad_norm_rel: dict[str, Finite | None] = {}
    grad_norm_rel_mean: dict[str, Finite | None] = {}
    band: Tolerance | None = None
    """Bounds from the spread of mathematically equal variants of the baseline, measured in this run."""
    noise: tuple[Noise, ...] = ()
    """What the bounds come from; the baseline's alone."""


Check = Literal["static", "replicas", "gradients", "sound", "optimizer", "steps", "evaluation", "as_timed"]
"""What a layout has to pass, in this order: weights and samples before the first step, replicas that agree, every
gradient of the first step, numbers that prove something, every moment and update after the second step, losses and
gradient norms of every step, held-out samples, and the steps as timed."""


class Parity(_Entry):
    """Whether the layout trained the same model as the baseline, and why we say so."""

    verdict: Literal["passed", "failed", "baseline", "unjudged"]
    """`unjudged` where parity mode was not asked for; the steps as timed have a verdict all the same."""
    reason: str
    failed_check: Check | None = None
    """The first check that failed."""
    first_difference: str | None = None
    """What of the first step is not the baseline's first of all, by a second pass; null where none was made."""
    loss_rel_max: Finite | None = None
    """Largest relative loss difference over the parity steps."""
    loss_rel_mean: Finite | None = None
    """Mean of the signed differences over the same steps: a drift to one side. Null in older records."""
    first_divergence_step: Count | None = None
    """First step (from 0) whose loss or gradient norm is out of tolerance."""
    grad_norm_rel: dict[str, Finite | None] = {}
    """Largest relative difference of the pre-clip gradient norm, by module."""
    grad_norm_rel_mean: dict[str, Finite | None] = {}
    """Mean of the signed differences of the same."""
    worst_gradient: Difference | None = None
    worst_weight: Difference | None = None
    """After the second step, relative to how far two steps took the parameter."""
    worst_moment: Difference | None = None
    """Of Adam's two, after the second step."""
    weights_match_at_start: bool | None = None
    samples_match: bool | None = None
    tolerance: Tolerance | None = None
    noise: tuple[Noise, ...] = ()
    """What the tolerance comes from; the baseline's alone."""
    as_timed: AsTimed | None = None
    """Null where nothing was timed."""


class EvaluationResult(_Entry):
    """Held-out loss and accuracy after training."""

    loss: Finite | None
    """Mean cross-entropy per answer token."""
    answer_accuracy: Finite | None
    """Share of answer tokens that the model ranks first."""
    num_samples: Count


class ModuleTiming(_Entry):
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


class Timing(_Entry):
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


class Communication(_Entry):
    """One collective on one group role, per step; times are those of the rank that spends most in it."""

    role: str
    collective: str
    group_size: Count = 0
    """Ranks of the group."""
    spans_hosts: bool = False
    """Whether data goes between hosts: a message by its two ends, a collective if its group is on more than one."""
    calls_per_step: Finite
    """Over all ranks: a collective of a group of four counts four times."""
    bytes_per_step: Finite
    """Of the tensors put in, over all ranks."""
    seconds_per_step: Seconds | None = None
    """On the rank that spends most in it, waiting for late peers included."""
    transfer_seconds: Seconds | None = None
    """Of these, what the rank of the group that waited least spent, call by call."""
    wait_seconds: Seconds | None = None
    """The rest: waiting for peers that came later."""
    exposed_seconds: Seconds | None = None
    """Of these, the time in which the rank computed nothing; the rest was hidden behind computation."""
    bus_bytes_per_second: Finite | None = None
    """What each link carried during the transfer, by the convention of NCCL's tests and the size of the group."""


class LinkSpeed(_Entry):
    """One collective among ranks of this machine when nothing else goes on (`linkspeed --record`)."""

    collective: str
    num_ranks: Count
    num_bytes: Count
    """That each rank put in."""
    seconds: Seconds
    """Of one call, on the slowest rank."""
    bus_bytes_per_second: Finite | None
    """By the convention of NCCL's tests; null for what has none."""


class RankCommunication(_Entry):
    """One collective on one group role as one rank saw it, per step."""

    role: str
    collective: str
    group_size: Count = 0
    spans_hosts: bool = False
    calls_per_step: Finite
    bytes_per_step: Finite
    """Of the tensors that this rank put in."""
    seconds_per_step: Seconds
    """On the device, waiting for late peers included; on CPU ranks by the wall clock, while blocked in it."""
    transfer_seconds: Seconds | None = None
    exposed_seconds: Seconds | None = None
    bus_bytes_per_second: Finite | None = None


class RankAccount(_Entry):
    """Where a rank's step goes, mean over the steps that were looked at in comm mode."""

    num_steps: Count
    step_seconds: Seconds
    """By the clock of the timed steps, which knows nothing of the parts below."""
    compute_seconds: Seconds
    """Time in which anything was computed."""
    exposed_communication_seconds: Seconds
    """Time of transfers in which nothing was computed."""
    idle_seconds: Seconds
    """Time with neither; waiting for a peer inside a call is idleness."""
    wait_seconds: Seconds
    """Of the idle time, what was spent waiting inside a call."""
    compute_seconds_by_module: dict[str, Seconds] = {}


class RankAccountOf(RankAccount):
    """The same, with the rank it belongs to."""

    rank: int
    host: str
    device: str
    modules: tuple[str, ...]


class Account(_Entry):
    """Where every rank's step goes; compute, exposed communication and idle add up to the step within 1 %."""

    ranks: tuple[RankAccountOf, ...]


class PhaseSeconds(_Entry):
    """What one module's work took on one rank, per step, on its compute stream or by the wall clock."""

    forward: Seconds = 0.0
    backward: Seconds = 0.0
    gradients: Seconds = 0.0
    """Reducing and normalising gradients of all modules of the rank, entered under the first."""
    optimizer: Seconds = 0.0


class MemoryParts(_Entry):
    """What device memory holds; the parts of a rank add up to its peak within 2 %."""

    parameters_bytes: Count
    gradients_bytes: Count
    """The buffers in which gradients are summed and reduced."""
    optimizer_bytes: Count
    """Moments, and fp32 copies of the weights where those are bf16."""
    activations_bytes: Count
    """What forward passes left for backward passes."""
    workspace_bytes: Count
    """Everything else: temporaries of the busiest moment, and the batches that wait on the device."""


class RankMemory(_Entry):
    """Device memory of one rank over the timed window."""

    device_uuid: str
    peak_allocated_bytes: Count
    peak_reserved_bytes: Count
    device_used_bytes: Count
    """All of the device that is in use at the end, by NVML: context, NCCL and other processes included."""
    fragmentation_bytes: Count | None = None
    """Reserved and not allocated, at the peak of what was reserved."""
    parts: MemoryParts | None = None
    """At the busiest moment of the step that held the peak, taken again after the timed window."""
    busiest: str | None = None
    """What was going on then: `language backward`."""
    modules_parts: dict[str, MemoryParts] = {}
    """By module, each at its own busiest moment, so they need not add up."""


class RankMemoryOf(RankMemory):
    """The same, with the rank it belongs to."""

    rank: int
    modules: tuple[str, ...]
    predicted_peak_bytes: Count | None = None
    """What `mimo-bench check` expects of peak_allocated_bytes, from shapes alone."""


class ModuleMemory(_Entry):
    """Device memory of the worst rank that hosts the module; a colocated peak cannot be split between modules."""

    peak_allocated_bytes: Count
    peak_reserved_bytes: Count
    parameters_bytes: Count | None = None
    gradients_bytes: Count | None = None
    optimizer_bytes: Count | None = None
    activations_bytes: Count | None = None
    """What the module's forward passes left for its backward passes, at most."""
    workspace_bytes: Count | None = None
    """Temporaries of the module's own busiest moment."""


class DeviceState(_Entry):
    """What the driver says of a device at one moment."""

    temperature_celsius: Count | None = None
    sm_clock_mhz: Count | None = None
    memory_clock_mhz: Count | None = None
    power_watts: Finite | None = None
    throttle_reasons: tuple[str, ...] | None = None
    """Why clocks are below what was asked for, but for idleness and settings; null where the driver does not say."""


class RankEnergy(_Entry):
    """What one rank's device used over the timed window."""

    device_uuid: str
    window_seconds: Seconds
    joules: Finite | None
    """By the driver's counter; null over less than 10 s, which its steps are too coarse for."""
    before: DeviceState
    after: DeviceState


class Energy(_Entry):
    """What all devices of the layout used over the timed window."""

    joules_per_step: Finite | None
    average_watts: Finite | None
    """Of all devices together."""
    reason: str | None = None
    """Why there is no figure, where there is none."""
    devices: tuple[RankEnergy, ...] = ()


class DeviceProcess(_Entry):
    """A process that holds memory of a device, as the driver tells it."""

    device_uuid: str
    pid: int
    used_bytes: Count | None


class Memory(_Entry):
    """Device memory of a layout over the timed window."""

    modules: dict[str, ModuleMemory]
    ranks: tuple[RankMemoryOf, ...]


class Comparing(_Entry):
    """Device memory that parity mode takes beside the model, where full tensors are held against the baseline's."""

    extra_bytes: Count
    """Most at a time beyond what lay on the device when comparing began, on the rank that took most."""
    largest_tensor_bytes: Count
    """The largest full tensor of a parameter that this rank holds a part of, in fp32."""


class Launch(_Entry):
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


class RankLoading(_Entry):
    """What loading cost one rank over some steps behind the timed window, fed as a training run is."""

    num_workers: Count
    samples_per_second_per_worker: Finite | None
    """Samples that one worker thread makes its part of in a second, while the model trains; null for a rank that reads
    none."""
    stall_share: Finite
    """Share of the time in which training stood still because the next batch was not ready."""


class Loading(_Entry):
    """What loading cost the job; the judged times are of batches that were held ready, and have none of it."""

    num_workers: Count
    """Threads on each rank."""
    samples_per_second_per_worker: Finite | None
    """Samples that one worker thread of the slowest rank makes its part of in a second, while the model trains."""
    stall_share: Finite
    """Share of the time in which the rank that waits most stood still for its next batch."""


class RankRecord(_Entry):
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


class LayoutRecord(_Entry):
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


class Device(_Entry):
    """One GPU that the run used."""

    name: str
    uuid: str
    total_bytes: Count | None = None
    """Its memory, by the driver."""


class Environment(_Entry):
    """On what the run was measured."""

    git_commit: str | None
    git_dirty: bool | None
    hosts: tuple[str, ...]
    device_kind: Literal["cpu", "cuda"]
    devices: tuple[Device, ...]
    cpu: str | None
    num_cpus: int
    driver: str | None
    cuda: str | None
    nccl: str | None
    python: str
    torch: str | None
    megatron_core: str | None
    transformers: str | None
    platform: str
    topology: dict[str, str] = {}
    """How each pair of devices is connected: NVLink, or where their paths meet. Keys such as `0-1` number `devices`."""
    variables: dict[str, str] = {}
    """Of the environment, those that may change a measurement; secrets never."""


class Interval(_Entry):
    """Where a quantity lies with 95 % confidence."""

    low: Finite
    high: Finite


class Resumption(_Entry):
    """An invocation that went on where an earlier one had stopped (`run --resume`)."""

    resumed_at: datetime
    command: tuple[str, ...]
    kept: tuple[str, ...]
    """Layouts whose entries come from before; every other layout was trained by this invocation."""
    reason: str
    """Why these were kept, or why none was."""


class Ranked(_Entry):
    """A place in the ranking, with what put it there."""

    name: str
    reason: str
    tokens_per_second_per_gpu: Finite | None = None
    """What layouts are ranked by; padding left out, idle ranks counted."""
    interval: Interval | None = None
    """Of it, by Student's t on the steps of the timed window, fewer where steps resemble their neighbours; what differs
    from launch to launch is not in it. Null of fewer than three steps."""
    tied_with_best: bool | None = None
    """Whether the steps leave open that it is as fast as the first, at 5 % over all places; null for the first."""
    peak_allocated_bytes: Count | None = None
    """Of its fullest rank."""


Quantity = Literal["step_seconds", "peak_allocated_bytes"]
"""What is followed from run to run; of both, less is better."""


class Held(_Entry):
    """One quantity of one layout held against the runs before."""

    layout: str
    quantity: Quantity
    verdict: Literal["regressed", "improved", "suspect", "steady", "unknown"]
    """`suspect`: out of the band for the first time, which one more run will confirm or not; `unknown`: there is not
    enough to hold it against."""
    reason: str
    value: Finite | None
    reference: Finite | None = None
    """The level it was held against."""
    ratio: Finite | None = None
    """Value over reference."""
    p: Finite | None = None
    """Of a difference at least as large, in either direction, where there is none; null against a written reference."""
    expected: str | None = None
    """Why it was expected to regress, with a link; it then does not count."""


class ExpectedFailure(_Entry):
    """A layout that was expected to fail, and did or did not."""

    layout: str
    expected_status: str
    has_failed: bool
    reason: str
    link: str


class HeldAgainst(_Entry):
    """This run held against a history of runs (`run --history`)."""

    directory: str
    num_runs: Count
    """Comparable ones, over all layouts."""
    since: str | None = None
    """The last of them in a few words."""
    not_compared: str | None = None
    """Why there is none, if there is none."""
    held: tuple[Held, ...] = ()
    expected_failures: tuple[ExpectedFailure, ...] = ()


class ReferenceVerdict(_Entry):
    """The verdict on a baseline, with its reason."""

    verdict: Literal["passed", "failed", "no counterpart"]
    reason: str
    loss_rel: float | None = None
    loss_bound: float | None = None
    gradient_rel: float | None = None
    gradient_bound: float | None = None
    parameter: str | None = None


MEASURING_VERSION = 1
"""Raise it with every change after which a recorded number means something else, or is measured in another way."""

HASH_OF_MEASURING_VERSION_1 = "9a7b4a54f21d2f0727bea7a6f0ed35b926a5e05acd44ffee0584cc108b1699ba"
"""`measuring_hash` of the last records without a version, which hashed file names and docstrings too."""


class RunRecord(_Entry):
    """One invocation over one scenario: the machine contract, `run.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    scenario: dict[str, Any]
    scenario_file: str
    scenario_hash: str
    code_hash: str
    """SHA-256 over the package's source: a run is resumed only by the code that began it."""
    measuring_version: int | None = None
    """Version of what the numbers mean, raised by hand (`MEASURING_VERSION`): runs compare only when it is the same.
    Null in records that are older than it; these compare by `measuring_hash`."""
    measuring_hash: str | None = None
    """SHA-256 over the statements of the measuring code, without docstrings, imports and file names."""
    question: str
    started_at: datetime
    finished_at: datetime | None
    """Null while the matrix is still running or was interrupted."""
    command: tuple[str, ...]
    modes: tuple[Mode, ...]
    resumptions: tuple[Resumption, ...] = ()
    """Empty for a run of one piece."""
    tainted: str | None = None
    """Why the numbers should not be compared, if they should not."""
    overhead: dict[str, Finite] = {}
    """Cost of each mode's instruments against bare training in the baseline, as a share of the step; empty where it was
    not measured (`overhead --record`)."""
    links: tuple[LinkSpeed, ...] = ()
    """What the machine's links carry by themselves, by collective, number of ranks and size; empty where it was not
    measured (`linkspeed --record`)."""
    environment: Environment
    baseline: str
    layouts: tuple[LayoutRecord, ...]
    ranking: tuple[Ranked, ...] = ()
    history: HeldAgainst | None = None
    """Null where the run was not held against a history."""

    @property
    def measured_by(self) -> str:
        """Return what runs must share to compare: the measuring version, or a hash of code in older records."""
        if self.measuring_version is not None:
            return f"measuring version {self.measuring_version}"
        if self.measuring_hash == HASH_OF_MEASURING_VERSION_1:
            return "measuring version 1"
        return self.code_hash if self.measuring_hash is None else self.measuring_hash
