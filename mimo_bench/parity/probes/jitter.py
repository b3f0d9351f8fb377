"""A variant of a training that is mathematically equal and differs by rounding, for the noise band."""

from __future__ import annotations

import torch

from mimo_bench.models import CHUNK, uniform
from mimo_bench.trainer import Trainer, shards


@torch.no_grad()
def jitter_weights(trainer: Trainer) -> None:
    """Move every weight up or down by one unit in the last place of its precision, before the first step.

    Mathematically the same start; how far training moves apart is what rounding alone can do. Which way a weight moves
    depends on its place in the canonical tensor alone.
    """
    for shard in shards(trainer.model, trainer.topology):
        step = torch.finfo(shard.parameter.dtype).eps
        for part, positions in zip(shard.parameter.view(-1).split(CHUNK), shard.positions(), strict=True):
            signs = uniform(f"jitter/{shard.name}", positions).sub_(0.5).sign_()
            part.copy_(part.float() * (1 + step * signs))
    # Master weights were copied before.
    trainer.optimizer.reload_model_params()
