"""Faults of data and of uneven rows, planted by tests that are to see them caught."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from mimo_bench.parity.faults import FaultContext
from mimo_bench.trainer import bridge
from mimo_bench.trainer.data.loader import MicroBatch


def rows_of_gradients_split_evenly(context: FaultContext) -> None:
    """Every source of a fan-in gets an equal share of the gradient, cut or filled to the size it waits for."""
    split = bridge.UnevenBridge._split_tensor_at_batch_dim

    def evenly(self: Any, gradient: torch.Tensor, num_splits: int) -> list[torch.Tensor]:
        right = split(self, gradient, num_splits)
        if self.is_current_rank_in_grid(self.src_grid):
            return right
        return [_fit(part, like) for part, like in zip(gradient.tensor_split(num_splits), right, strict=True)]

    context.undo.callback(setattr, bridge.UnevenBridge, "_split_tensor_at_batch_dim", split)
    bridge.UnevenBridge._split_tensor_at_batch_dim = evenly  # type: ignore[assignment, method-assign]


def rows_of_images_split_evenly(context: FaultContext) -> None:
    """Every language replica of a fan-out gets an equal share of the rows, cut or filled to what its text waits for."""
    forward = bridge._Part.forward

    def evenly(ctx: Any, rows: torch.Tensor, parts: list[int], index: int, group: Any) -> torch.Tensor:
        right = forward(ctx, rows, parts, index, group)
        return _fit(rows.tensor_split(len(parts))[index], right)

    context.undo.callback(setattr, bridge._Part, "forward", staticmethod(forward))
    bridge._Part.forward = staticmethod(evenly)  # type: ignore[method-assign]


def encoder_rests_without_images(context: FaultContext) -> None:
    """An encoder replica whose samples have no image does not run, so its gradient hooks never fire."""
    loader = context.trainer.loader

    def without_blank(*where: Any) -> list[MicroBatch]:
        batch = loader.global_batch(*where)
        for micro_batch in batch:
            for module, counts in micro_batch.items_per_sample.items():
                if not sum(counts):
                    micro_batch.encoder_inputs.pop(module)
        return batch

    object.__setattr__(context.trainer, "loader", SimpleNamespace(global_batch=without_blank))


def shards_that_overlap(context: FaultContext) -> None:
    """Each replica reads one stream of samples from an offset of its own rank, so neighbours read the same ones."""
    loader = context.trainer.loader
    plan = loader.plan

    def overlapping(*, dp_rank: int, **where: Any) -> range:
        first = plan.sample_ids(dp_rank=0, **where)
        return range(first.start + dp_rank, first.stop + dp_rank)

    object.__setattr__(
        loader, "plan", SimpleNamespace(num_micro_batches=plan.num_micro_batches, sample_ids=overlapping)
    )


def _fit(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    fitted = torch.zeros_like(like)
    size = min(len(part), len(like))
    fitted[:size] = part[:size]
    return fitted
