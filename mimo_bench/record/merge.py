"""Merging: the records of all ranks of a launch become the parts of a layout's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain
from statistics import median, quantiles

from mimo_bench.record.schema.communication import Account, Communication, RankAccountOf, RankCommunication
from mimo_bench.record.schema.layout import RankRecord
from mimo_bench.record.schema.memory import (
    Comparing,
    DeviceProcess,
    Energy,
    Memory,
    MemoryParts,
    ModuleMemory,
    RankMemoryOf,
)
from mimo_bench.record.schema.parity import EvaluationResult, OptimizerDifferences, ParameterDifference
from mimo_bench.record.schema.timing import Launch, Loading, ModuleTiming, Timing

MIN_ENERGY_WINDOW_SECONDS = 10.0
"""Shortest window for energy: the steps of the driver's counter are too coarse for less."""
SETTLED_RATIO = 1.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """Training of one layout in parity mode, over all its ranks."""

    losses: tuple[float | None, ...]
    grad_norms: dict[str, tuple[float | None, ...]]
    num_learning_steps: int
    """Steps after those that are compared."""
    evaluation: EvaluationResult | None
    held_out: EvaluationResult | None
    """After the last parity step."""
    weights_match_at_start: bool | None
    samples_match: bool | None
    mismatch: str | None
    disagreement: str | None
    """First number that ranks report differently, although all should know the same; None if they agree."""
    gradients: tuple[ParameterDifference, ...] | None = None
    """Gradients of the first step; None for the baseline."""
    optimizer: OptimizerDifferences | None = None
    """State after the second step; None for the baseline and outside parity mode."""
    late_updates: tuple[ParameterDifference, ...] | None = None
    """Updates by all steps that are compared; None for the baseline, and for two steps."""
    groups: str | None = None
    """First setting of a parameter group that is not the scenario's."""
    counts: str | None = None
    """First count that is not the loader's."""
    counted: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Numbers of each step, by the thing that is counted."""
    repeated_loss: float | None = None
    movement: Mapping[str, float] = field(default_factory=dict)
    comparing_seconds: float | None = None


def merge_training(ranks: Sequence[RankRecord], *, num_parity_steps: int) -> Trained:
    """Return the training that `ranks` report; every rank should report the same."""
    first, *others = ranks
    return Trained(
        losses=first.losses,
        grad_norms=first.grad_norms,
        num_learning_steps=max(0, len(first.losses) - num_parity_steps),
        evaluation=first.evaluation,
        held_out=first.held_out,
        weights_match_at_start=first.weights_match_at_start,
        samples_match=first.samples_match,
        mismatch=first.mismatch,
        gradients=first.gradients,
        optimizer=first.optimizer,
        late_updates=first.late_updates,
        groups=next((f"rank {rank.rank}: {rank.groups}" for rank in ranks if rank.groups is not None), None),
        counts=first.counts,
        counted={
            "answer tokens": first.scored,
            "tokens": first.tokens,
            "token pairs": first.token_pairs,
            **{f"items of {module}": counts for module, counts in first.items.items()},
        },
        repeated_loss=first.repeated_loss,
        movement=first.movement,
        comparing_seconds=max((rank.comparing_seconds for rank in ranks if rank.comparing_seconds), default=None),
        disagreement=first.replicas
        or next(chain.from_iterable(_disagreements(first, other) for other in others), None),
    )


def merge_timing(ranks: Sequence[RankRecord], *, global_batch_size: int) -> Timing:
    """Return the job's timing: each step takes as long as on its slowest rank."""
    world_size = len(ranks)
    step_seconds = slowest_rank_seconds(ranks)
    num_timed = len(step_seconds)
    total_seconds = sum(step_seconds)
    # The timed window is the end of the run; what came before it was warm-up.
    tokens = sum(ranks[0].tokens[-num_timed:])
    images = sum(ranks[0].items.get("vision", ())[-num_timed:])
    low, high = quartiles(step_seconds)
    return Timing(
        clock=ranks[0].clock,
        step_seconds=step_seconds,
        step_seconds_median=median(step_seconds),
        step_seconds_iqr=high - low,
        tokens_per_step=tokens / num_timed,
        tokens_per_second=tokens / total_seconds,
        tokens_per_second_per_gpu=tokens / total_seconds / world_size,
        samples_per_second=global_batch_size * num_timed / total_seconds,
        images_per_second=images / total_seconds,
        warmup_seconds=(warmup := tuple(max(times) for times in zip(*(r.warmup_seconds for r in ranks), strict=True))),
        settled_after=_settled(ranks, warmup, step_seconds),
    )


def slowest_rank_seconds(ranks: Sequence[RankRecord]) -> tuple[float, ...]:
    """Return the time of each step of the timed window on its slowest rank."""
    return tuple(max(times) for times in zip(*(rank.step_seconds for rank in ranks), strict=True))


def _settled(ranks: Sequence[RankRecord], warmup: Sequence[float], timed: Sequence[float]) -> int | None:
    """Return the steps after which the last rank settled; None if one never did."""
    found = [settled_after(warmup, rank.reserved_bytes, timed) for rank in ranks]
    known = [steps for steps in found if steps is not None]
    return max(known) if len(known) == len(found) else None


def merge_memory(ranks: Sequence[RankRecord], predicted_peak_bytes: Mapping[int, int] | None = None) -> Memory | None:
    """Return the peaks of every rank, and of the worst rank that hosts each module; None on CPU ranks."""
    expected = predicted_peak_bytes or {}
    known = [
        RankMemoryOf(
            rank=rank.rank,
            modules=rank.modules,
            predicted_peak_bytes=expected.get(rank.rank),
            **rank.memory.model_dump(),
        )
        for rank in ranks
        if rank.memory is not None
    ]
    if not known:
        return None
    modules = dict.fromkeys(module for memory in known for module in memory.modules)
    return Memory(
        modules={module: _module_memory(module, [m for m in known if module in m.modules]) for module in modules},
        ranks=tuple(known),
    )


def merge_comparing(ranks: Sequence[RankRecord]) -> Comparing | None:
    """Return the memory of the rank that took most besides the model; None if no rank reports it."""
    known = [rank.comparing for rank in ranks if rank.comparing is not None]
    return max(known, key=lambda one: one.extra_bytes, default=None)


def _module_memory(module: str, hosts: Sequence[RankMemoryOf]) -> ModuleMemory:
    parts = [memory.modules_parts[module] for memory in hosts if module in memory.modules_parts]
    return ModuleMemory(
        peak_allocated_bytes=max(memory.peak_allocated_bytes for memory in hosts),
        peak_reserved_bytes=max(memory.peak_reserved_bytes for memory in hosts),
        **{name: max((getattr(part, name) for part in parts), default=None) for name in MemoryParts.model_fields},
    )


def merge_communication(ranks: Sequence[RankRecord]) -> tuple[Communication, ...]:
    """Return totals by group role and collective over all ranks, with the times of the rank that spends most."""
    parts: dict[tuple[str, str, bool], list[RankCommunication]] = {}
    for part in (part for rank in ranks for part in rank.communication):
        parts.setdefault((part.role, part.collective, part.spans_hosts), []).append(part)
    return tuple(_communication(found) for _, found in sorted(parts.items()))


def _communication(parts: Sequence[RankCommunication]) -> Communication:
    slowest = max(parts, key=lambda part: part.seconds_per_step)
    transfer = slowest.transfer_seconds
    return Communication(
        **slowest.model_dump(exclude={"calls_per_step", "bytes_per_step"}),
        calls_per_step=sum(part.calls_per_step for part in parts),
        bytes_per_step=sum(part.bytes_per_step for part in parts),
        wait_seconds=None if transfer is None else max(0.0, slowest.seconds_per_step - transfer),
    )


def merge_account(ranks: Sequence[RankRecord]) -> Account | None:
    """Return the time budget of every rank; None unless all report it."""
    if not ranks or any(rank.account is None for rank in ranks):
        return None
    return Account(
        ranks=tuple(
            RankAccountOf(
                rank=rank.rank,
                host=rank.host,
                device=rank.device,
                modules=rank.modules,
                **rank.account.model_dump(),
            )
            for rank in ranks
            if rank.account is not None
        )
    )


def merge_modules(
    timed: Sequence[RankRecord], account: Account | None, flops: Mapping[str, float]
) -> dict[str, ModuleTiming]:
    """Return the step time of each module's ranks by phase.

    Args:
        timed: the ranks of timing mode.
        account: of comm mode, if it ran.
        flops: of each module for a step.
    """
    return {module: _module_timing(module, timed, account, flops.get(module)) for module in _modules(timed)}


def _module_timing(
    module: str, timed: Sequence[RankRecord], account: Account | None, flops: float | None
) -> ModuleTiming:
    spent = [rank.module_seconds[module] for rank in timed if module in rank.module_seconds]
    hosts = [rank for rank in account.ranks if module in rank.modules] if account is not None else []
    return ModuleTiming(
        compute_seconds=max((rank.compute_seconds_by_module.get(module, 0.0) for rank in hosts), default=None),
        idle_share=sum(rank.idle_seconds / rank.step_seconds for rank in hosts) / len(hosts) if hosts else None,
        forward_seconds=max((seconds.forward for seconds in spent), default=None),
        backward_seconds=max((seconds.backward for seconds in spent), default=None),
        optimizer_seconds=max((seconds.optimizer for seconds in spent), default=None),
        model_flops_per_step=flops,
    )


def merge_unmeasured(ranks: Sequence[RankRecord]) -> dict[str, str]:
    """Return the meters without a result: the first rank's reason, and the number of ranks that had one."""
    found: dict[str, list[str]] = {}
    for rank in ranks:
        for meter, reason in rank.unmeasured.items():
            found.setdefault(meter, []).append(f"rank {rank.rank}: {reason}")
    return {meter: f"{reasons[0]} ({len(reasons)} of {len(ranks)} ranks)" for meter, reasons in found.items()}


def merge_energy(ranks: Sequence[RankRecord]) -> Energy | None:
    """Return the energy that all devices used over the timed window; None on CPU ranks."""
    known = [rank.energy for rank in ranks if rank.energy is not None]
    if not known:
        return None
    joules = [device.joules for device in known if device.joules is not None]
    if len(joules) < len(ranks):
        shortest = min(device.window_seconds for device in known)
        reason = f"a window of {shortest:.1f} s; the counter needs at least {MIN_ENERGY_WINDOW_SECONDS:.0f} s"
        if shortest >= MIN_ENERGY_WINDOW_SECONDS:
            reason = f"{len(ranks) - len(joules)} of {len(ranks)} devices have no energy counter"
        return Energy(joules_per_step=None, average_watts=None, reason=reason, devices=tuple(known))
    num_steps = len(ranks[0].step_seconds)
    watts = sum(device.joules / device.window_seconds for device in known if device.joules is not None)
    return Energy(joules_per_step=sum(joules) / num_steps, average_watts=watts, devices=tuple(known))


def merge_loading(ranks: Sequence[RankRecord]) -> Loading | None:
    """Return the job's slowest loading worker and the rank that waited most; None if no rank reports it."""
    found = [rank.loading for rank in ranks if rank.loading is not None]
    if not found:
        return None
    rates = [one.samples_per_second_per_worker for one in found if one.samples_per_second_per_worker is not None]
    return Loading(
        num_workers=found[0].num_workers,
        samples_per_second_per_worker=min(rates, default=None),
        stall_share=max(one.stall_share for one in found),
    )


def imbalance(ranks: Sequence[RankRecord]) -> dict[str, float]:
    """Return by encoder the items of the busiest replica over the mean of all, summed over micro-batches.

    A micro-batch is done when its busiest replica is. Ranks of one replica read the same items, and all replicas have
    the same number of ranks: ranks count as replicas. An encoder without items is left out.
    """
    found = {}
    for module in dict.fromkeys(name for rank in ranks for name in rank.micro_batch_items):
        by_rank = [rank.micro_batch_items[module] for rank in ranks if module in rank.micro_batch_items]
        busiest = sum(max(items) for items in zip(*by_rank, strict=True))
        mean = sum(map(sum, by_rank)) / len(by_rank)
        if mean:
            found[module] = busiest / mean
    return found


def foreign_processes(ranks: Sequence[RankRecord]) -> str | None:
    """Return in words which foreign processes held memory of the devices; None if none did.

    A driver may number processes differently, as outside of a container. None of ours is then among those of the
    device, and there are foreign ones if the device has more processes than ranks.
    """
    by_device: dict[tuple[str, str], list[RankRecord]] = {}
    for rank in ranks:
        for device in {process.device_uuid for process in rank.processes}:
            by_device.setdefault((rank.host, device), []).append(rank)
    found = []
    for (host, device), watching in sorted(by_device.items()):
        processes = {process.pid: process for rank in watching for process in rank.processes}
        ours = {rank.pid for rank in ranks if rank.host == host and rank.pid is not None}
        found.append(_strangers(device, processes, ours, len(watching)))
    return "; ".join(filter(None, found)) or None


def _strangers(device: str, processes: Mapping[int, DeviceProcess], ours: Set[int], num_ranks: int) -> str:
    """Return in words which processes on one device are none of our ranks; empty if all are."""
    if ours & processes.keys():
        others = [process for pid, process in sorted(processes.items()) if pid not in ours]
        return "; ".join(f"process {one.pid} holds {_held(one)} of {device}" for one in others)
    if len(processes) <= num_ranks:
        return ""
    held = ", ".join(f"{pid} with {_held(process)}" for pid, process in sorted(processes.items()))
    return (
        f"{device} has {len(processes)} processes and ours are {num_ranks} of them, as the driver numbers them: {held}"
    )


def _held(process: DeviceProcess) -> str:
    return "memory" if process.used_bytes is None else f"{process.used_bytes / (1 << 20):.0f} MiB"


def settled_after(warmup_seconds: Sequence[float], reserved_bytes: Sequence[int], timed: Sequence[float]) -> int | None:
    """Return the steps after which nothing changed any more: see `Timing.settled_after`."""
    steps = [*warmup_seconds, *timed]
    if not timed:
        return None
    bound = SETTLED_RATIO * median(timed)
    by_time = next((k for k in range(len(steps)) if max(steps[k:]) <= bound), None)
    # Memory reserved after each warm-up step, and at the end of the window.
    by_memory = next((k + 1 for k, size in enumerate(reserved_bytes) if size == reserved_bytes[-1]), 0)
    if by_memory == len(reserved_bytes) > 0:
        by_memory = len(steps)
    return None if by_time is None else max(by_time, by_memory)


def _modules(ranks: Sequence[RankRecord]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(module for rank in ranks for module in rank.modules))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the first and third quartile, interpolated linearly between values; a single value counts as both."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def merge_launch(ranks: Sequence[RankRecord], *, asked_at: float, previous_last_step_at: float | None) -> Launch:
    """Return the cost of starting these ranks.

    Args:
        ranks: of one launch.
        asked_at: Unix time of the request for ranks.
        previous_last_step_at: Unix time of the last step of the launch before; None for the first.
    """
    started_at = max(rank.started_at for rank in ranks)
    first_step_at = max((rank.first_step_at for rank in ranks if rank.first_step_at is not None), default=None)
    ready_at = started_at if first_step_at is None else first_step_at
    return Launch(
        mode=ranks[0].mode,
        start_seconds=max(0.0, started_at - asked_at),
        setup_seconds=max(0.0, ready_at - started_at),
        gap_seconds=None if previous_last_step_at is None else max(0.0, ready_at - previous_last_step_at),
        phases={name: max(rank.phases[name] for rank in ranks) for name in ranks[0].phases},
        first_step_seconds=max((r.first_step_seconds for r in ranks if r.first_step_seconds is not None), default=None),
    )


def last_step_at(ranks: Sequence[RankRecord]) -> float | None:
    """Return the Unix time when the last rank ended its last step; None if no step was taken."""
    return max((rank.last_step_at for rank in ranks if rank.last_step_at is not None), default=None)


def _disagreements(first: RankRecord, other: RankRecord) -> list[str]:
    """Return what two ranks of one job report differently."""
    names = (
        *("losses", "grad_norms", "tokens", "token_pairs", "scored", "items", "evaluation", "held_out", "mismatch"),
        *("gradients", "optimizer", "late_updates", "replicas", "counts"),
    )
    return [
        f"rank {other.rank} reports other {name} than rank {first.rank}"
        for name in names
        if getattr(first, name) != getattr(other, name)
    ]
