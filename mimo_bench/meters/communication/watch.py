"""Comm mode on one rank: train some steps under heavier instruments, and say where communication and time went.

CPU ranks see their calls by interception and their computation by dispatch, over all steps of the window. GPU ranks
count calls by interception and time them by NCCL's flight recorder over the window; then a profiler traces two more
steps, which show what was hidden and close the account. What fails is left out with its reason, and never a rank alone:
ranks tell each other their durations even where they have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from mimo_bench.meters.clock import StepClock, WallClock, build_clock
from mimo_bench.meters.communication.account import Observed, close_account, join, summarise, with_exposure
from mimo_bench.meters.communication.calls import Call, Signature, transfer_seconds
from mimo_bench.meters.communication.flight_recorder import last_record_id, read_calls
from mimo_bench.meters.communication.interception import Interceptor
from mimo_bench.meters.communication.kineto import observe
from mimo_bench.meters.communication.tracing import TracedClock, Tracing
from mimo_bench.meters.cpu_compute import ComputeSpans
from mimo_bench.meters.phases import Working, phases
from mimo_bench.meters.unmeasured import Unmeasured
from mimo_bench.record import RankAccount, RankCommunication
from mimo_bench.trainer import MicroBatch, Trainer

NUM_TRACED_STEPS = 2

Batches = Sequence[Sequence[MicroBatch]]
Train = Callable[[Batches, StepClock], None]
"""Trains on global batches and marks the end of every step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommFound:
    """Results of comm mode on this rank; named as the fields of its record."""

    communication: tuple[RankCommunication, ...]
    account: RankAccount | None


def watch_communication(
    trainer: Trainer,
    batches: Batches,
    *,
    train: Train,
    device_kind: Literal["cpu", "cuda"],
    ranks_per_host: int | None,
    directory: Path,
    unmeasured: Unmeasured,
) -> CommFound:
    """Train on `batches` and say what was called and what it cost; collective over the world.

    Args:
        trainer: after its warm-up.
        batches: the global batches of the window.
        train: trains on them.
        device_kind: what ranks run on.
        ranks_per_host: None where that is not known.
        directory: takes `rank<k>.trace.json.gz` on GPUs.
        unmeasured: takes what a meter could not tell, and why.
    """
    watch = _on_cpu if device_kind == "cpu" else _on_gpu
    return watch(
        trainer, batches, train=train, ranks_per_host=ranks_per_host, directory=directory, unmeasured=unmeasured
    )


def _on_cpu(
    trainer: Trainer,
    batches: Batches,
    *,
    train: Train,
    ranks_per_host: int | None,
    directory: Path,
    unmeasured: Unmeasured,
) -> CommFound:
    working: list[Working] = [None]
    interceptor, clock = Interceptor(), WallClock()
    compute = ComputeSpans(lambda: working[0][0] if working[0] is not None else None)

    def turn(to: Working) -> None:
        working[0] = to

    with unmeasured.entered("modules", phases(trainer, turn)), interceptor.watching(), compute:
        train(batches, clock)
    observed = Observed(window=clock.window, compute=compute.spans, calls=interceptor.calls)
    transfers = compared(observed.calls, unmeasured)
    num_steps = len(batches)
    return CommFound(
        communication=summarise(
            observed.calls, transfers, num_steps=num_steps, ranks_per_host=ranks_per_host, compute=observed.compute
        ),
        account=close_account(observed, transfers, step_seconds=clock.step_seconds()),
    )


def _on_gpu(
    trainer: Trainer,
    batches: Batches,
    *,
    train: Train,
    ranks_per_host: int | None,
    directory: Path,
    unmeasured: Unmeasured,
) -> CommFound:
    counted, timed = _count_and_time(batches, train, unmeasured)
    rows = join(
        summarise(counted, None, num_steps=len(batches), ranks_per_host=ranks_per_host),
        summarise(timed, compared(timed, unmeasured), num_steps=len(batches), ranks_per_host=ranks_per_host),
    )
    clock = TracedClock()
    traced = batches[-NUM_TRACED_STEPS:]
    path = directory / f"rank{dist.get_rank()}.trace.json.gz"
    observed = _trace(trainer, traced, train, clock, path, unmeasured)
    transfers = compared(observed.calls if observed is not None else None, unmeasured)
    if observed is None:
        return CommFound(communication=rows, account=None)
    seen = summarise(
        observed.calls, transfers, num_steps=len(traced), ranks_per_host=ranks_per_host, compute=observed.compute
    )
    return CommFound(
        communication=with_exposure(rows, seen),
        account=unmeasured.attempt(
            "account", lambda: close_account(observed, transfers, step_seconds=clock.step_seconds())
        ),
    )


def _count_and_time(batches: Batches, train: Train, unmeasured: Unmeasured) -> tuple[list[Call], list[Call]]:
    """The calls of the window twice: as Python made them, with bytes, and as the recorder timed them."""
    after = unmeasured.attempt("communication", last_record_id)
    interceptor = Interceptor()
    with interceptor.watching():
        train(batches, build_clock("cuda"))
    # How long launches took says nothing.
    counted = [replace(call, spans=()) for call in interceptor.calls]
    if after is None:
        return counted, []
    return counted, unmeasured.attempt("communication", lambda: read_calls(after)) or []


def _trace(
    trainer: Trainer, batches: Batches, train: Train, clock: TracedClock, path: Path, unmeasured: Unmeasured
) -> Observed | None:
    """Take the steps again under a profiler; return None where it or its trace failed."""
    interceptor, tracing = Interceptor(marks_ranges=True), Tracing(path)
    with (
        tracing.running(unmeasured),
        unmeasured.entered("modules", phases(trainer, unmeasured.guarded("modules", tracing.mark))),
        interceptor.watching(),
    ):
        # The first mark belongs to both clocks only where the device has nothing left to do.
        torch.cuda.synchronize()
        train(batches, clock)
        clock.close()
    return unmeasured.attempt("trace", lambda: observe(path, interceptor.calls)) if tracing.is_written else None


def compared(calls: Sequence[Call] | None, unmeasured: Unmeasured) -> list[float | None]:
    """Return the transfer time of each call of this rank, by comparison with its peers; collective over the world."""
    mine = None if calls is None else [Signature.of(call) for call in calls]
    everybody: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, mine)
    if mine is None:
        return []
    known = [signatures or [] for signatures in everybody]
    nothing: list[float | None] = [None] * len(mine)
    return unmeasured.attempt("transfer", lambda: transfer_seconds(known, dist.get_rank())) or nothing
