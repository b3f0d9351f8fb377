"""Ranks of `mimo-bench overhead`: the same steps bare and under a mode's instruments, in turns.

Bare, instruments, instruments, bare: whatever drifts along evenly falls out of the comparison. A block is a number of
steps between two waits for the device.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from mimo_bench.bench.ranks.setup import build, held_ready, open_dataset
from mimo_bench.bench.request import OverheadRequest
from mimo_bench.launch import beat
from mimo_bench.meters import Allocator, ComputeSpans, Interceptor, PeakStep, PhaseClock, build_clock, phases
from mimo_bench.trainer import Trainer, join
from mimo_bench.util import write_atomically


def main(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train blocks of steps; rank 0 leaves `overhead.json`: the seconds of every block, four of them a turn."""
    request = OverheadRequest.of(arguments)
    device = join(request.device_kind)
    dataset, _ = open_dataset(request.scenario)
    trainer = build(request.scenario, request.layout, dataset=dataset, device=device, weights=request.weights)
    batches = held_ready(trainer, 1)
    instruments = _INSTRUMENTS[request.mode]

    def block(is_watched: bool) -> float:
        _wait(request.device_kind)
        dist.barrier()
        begin = time.perf_counter()
        if is_watched:
            with instruments(trainer, request.device_kind) as after_step:
                _steps(trainer, batches[0], request.num_steps, after_step)
        else:
            _steps(trainer, batches[0], request.num_steps, lambda: None)
        _wait(request.device_kind)
        seconds = torch.tensor([time.perf_counter() - begin], dtype=torch.float64, device=_device(request.device_kind))
        dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
        beat()
        return float(seconds)

    for is_watched in (False, True):
        block(is_watched)  # everything has run once
    turns = [[block(is_watched) for is_watched in (False, True, True, False)] for _ in range(request.num_turns)]
    if rank == 0:
        write_atomically(request.directory / "overhead.json", json.dumps(turns).encode())


def _steps(trainer: Trainer, batch: Any, times: int, after_step: Callable[[], None]) -> None:
    for _ in range(times):
        trainer.train_step(batch)
        after_step()


@contextmanager
def _timing(trainer: Trainer, device_kind: Any) -> Iterator[Callable[[], None]]:
    clock, phase_clock = build_clock(device_kind), PhaseClock(device_kind)
    clock.mark()
    with phases(trainer, phase_clock.mark):
        if device_kind == "cpu":
            yield clock.mark
            return
        at_peak = PeakStep(Allocator())

        def after_step() -> None:
            clock.mark()
            at_peak.keep()

        yield after_step


@contextmanager
def _comm(trainer: Trainer, device_kind: Any) -> Iterator[Callable[[], None]]:
    with phases(trainer, lambda _: None), Interceptor().watching():
        if device_kind == "cuda":
            yield lambda: None
        else:
            with ComputeSpans(lambda: None):
                yield lambda: None


_INSTRUMENTS: Mapping[str, Callable[..., Any]] = {"timing": _timing, "comm": _comm}


def _wait(device_kind: str) -> None:
    if device_kind == "cuda":
        torch.cuda.synchronize()


def _device(device_kind: str) -> str:
    return "cpu" if device_kind == "cpu" else "cuda"
