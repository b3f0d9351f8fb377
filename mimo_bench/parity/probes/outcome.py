"""Comparison of Adam's moments and of every parameter's update after two steps with the baseline's.

They are gathered like gradients: over tensor-parallel ranks, and over replicas under the distributed optimizer.

Updates are compared in elements whose gradients are more than rounding. The baseline leaves the mean of every second
moment. A layout marks the elements while the baseline's second moments stream by, and keeps one bit for each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist

from mimo_bench.parity.probes.tensors import Comparison, chunks, speaks_for
from mimo_bench.record import OptimizerDifferences
from mimo_bench.trainer import Shard, Trainer, shards
from mimo_bench.util import write_atomically

ROUNDING_SHARE = 1e-3
"""An element is significant if its gradients, root mean square over the steps, are above this share of its parameter's.
Adam takes a full step for a gradient that is rounding alone, in any direction."""

_BITS = 8


class Means:
    """Means of the baseline's second moments, by parameter."""

    def __init__(self, path: Path, *, is_baseline: bool) -> None:
        """Read them from `path`, or write them there for the baseline."""
        self._path = path
        self._means: dict[str, float] = {} if is_baseline else json.loads(path.read_text(encoding="utf-8"))

    def take(self, parameter: str, second: torch.Tensor) -> None:
        """Add the mean of a full second moment of the baseline."""
        total = torch.zeros((), dtype=torch.float64, device=second.device)
        for part in chunks(second):
            total += part.sum(dtype=torch.float64)
        self._means[parameter] = (total / second.numel()).item()

    def leave(self) -> None:
        """Write the means of all ranks of the baseline; collective over the world."""
        everyone: list[dict[str, float]] = [{}] * dist.get_world_size()
        dist.all_gather_object(everyone, self._means)
        if dist.get_rank() == 0:
            together = dict(chain.from_iterable(taken.items() for taken in everyone))
            write_atomically(self._path, json.dumps(together).encode())

    def significant(self, parameter: str) -> SignificantElements:
        """Return the significant elements of a parameter, to be marked by its second moments."""
        return SignificantElements(ROUNDING_SHARE**2 * self._means[parameter])


class SignificantElements:
    """Marked elements of one tensor, one bit each. They come back in the chunks in which they were marked."""

    def __init__(self, bound: float) -> None:
        """Mark elements above `bound`."""
        self._bound = bound
        self._packed: list[tuple[torch.Tensor, int]] = []

    def look(self, part: torch.Tensor) -> None:
        """Mark the elements of a chunk."""
        marked = torch.nn.functional.pad((part > self._bound).to(torch.uint8), (0, -len(part) % _BITS)).view(_BITS, -1)
        packed = marked[0].clone()
        for bit in range(1, _BITS):
            packed |= marked[bit] << bit
        self._packed.append((packed, len(part)))

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield the mask of each chunk."""
        for packed, length in self._packed:
            yield torch.cat([(packed >> bit & 1).bool() for bit in range(_BITS)])[:length]


OUTCOME_STEPS = 2
"""Steps before the comparison. One step would not show if moments are carried over and their bias corrected; every
further one spreads an error of one module to the gradients of all."""

_FIRST, _SECOND = "exp_avg", "exp_avg_sq"


class OutcomeProbe:
    """Saves the baseline's moments and updates, or compares a layout's with them."""

    def __init__(self, directory: Path, *, is_baseline: bool) -> None:
        """Use the baseline's tensors below `directory`."""
        self._directory = directory
        self._is_baseline = is_baseline
        self.differences: OptimizerDifferences | None = None
        """Over the whole model; the same on every rank. None for the baseline."""
        self.disagreement: str | None = None
        """The first parameter of which replicas hold different moments or weights, as text."""

    @torch.no_grad()
    def inspect(self, trainer: Trainer) -> None:
        """Save or compare weights and optimizer state after a step; collective over the world."""
        firsts, seconds, updates = (self._comparison(trainer, kind) for kind in (_FIRST, _SECOND, "updates"))
        means = Means(self._directory / "means.json", is_baseline=self._is_baseline)
        for shard in shards(trainer.model, trainer.topology):
            significant = None
            # A frozen parameter has no moments, and must not have moved.
            if shard.parameter.requires_grad:
                firsts.take(shard, shard.gather(local_moment(trainer, shard, _FIRST)))
                significant = self._take_second(seconds, means, trainer, shard)
            self._take_update(updates, trainer, shard, significant)
        self._merge(firsts, seconds, updates)
        if self._is_baseline:
            means.leave()

    def _take_second(
        self, seconds: Comparison, means: Means, trainer: Trainer, shard: Shard
    ) -> SignificantElements | None:
        """Save or compare a second moment; return the elements in which to compare the update."""
        second = shard.gather(local_moment(trainer, shard, _SECOND))
        if self._is_baseline:
            seconds.take(shard, second)
            if speaks_for(shard):
                means.take(shard.name, second)
            return None
        significant = means.significant(shard.name)
        seconds.take(shard, second, look=significant.look)
        return significant

    def _take_update(
        self, updates: Comparison, trainer: Trainer, shard: Shard, significant: SignificantElements | None
    ) -> None:
        weights = shard.gather(trainer.start(shard))
        now = shard.gather(shard.parameter)
        # In place where it was gathered, so that no more than two full tensors are held.
        update = torch.sub(now, weights, out=now if shard.num_slices > 1 else None)
        del now
        updates.take(shard, update, where=significant, weights=weights)

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


def local_moment(trainer: Trainer, shard: Shard, key: str) -> torch.Tensor:
    """Return the first or second moment of a rank's shard, by `key`, in its shape; zero before the first step.

    Collective over its replicas under the distributed optimizer.
    """
    optimizer = trainer.optimizer.part_of(shard)
    if not hasattr(optimizer, "model_param_group_index_map"):
        state = optimizer.optimizer.state[shard.parameter]
        return state[key] if key in state else torch.zeros_like(shard.parameter)
    whole = torch.zeros_like(shard.parameter, dtype=torch.float32)
    if shard.parameter in optimizer.model_param_group_index_map:
        owned = optimizer._get_model_param_range_map(shard.parameter)["param"]
        part = optimizer._get_main_param_and_optimizer_states(shard.parameter)[key]
        whole.view(-1)[owned.start : owned.end].copy_(part.view(-1))
    # Each element is nonzero on one rank only, so the sum is exact.
    dist.all_reduce(whole, group=shard.replicas)
    return whole
