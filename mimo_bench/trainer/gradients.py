"""Gradients of all modules, finished by one rule: summed over each module's replicas, divided by one global count.

Module degrees differ, so a mean over replicas would scale each module's gradient by its own dp. Every module sums
instead, and all divide by the number of answer tokens of the global batch, which only the last language stage knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed.finalize_model_grads import finalize_model_grads
from megatron.core.models.mimo.model.base import MimoModel

from mimo_bench.scenario import Training
from mimo_bench.trainer.model import hosted_modules
from mimo_bench.trainer.topology import Topology


class Totals:
    """Sums over one global batch: replicas add what they see, one reduction tells every rank."""

    def __init__(self, device: torch.device, *, encoders: Iterable[str]) -> None:
        """Start empty; sums live on `device` in float64, which counts exactly."""
        self._device = device
        self._names = (
            *("loss", "scored_tokens", "correct_tokens", "tokens", "token_pairs"),
            *map(items_total, encoders),
        )
        self.reset()

    def reset(self) -> None:
        """Start a new global batch."""
        self._sums = torch.zeros(len(self._names), dtype=torch.float64, device=self._device)

    def add(self, **sums: torch.Tensor | int) -> None:
        """Add a micro-batch; only one rank of each replica may, or its samples would count more than once."""
        for name, value in sums.items():
            self._sums[self._names.index(name)] += value

    def reduce(self) -> None:
        """Sum over the job, so that every rank holds the totals; collective over the world."""
        dist.all_reduce(self._sums)

    @property
    def scored_tokens(self) -> torch.Tensor:
        """The divisor of loss and gradients, at least 1; a number on the device."""
        return self._sums[self._names.index("scored_tokens")].clamp(min=1)

    def read(self) -> dict[str, float]:
        """The totals by name; waits for the device."""
        return dict(zip(self._names, self._sums.tolist(), strict=True))


def items_total(encoder: str) -> str:
    """The name of the total that counts what `encoder` read."""
    return f"{encoder}.items"


def finish_gradients(
    models: list[MimoModel],
    num_tokens: torch.Tensor | None = None,
    *,
    totals: Totals,
    topology: Topology,
    training: Training,
    pg_collection: Any = None,
    force_all_reduce: bool = False,
) -> None:
    """Reduce and normalise the gradients of every hosted module; collective over the world.

    Args:
        models: the one MimoModel of this rank.
        num_tokens: what this rank's schedule counted; unused, as encoder ranks count nothing.
        totals: sums of this global batch, reduced here.
        topology: each module is reduced over its own groups.
        training: a module that is frozen has nothing to reduce.
        pg_collection: the schedule's groups; unused for the same reason.
        force_all_reduce: reduce whole gradients even where the distributed optimizer would keep shards.
    """
    totals.reduce()
    scale = totals.scored_tokens.reciprocal().float()
    for name, module in hosted_modules(models[0]):
        if training.is_frozen(name):
            continue
        finalize_model_grads([module], None, pg_collection=topology.groups[name], force_all_reduce=force_all_reduce)
        module.scale_gradients(scale)
