"""What is not trained: it has no gradient, no place in a gradient buffer and no optimizer state.

Weights -> freezing -> data-parallel wrapper -> optimizer] -> meters -> record
"""

from __future__ import annotations

from megatron.core.models.mimo.model.base import MimoModel

from mimo_bench.scenario import Training
from mimo_bench.trainer.topology import Topology
from mimo_bench.trainer.weights import shards


def freeze_weights(model: MimoModel, topology: Topology, *, training: Training) -> None:
    """Take frozen parameters out of the training; the model must not be wrapped for data parallelism yet."""
    for shard in shards(model, topology):
        # Only taken out, never in: some parameters are fixed whatever is trained. Of a module that is frozen in all its
        # parts nothing is reduced, so what a provider adds beside them must not be trained either.
        if training.is_frozen(shard.module) or not training.trains(shard.name):
            shard.parameter.requires_grad_(False)
