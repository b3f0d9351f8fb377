"""Ranks of `mimo-bench linkspeed`: collectives of growing size, each timed after a warm-up.

Times are the wall clock's around a number of calls and a wait for the device; the slowest rank counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from mimo_bench.launch import beat
from mimo_bench.meters import bus_bytes
from mimo_bench.trainer import RankDevice, join
from mimo_bench.util import write_atomically

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send")
NUM_WARMUP = 3
LEAST_SECONDS = 0.05
"""For so long each size is repeated at least, by what a single call took."""
MOST_CALLS = 50


def main(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Measure every collective at every size of `arguments["sizes"]`; rank 0 leaves `linkspeed.json`."""
    kind: Literal["cpu", "cuda"] = arguments["device_kind"]
    device = join(kind)
    rows = []
    for collective in COLLECTIVES:
        for size in arguments["sizes"]:
            seconds = _seconds(_operation(collective, size, device, rank, world_size), device)
            carried = bus_bytes(collective, num_bytes=size, num_ranks=world_size)
            rate = None if carried is None else carried / seconds
            rows.append({"collective": collective, "bytes": size, "seconds": seconds, "bus_bytes_per_second": rate})
            beat()
    if rank == 0:
        write_atomically(Path(arguments["directory"]) / "linkspeed.json", json.dumps(rows, indent=2).encode())


def _operation(collective: str, size: int, device: RankDevice, rank: int, world_size: int) -> Callable[[], Any]:
    """A call in which each rank puts `size` bytes in; of a message, rank 0 to rank 1."""
    own = torch.ones(size, dtype=torch.uint8, device=device.torch_device)
    match collective:
        case "all_reduce":
            numbers = torch.ones(size // 4, dtype=torch.float32, device=device.torch_device)
            return lambda: dist.all_reduce(numbers)
        case "all_gather":
            gathered = torch.empty(size * world_size, dtype=torch.uint8, device=device.torch_device)
            return lambda: dist.all_gather_into_tensor(gathered, own)
        case "reduce_scatter":
            numbers = torch.ones(size // 4 // world_size * world_size, device=device.torch_device)
            part = torch.empty(len(numbers) // world_size, device=device.torch_device)
            return lambda: dist.reduce_scatter_tensor(part, numbers)
        case "all_to_all":
            parts = own[: size // world_size * world_size]
            exchanged = torch.empty_like(parts)
            return lambda: dist.all_to_all_single(exchanged, parts)
        case "broadcast":
            return lambda: dist.broadcast(own, src=0)
        case _:
            if rank > 1:
                return lambda: None
            return (lambda: dist.send(own, dst=1)) if rank == 0 else (lambda: dist.recv(own, src=0))


def _seconds(call: Callable[[], Any], device: RankDevice) -> float:
    """Return the time of one call on the slowest rank; collective over the world."""
    for _ in range(NUM_WARMUP):
        call()
    once = _timed(call, 1, device)
    return _timed(call, max(1, min(MOST_CALLS, round(LEAST_SECONDS / once))), device)


def _timed(call: Callable[[], Any], times: int, device: RankDevice) -> float:
    dist.barrier()
    _wait(device)
    begin = time.perf_counter()
    for _ in range(times):
        call()
    _wait(device)
    seconds = torch.tensor([(time.perf_counter() - begin) / times], dtype=torch.float64, device=device.torch_device)
    # Every rank must come to the same number: it decides how often all of them repeat.
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return float(seconds)


def _wait(device: RankDevice) -> None:
    if device.kind == "cuda":
        torch.cuda.synchronize()
