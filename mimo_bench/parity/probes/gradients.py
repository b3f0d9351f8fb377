"""Comparison of every parameter's gradient with the baseline's.

It runs between backward pass and optimizer: gradients are reduced and normalised, and not yet clipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from mimo_bench.parity.probes.tensors import Comparison
from mimo_bench.record import ParameterDifference
from mimo_bench.trainer import Shard, Trainer, hosted_modules, trained_shards

GRADIENTS = "gradients"
"""Folder of the baseline's gradients, one file a parameter."""


class GradientProbe:
    """Saves the baseline's gradients, or compares a layout's with them."""

    def __init__(self, directory: Path, *, is_baseline: bool) -> None:
        """Use the baseline's gradients in `directory`, one file a parameter."""
        self._directory = directory
        self._is_baseline = is_baseline
        self.differences: tuple[ParameterDifference, ...] | None = None
        """By parameter, over the whole model; the same on every rank. None for the baseline."""
        self.disagreement: str | None = None
        """The first parameter of which replicas hold different gradients, as text."""

    @torch.no_grad()
    def inspect(self, trainer: Trainer) -> None:
        """Save or compare the gradients of `trainer`; collective over the world."""
        comparison = Comparison(self._directory, topology=trainer.topology, is_baseline=self._is_baseline)
        collect_shards(trainer)
        for shard, gradient in full_gradients(trainer):
            comparison.take(shard, gradient)
        differences, self.disagreement = comparison.merge("gradients")
        if not self._is_baseline:
            self.differences = differences


def full_gradients(trainer: Trainer) -> Iterator[tuple[Shard, torch.Tensor]]:
    """Yield each trained parameter of this rank with its full gradient; collective over tensor-parallel ranks."""
    for shard in trained_shards(trainer.model, trainer.topology):
        yield shard, shard.gather(getattr(shard.parameter, "main_grad").float())  # noqa: B009  # megatron-core's mark


def collect_shards(trainer: Trainer) -> None:
    """Gather the gradient buffers of the distributed optimizer, which leaves each replica its own shard of the sums.

    In place: each rank's shard is already in its buffer, so no second buffer is needed, and the optimizer still finds
    its shard.
    """
    for _, module in hosted_modules(trainer.model):
        if not module.ddp_config.use_distributed_optimizer:
            continue
        for buffer in (*module.buffers, *module.expert_parallel_buffers):
            group = buffer.data_parallel_group
            for bucket in buffer.buckets:
                part = bucket.grad_data.view(group.size(), -1)[group.rank()]
                dist.all_gather_into_tensor(bucket.grad_data, part, group=group)
