"""What two steps made of every parameter: Adam's moments and the way it went, against the baseline's.

scenario -> layout -> trainer -> meters -> record -> [parity] -> report

Gathered like gradients: over tensor-parallel ranks, and over replicas where the distributed optimizer deals state out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mimo_bench.parity.probes.stored import to_host
from mimo_bench.parity.probes.tensors import Comparison, speaks_for
from mimo_bench.record.schema import OptimizerDifferences
from mimo_bench.trainer.trainer import Trainer
from mimo_bench.trainer.weights import Shard, shards

OUTCOME_STEPS = 2
"""Steps before this is looked at, or all parity steps if they are fewer. One would not see whether moments are carried
over and their bias corrected; with every further one, what a module did wrong spreads to the gradients of all."""

ROUNDING_SHARE = 1e-3
"""Where updates are compared, an element is left out whose gradients, root mean square over the steps, are below this
share of its parameter's: Adam takes a full step for a gradient that is rounding alone, in whatever direction."""

_FIRST, _SECOND = "exp_avg", "exp_avg_sq"


class OutcomeProbe:
    """Saves the baseline's moments and updates, or holds a layout's against them."""

    def __init__(self, directory: Path, *, is_baseline: bool) -> None:
        """The baseline's tensors lie below `directory`."""
        self._directory = directory
        self._is_baseline = is_baseline
        self.differences: OptimizerDifferences | None = None
        """Over the whole model; the same on every rank. None for the baseline."""
        self.disagreement: str | None = None
        """Replicas whose weights differ, in words."""

    @torch.no_grad()
    def inspect(self, trainer: Trainer) -> None:
        """Look at weights and optimizer after a step; collective over the world."""
        firsts, seconds, updates = (self._comparison(trainer, kind) for kind in (_FIRST, _SECOND, "updates"))
        for shard in shards(trainer.model, trainer.topology):
            is_trained = shard.parameter.requires_grad
            if is_trained:
                for comparison, moment in zip((firsts, seconds), local_moments(trainer, shard), strict=True):
                    comparison.take(shard, shard.gather(moment))
            start = trainer.start(shard)
            held: dict[str, Any] = {}
            if not self._is_baseline:
                weights = shard.gather(start)
                if speaks_for(shard):
                    # On the host, before the next tensor is gathered: the device holds two at most.
                    held["weights"] = to_host(weights)
                    # What is frozen has no moments, and must not have moved at all.
                    if is_trained:
                        held["where"] = _telling(seconds, shard, weights.device)
                del weights
            update = shard.parameter - start
            del start
            updates.take(shard, shard.gather(update), **held)
        self._merge(firsts, seconds, updates)

    def _comparison(self, trainer: Trainer, kind: str) -> Comparison:
        return Comparison(self._directory / kind, topology=trainer.topology, is_baseline=self._is_baseline)

    def _merge(self, firsts: Comparison, seconds: Comparison, updates: Comparison) -> None:
        merged = (firsts.merge("first moments"), seconds.merge("second moments"), updates.merge("weights"))
        problem = next((problem for _, problem in merged if problem is not None), None)
        if problem is not None:
            self.disagreement = f"after the second step, {problem}"
        if not self._is_baseline:
            first, second, update = (differences for differences, _ in merged)
            self.differences = OptimizerDifferences(first_moments=first, second_moments=second, updates=update)


def _telling(seconds: Comparison, shard: Shard, device: torch.device) -> Iterator[torch.Tensor]:
    """Where a parameter's gradients are more than rounding, by the baseline's second moment; in chunks."""
    total, count = torch.zeros((), dtype=torch.float64, device=device), 0
    for part in seconds.expected(shard, device):
        total, count = total + part.sum(dtype=torch.float64), count + len(part)
    for part in seconds.expected(shard, device):
        yield part > ROUNDING_SHARE**2 * (total / count)


def local_moments(trainer: Trainer, shard: Shard) -> Iterator[torch.Tensor]:
    """Adam's first and second moment of a rank's slice, in its shape; zero where no step was taken.

    Collective over its replicas where the distributed optimizer deals them out.
    """
    for key in (_FIRST, _SECOND):
        optimizer = trainer.optimizer.part_of(shard)
        if not hasattr(optimizer, "model_param_group_index_map"):
            state = optimizer.optimizer.state[shard.parameter]
            yield state[key] if key in state else torch.zeros_like(shard.parameter)
            continue
        whole = torch.zeros_like(shard.parameter, dtype=torch.float32)
        if shard.parameter in optimizer.model_param_group_index_map:
            owned = optimizer._get_model_param_range_map(shard.parameter)["param"]
            part = optimizer._get_main_param_and_optimizer_states(shard.parameter)[key]
            whole.view(-1)[owned.start : owned.end].copy_(part.view(-1))
        # Each element is one rank's and zero elsewhere, so the sum is exact.
        dist.all_reduce(whole, group=shard.replicas)
        yield whole
