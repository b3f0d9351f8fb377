"""Faults of starting weights: drawn in another way than in the baseline."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mimo_bench.models import CHUNK
from mimo_bench.parity.faults.catalogue import fault
from mimo_bench.parity.faults.context import FaultContext, replace_attribute
from mimo_bench.trainer import Shard, draw_weights


@fault(caught_by="static", shows_in=lambda site: site.has(tp=2))
def weights_drawn_by_shard(context: FaultContext) -> None:
    """Every tensor-parallel rank draws its shard as if it were the whole tensor."""

    def as_if_whole(shard: Shard) -> Iterator[torch.Tensor]:
        yield from torch.arange(shard.parameter.numel(), device=shard.parameter.device).split(CHUNK)

    replace_attribute(context, Shard, "positions", as_if_whole)
    _draw(context, seed=context.trainer.config.seed)


@fault(caught_by="static")
def weights_of_another_seed(context: FaultContext) -> None:
    """Weights are drawn from another seed than the declared one."""
    _draw(context, seed=context.trainer.config.seed + 1)


def _draw(context: FaultContext, *, seed: int) -> None:
    draw_weights(context.trainer.model, context.trainer.topology, seed=seed)
    # Master weights were copied before.
    context.trainer.optimizer.reload_model_params()
