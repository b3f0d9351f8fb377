"""Comm mode on one rank: the timed steps again, under instruments that cost time; their times are not judged."""

from __future__ import annotations

import os
from contextlib import ExitStack

from mimo_bench.bench.ranks.log import Phases, RankLog
from mimo_bench.bench.ranks.setup import held_ready, plant
from mimo_bench.bench.request import LaunchRequest
from mimo_bench.launch import beat
from mimo_bench.meters import Unmeasured, build_clock, rehearsal, watch_communication
from mimo_bench.record import RankRecord
from mimo_bench.trainer import Trainer


def run_comm(trainer: Trainer, request: LaunchRequest, *, undo: ExitStack, phases: Phases) -> RankRecord:
    """Train the timed steps with every collective call watched."""
    steps, log = request.scenario.steps, RankLog(build_clock(request.device_kind))
    plant(trainer, request, undo)
    batches = held_ready(trainer, steps.warmup + steps.timed)
    phases.end("load")
    log.train(trainer, batches[: steps.warmup])
    for batch in rehearsal(batches, num_warmup=steps.warmup):
        trainer.rehearse(batch)
        beat()
    unmeasured = Unmeasured()
    found = watch_communication(
        trainer,
        batches[steps.warmup :],
        train=lambda part, clock: log.train(trainer, part, clock=clock),
        device_kind=request.device_kind,
        ranks_per_host=int(os.environ["LOCAL_WORLD_SIZE"]),
        directory=request.directory,
        unmeasured=unmeasured,
    )
    return log.record(
        trainer,
        request.mode,
        phases=phases,
        communication=found.communication,
        account=found.account,
        unmeasured=unmeasured.reasons,
    )
