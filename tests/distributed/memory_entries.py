"""For the test of memory's parts: ranks train on batches that differ in images, and count what autograd keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mimo_bench.meters.clock import build_clock
from mimo_bench.meters.memory_watch import Allocator, PeakStep, watch_peak
from mimo_bench.meters.unmeasured import Unmeasured
from mimo_bench.rank_log import RankLog
from tests.distributed.trainer_entries import build, leave


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
