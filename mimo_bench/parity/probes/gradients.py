"""Every parameter's gradient against the baseline's.

Called between the backward pass and the optimizer, when gradients are reduced and normalised and not yet clipped.
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
"""The folder of the baseline's in which they lie, one file a parameter."""


class GradientProbe:
    """Saves the baseline's gradients, or holds a layout's against them."""

    def __init__(self, directory: Path, *, is_baseline: bool) -> None:
        """The baseline's gradients lie in `directory`, one file a parameter."""
        self._directory = directory
        self._is_baseline = is_baseline
        self.differences: tuple[ParameterDifference, ...] | None = None
        """By parameter, over the whole model; the same on every rank. None for the baseline."""
        self.disagreement: str | None = None
        """Replicas whose gradients differ, in words."""
        self.scored_tokens: int | None = None
        """Answer tokens of the global batch; the same on every rank."""

    @torch.no_grad()
    def inspect(self, trainer: Trainer) -> None:
        """Look at the finished gradients of `trainer`; collective over the world."""
        comparison = Comparison(self._directory, topology=trainer.topology, is_baseline=self._is_baseline)
        collect_shards(trainer)
        for shard, gradient in full_gradients(trainer):
            comparison.take(shard, gradient)
        differences, self.disagreement = comparison.merge("gradients")
        self.scored_tokens = round(trainer.totals.read()["scored_tokens"])
        if not self._is_baseline:
            self.differences = differences


def full_gradients(trainer: Trainer) -> Iterator[tuple[Shard, torch.Tensor]]:
    """Each trained parameter of this rank with its canonical full gradient, in turn; collective over tensor ranks."""
    for shard in trained_shards(trainer.model, trainer.topology):
        yield shard, shard.gather(getattr(shard.parameter, "main_grad").float())  # noqa: B009  # megatron-core's mark


def collect_shards(trainer: Trainer) -> None:
    """Fill whole gradient buffers where the distributed optimizer left each replica with its own part of the sums.

    In place, where each rank's part already lies, so nothing of a size like the buffer's is needed beside it; the
    optimizer goes on to read its own part, which stays as it is.
    """
    for _, module in hosted_modules(trainer.model):
        if not module.ddp_config.use_distributed_optimizer:
            continue
        for buffer in (*module.buffers, *module.expert_parallel_buffers):
            group = buffer.data_parallel_group
            for bucket in buffer.buckets:
                part = bucket.grad_data.view(group.size(), -1)[group.rank()]
                dist.all_gather_into_tensor(bucket.grad_data, part, group=group)
