"""Many ranks, one account: what the ranks of a launch wrote becomes what the record says of the layout.

scenario -> layout -> trainer -> meters -> [record] -> parity -> report
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median, quantiles

from mimo_bench.record.schema import (
    Communication,
    EvaluationResult,
    Launch,
    Memory,
    ModuleMemory,
    OptimizerDifferences,
    ParameterDifference,
    RankCommunication,
    RankMemoryOf,
    RankRecord,
    Timing,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """One layout's training in parity mode, over all its ranks."""

    losses: tuple[float | None, ...]
    grad_norms: dict[str, tuple[float | None, ...]]
    num_learning_steps: int
    """Steps beyond those that are compared."""
    evaluation: EvaluationResult | None
    weights_match_at_start: bool | None
    samples_match: bool | None
    mismatch: str | None
    disagreement: str | None
    """Where ranks report different numbers for one job, which they all should know."""
    gradients: tuple[ParameterDifference, ...] | None = None
    """Of the first parity step; None for the baseline and outside parity mode."""
    optimizer: OptimizerDifferences | None = None
    """After the parity steps; None for the baseline and outside parity mode."""


def merge_training(ranks: Sequence[RankRecord], *, num_parity_steps: int) -> Trained:
    """The training that `ranks` report; every rank should report the same."""
    first, *others = ranks
    return Trained(
        losses=first.losses,
        grad_norms=first.grad_norms,
        num_learning_steps=max(0, len(first.losses) - num_parity_steps),
        evaluation=first.evaluation,
        weights_match_at_start=first.weights_match_at_start,
        samples_match=first.samples_match,
        mismatch=first.mismatch,
        gradients=first.gradients,
        optimizer=first.optimizer,
        disagreement=first.replicas
        or next(chain.from_iterable(_disagreements(first, other) for other in others), None),
    )


def merge_timing(ranks: Sequence[RankRecord], *, global_batch_size: int) -> Timing:
    """The job's timing: each step takes as long as on its slowest rank."""
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
    )


def slowest_rank_seconds(ranks: Sequence[RankRecord]) -> tuple[float, ...]:
    """Each step of the timed window on its slowest rank, which is how long the job took for it."""
    return tuple(max(times) for times in zip(*(rank.step_seconds for rank in ranks), strict=True))


def merge_memory(ranks: Sequence[RankRecord]) -> Memory | None:
    """Peaks of every rank, and of the worst rank that hosts each module; None on CPU ranks."""
    known = [
        RankMemoryOf(rank=rank.rank, modules=rank.modules, **rank.memory.model_dump())
        for rank in ranks
        if rank.memory is not None
    ]
    if not known:
        return None
    modules = dict.fromkeys(module for memory in known for module in memory.modules)
    return Memory(
        modules={
            module: ModuleMemory(
                peak_allocated_bytes=max(m.peak_allocated_bytes for m in known if module in m.modules),
                peak_reserved_bytes=max(m.peak_reserved_bytes for m in known if module in m.modules),
            )
            for module in modules
        },
        ranks=tuple(known),
    )


def merge_communication(ranks: Sequence[RankRecord]) -> tuple[Communication, ...]:
    """Totals by group role and collective over all ranks."""
    parts: dict[tuple[str, str], list[RankCommunication]] = {}
    for part in (part for rank in ranks for part in rank.communication):
        parts.setdefault((part.role, part.collective), []).append(part)
    return tuple(
        Communication(
            role=role,
            collective=collective,
            calls_per_step=sum(part.calls_per_step for part in found),
            bytes_per_step=sum(part.bytes_per_step for part in found),
            seconds_per_step=max(part.seconds_per_step for part in found),
        )
        for (role, collective), found in sorted(parts.items())
    )


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile, interpolated linearly between values; of a single value, that value twice."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def merge_launch(ranks: Sequence[RankRecord], *, asked_at: float, previous_last_step_at: float | None) -> Launch:
    """What starting these ranks cost.

    Args:
        ranks: of one launch.
        asked_at: Unix time when the ranks were asked for.
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
    """Unix time when the last rank ended its last step; None if no step was taken."""
    return max((rank.last_step_at for rank in ranks if rank.last_step_at is not None), default=None)


def _disagreements(first: RankRecord, other: RankRecord) -> list[str]:
    """What two ranks of one job report differently."""
    names = ("losses", "grad_norms", "tokens", "items", "evaluation", "mismatch", "gradients", "optimizer", "replicas")
    return [
        f"rank {other.rank} reports other {name} than rank {first.rank}"
        for name in names
        if getattr(first, name) != getattr(other, name)
    ]
