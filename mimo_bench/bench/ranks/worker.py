"""Entry of every layout's ranks: build the trainer, run one mode, leave a record. Commands read it from files."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch

from mimo_bench.bench.ranks.comm import run_comm
from mimo_bench.bench.ranks.log import Phases
from mimo_bench.bench.ranks.parity import run_parity, run_trace
from mimo_bench.bench.ranks.setup import build, open_dataset
from mimo_bench.bench.ranks.timing import run_timing
from mimo_bench.bench.request import LaunchRequest
from mimo_bench.data import in_words
from mimo_bench.launch import beat
from mimo_bench.meters import snapshot_if_out_of_memory
from mimo_bench.record import write_rank
from mimo_bench.trainer import RankDevice, Topology, join

_RUNS = {"parity": run_parity, "timing": run_timing, "comm": run_comm}


def main(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Serve the requests of one launch, as `rank` of `world_size`: one layout in one mode, and a trainer for each."""
    phases = Phases()
    requests = [LaunchRequest.of(one) for one in arguments["requests"]]
    if requests[0].mode == "parity":
        be_deterministic()
    device = join(requests[0].device_kind)
    phases.end("join")
    topology = None
    for request in requests:
        topology = train(request, device=device, topology=topology, phases=phases)
        phases = Phases()
        # Parts of a trainer refer to each other, so it is freed only here, before the next one is built.
        gc.collect()


def train(request: LaunchRequest, *, device: RankDevice, topology: Topology | None, phases: Phases) -> Topology:
    """Train one layout in one mode and leave a record; return the process groups, for the next request."""
    dataset, skipped = open_dataset(request.scenario)
    for line in in_words(skipped):
        print(line)
    with snapshot_if_out_of_memory(None, request.directory):
        trainer = build(
            request.scenario,
            request.layout,
            dataset=dataset,
            device=device,
            weights=request.weights,
            for_parity=request.mode == "parity",
            topology=topology,
        )
    phases.end("build")
    beat()
    run = run_trace if request.is_traced else _RUNS[request.mode]
    with ExitStack() as undo, snapshot_if_out_of_memory(trainer, request.directory):
        record = run(trainer, request, undo=undo, phases=phases)
    counts = {split: len(found) for split, found in skipped.items()}
    path = request.directory / f"rank{trainer.topology.rank}.json"
    write_rank(path, record.model_copy(update={"skipped_samples": counts}))
    return trainer.topology


def be_deterministic() -> None:
    """Let this process compute the same bits every time; kernels without such a variant are refused by torch."""
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
