"""For the tests of memory: ranks that count what autograd keeps of batches that differ in images, or run out of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import torch

from mimo_bench.bench.ranks import worker
from mimo_bench.bench.ranks.log import RankLog
from mimo_bench.meters.clock import build_clock
from mimo_bench.meters.memory_watch import Allocator, PeakStep, watch_peak
from mimo_bench.meters.unmeasured import Unmeasured
from mimo_bench.parity.probes import gradients
from mimo_bench.trainer.device import RankDevice, join
from mimo_bench.trainer.trainer import Trainer
from mimo_bench.trainer.weights import shards
from tests.ranks.live_bytes import LiveBytes
from tests.ranks.trainer_entries import build, leave


class KeptForBackward:
    """An allocator for CPU ranks: the bytes that autograd keeps from forward to backward."""

    def __init__(self) -> None:
        """Nothing is kept."""
        self.allocated = self.peak = 0

    def reset_peak(self) -> None:
        """Count the peak from here."""
        self.peak = self.allocated

    def keep(self, tensor: torch.Tensor) -> _Kept:
        """Count a tensor until its gradient has been computed."""
        return _Kept(self, tensor)


class _Kept:
    def __init__(self, keeper: KeptForBackward, tensor: torch.Tensor) -> None:
        self.keeper, self.tensor = keeper, tensor
        keeper.allocated += tensor.nbytes
        keeper.peak = max(keeper.peak, keeper.allocated)

    def __del__(self) -> None:
        self.keeper.allocated -= self.tensor.nbytes


def watch_memory(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Leave the peak of a window, the step that held it, and what the step that was watched needed."""
    trainer, kept, log = build(arguments), KeptForBackward(), RankLog(build_clock("cpu"))
    allocator = Allocator(allocated=lambda: kept.allocated, peak=lambda: kept.peak, reset_peak=kept.reset_peak)
    batches = [trainer.loader.global_batch("train", step) for step in range(arguments["num_steps"])]
    at_peak, unmeasured = PeakStep(allocator), Unmeasured()
    with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda one: one.tensor):
        log.train(trainer, batches, after_step=at_peak.keep)
        watch = watch_peak(trainer, batches, at_peak, allocator, unmeasured)
    assert watch is not None
    images = [max(sum(part.items_per_sample.get("vision", ())) for part in batch) for batch in batches]
    found = {
        "images": images,
        "peak": at_peak.peak,
        "step": at_peak.step,
        "watched": watch.peak,
        "during": watch.busiest.during,
    }
    leave(arguments, rank, found | {"unmeasured": unmeasured.reasons})


def collect_gradients(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Write for every buffer that gathers the parts of other replicas whether it already stores the own part."""
    trainer, in_place = build(arguments), list[bool]()

    def gather(whole: torch.Tensor, part: torch.Tensor, group: Any) -> None:
        in_place.append(part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr())
        torch.distributed.all_gather_into_tensor(whole, part, group=group)

    def inspect() -> None:
        with patch.object(gradients, "dist", SimpleNamespace(all_gather_into_tensor=gather)):
            gradients.collect_shards(trainer)

    trainer.train_step(trainer.loader.global_batch("train", 0), inspect)
    leave(arguments, rank, in_place)


def draw_and_gather(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Leave, of every parameter, the elements of its slice and full tensor, and the most bytes held for either."""
    trainer, found, chunk = build(arguments), {}, arguments["chunk"]
    with patch("mimo_bench.trainer.weights.CHUNK", chunk), torch.no_grad(), LiveBytes() as live:
        for shard in shards(trainer.model, trainer.topology):
            num_local = shard.parameter.numel()
            num_gathered = math.prod(shard.full_shape) if shard.num_slices > 1 else 0
            live.settle(limit=4 * (num_local + num_gathered + chunk))
            local = trainer.start(shard)
            drawing, live.peak = live.peak, 0
            whole = shard.gather(local)
            found[shard.name] = {
                "local": num_local, "gathered": num_gathered, "drawing": drawing, "gathering": live.peak,
            }  # fmt: skip
            del local, whole
    leave(arguments, rank, found)


def run_out_while_building(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Be a worker whose device has no room for the trainer; leave whether it was deterministic before it had one."""
    place = Path(arguments["requests"][0]["directory"])

    def note_and_join(kind: Literal["cpu", "cuda"]) -> RankDevice:
        (place / f"deterministic{rank}.json").write_text(json.dumps(torch.are_deterministic_algorithms_enabled()))
        return join(kind)

    def run_out(*_: Any, **__: Any) -> Trainer:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with ExitStack() as undo:
        for target, name, value in (
            (worker, "join", note_and_join),
            (worker, "build", run_out),
            *((torch.cuda, name, lambda: 7) for name in _COUNTERS),
            (torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=10)),
            (torch.cuda.memory, "_dump_snapshot", lambda path: Path(path).write_bytes(b"blocks")),
        ):
            undo.enter_context(patch.object(target, name, value))
        worker.main(arguments, rank=rank, world_size=world_size)


_COUNTERS = ("memory_allocated", "max_memory_allocated", "memory_reserved")
