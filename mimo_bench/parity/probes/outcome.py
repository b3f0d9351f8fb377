"""Comparison of Adam's moments and of every parameter's update after two steps with the baseline's.

They are gathered like gradients: over tensor-parallel ranks, and over replicas under the distributed optimizer.

Updates are compared in elements whose gradients are more than rounding. The baseline leaves the mean of every second
moment. A layout marks the elements while the baseline's second moments stream by, and keeps two bits for each. An
element without any gradient moves by its decay alone, and no element moves further than AdamW can take it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path

import torch
import torch.distributed as dist

from mimo_bench.parity.probes.tensors import Comparison, Elements, Way, chunks, speaks_for
from mimo_bench.record import OptimizerDifferences
from mimo_bench.scenario import Training
from mimo_bench.trainer import MOMENTS, OptimizerState, Shard, Trainer, shards
from mimo_bench.util import write_atomically

ROUNDING_SHARE = 1e-3
"""An element is significant if its gradients, root mean square over the steps, are above this share of its parameter's.
Adam takes a full step for a gradient that is rounding alone, in any direction."""

_BITS = 8

_RUN = 16
"""Consecutive elements that all have no gradient if they have none for a reason, such as a row of the word embedding. A
gradient that is rounding, such as that of a key's bias, is zero in a single element by chance."""


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

    def bound(self, parameter: str) -> float:
        """Return the second moment above which an element of a parameter is significant."""
        return ROUNDING_SHARE**2 * self._means[parameter]


class MarkedElements:
    """Marked elements of one tensor, two bits each. They come back in the chunks in which they were marked."""

    def __init__(self, bound: float) -> None:
        """Mark second moments above `bound` as significant, and runs of zeros as untouched."""
        self._bound = bound
        self._packed: list[tuple[torch.Tensor, torch.Tensor, int]] = []

    def look(self, part: torch.Tensor) -> None:
        """Mark the elements of a chunk of the baseline's second moment."""
        self._packed.append((_pack(part > self._bound), _pack(_in_runs(part == 0.0)), len(part)))

    def __iter__(self) -> Iterator[Elements]:
        """Yield the masks of each chunk."""
        for significant, untouched, length in self._packed:
            yield Elements(_unpack(significant, length), _unpack(untouched, length))


def _in_runs(mask: torch.Tensor) -> torch.Tensor:
    """Return a mask without the elements that are alone: all others of a run of `_RUN` are marked, too."""
    runs = torch.nn.functional.pad(mask, (0, -len(mask) % _RUN), value=True).view(-1, _RUN).all(dim=1)
    return runs.repeat_interleave(_RUN)[: len(mask)]


def _pack(mask: torch.Tensor) -> torch.Tensor:
    marked = torch.nn.functional.pad(mask.to(torch.uint8), (0, -len(mask) % _BITS)).view(_BITS, -1)
    packed = marked[0].clone()
    for bit in range(1, _BITS):
        packed |= marked[bit] << bit
    return packed


def _unpack(packed: torch.Tensor, length: int) -> torch.Tensor:
    return torch.cat([(packed >> bit & 1).bool() for bit in range(_BITS)])[:length]


OUTCOME_STEPS = 2
"""Steps before the comparison. One step would not show if moments are carried over and their bias corrected; every
further one spreads an error of one module to the gradients of all."""

_FIRST, _SECOND = MOMENTS
_MEANS = "means.json"

OUTCOME = "outcome"
"""Folder of the baseline's moments and updates after two steps."""


class OutcomeProbe:
    """Saves the baseline's moments and updates after `OUTCOME_STEPS`, or compares a layout's with them."""

    def __init__(self, directory: Path, *, is_baseline: bool) -> None:
        """Use the baseline's tensors below `directory`."""
        self._directory = directory
        self._is_baseline = is_baseline
        self._squares: dict[str, torch.Tensor] = {}
        self.differences: OptimizerDifferences | None = None
        """Over the whole model; the same on every rank. None for the baseline."""
        self.disagreement: str | None = None
        """The first parameter of which replicas hold different moments or weights, as text."""
        self.movement: dict[str, float] = {}
        """By module of the baseline, norm of its update besides its decay over the rounding of its weights."""

    @torch.no_grad()
    def inspect(self, trainer: Trainer) -> None:
        """Save or compare weights and optimizer state; collective over the world."""
        firsts, seconds, updates = (
            Comparison(self._directory / kind, topology=trainer.topology, is_baseline=self._is_baseline)
            for kind in (_FIRST, _SECOND, "updates")
        )
        means = Means(self._directory / _MEANS, is_baseline=self._is_baseline)
        state = OptimizerState(trainer.optimizer)
        for shard in shards(trainer.model, trainer.topology):
            marks = None
            # A frozen parameter has no moments, and must not have moved.
            if shard.parameter.requires_grad:
                firsts.take(shard, shard.gather(state.read_one(shard, _FIRST)))
                marks = self._take_second(seconds, means, shard, shard.gather(state.read_one(shard, _SECOND)))
            self._take_update(updates, trainer, shard, marks)
        self._merge(firsts, seconds, updates)
        if self._is_baseline:
            means.leave()
            self._merge_movement()

    def _take_second(
        self, seconds: Comparison, means: Means, shard: Shard, second: torch.Tensor
    ) -> MarkedElements | None:
        """Save or compare a second moment; return the elements in which to compare the update."""
        if self._is_baseline:
            seconds.take(shard, second)
            if speaks_for(shard):
                means.take(shard.name, second)
            return None
        marks = MarkedElements(means.bound(shard.name))
        seconds.take(shard, second, look=marks.look)
        return marks

    def _take_update(self, updates: Comparison, trainer: Trainer, shard: Shard, marks: MarkedElements | None) -> None:
        way, update = taken_way(trainer, shard, shard.parameter)
        updates.take(shard, update, where=marks, way=way)
        if self._is_baseline and shard.parameter.requires_grad and speaks_for(shard):
            self._add_movement(shard.module, way, update)

    def _add_movement(self, module: str, way: Way, update: torch.Tensor) -> None:
        squares = self._squares.setdefault(module, torch.zeros(2, dtype=torch.float64, device=update.device))
        for moved, start in zip(chunks(update), chunks(way.start), strict=True):
            own = moved.double() - way.decay * start.double()
            squares += torch.stack([own.square().sum(), (way.resolution * start.double()).square().sum()])

    def _merge_movement(self) -> None:
        everyone: list[dict[str, list[float]]] = [{}] * dist.get_world_size()
        dist.all_gather_object(everyone, {module: squares.tolist() for module, squares in self._squares.items()})
        for module in dict.fromkeys(chain.from_iterable(everyone)):
            moved, rounding = (math.fsum(held[module][k] for held in everyone if module in held) for k in range(2))
            self.movement[module] = math.sqrt(moved / rounding)

    def _merge(self, firsts: Comparison, seconds: Comparison, updates: Comparison) -> None:
        merged = (firsts.merge("first moments"), seconds.merge("second moments"), updates.merge("weights"))
        problem = next((problem for _, problem in merged if problem is not None), None)
        if problem is not None:
            self.disagreement = f"after the second step, {problem}"
        if not self._is_baseline:
            first, second, update = (differences for differences, _ in merged)
            self.differences = OptimizerDifferences(first_moments=first, second_moments=second, updates=update)


def taken_way(trainer: Trainer, shard: Shard, held: torch.Tensor) -> tuple[Way, torch.Tensor]:
    """Return how far AdamW may have moved a parameter, and its update: full tensors. Collective over its slices.

    Args:
        trainer: after some steps.
        shard: a parameter.
        held: the rank's slice of its weight, float32.
    """
    # Weights in bf16 start from rounded numbers.
    start = shard.gather(trainer.start(shard).to(shard.parameter.dtype).float())
    now = shard.gather(held.detach())
    training, num_steps = trainer.config.training, trainer.optimizer.num_steps
    rates = [training.rate_of(shard.module, step) for step in range(num_steps)]
    if not shard.parameter.requires_grad:
        rates = []
    way = Way(
        start=start,
        num_steps=num_steps,
        longest=math.fsum(rate * longest_step(training, step) for step, rate in enumerate(rates)),
        decay=math.prod(1.0 - rate * training.weight_decay for rate in rates) - 1.0,
    )
    # In place where it was gathered, so that no more than two full tensors are held.
    return way, torch.sub(now, start, out=now if shard.num_slices > 1 else None)


def longest_step(training: Training, step: int) -> float:
    """Return the longest way of a weight in AdamW's step, counted from 0, as a multiple of the learning rate.

    The step is the ratio of a mean of gradients to the root of a mean of their squares. By the inequality of Cauchy and
    Schwarz it is at most sqrt(sum a^2 / c), with the weights a and c of the gradients in the two means.
    """
    one, two = training.adam_beta1, training.adam_beta2
    if not 0.0 < two < 1.0 or one == 1.0:
        return math.inf
    first = [(1 - one) * one**age / (1 - one ** (step + 1)) for age in range(step + 1)]
    second = [(1 - two) * two**age / (1 - two ** (step + 1)) for age in range(step + 1)]
    return math.sqrt(math.fsum(a * a / c for a, c in zip(first, second, strict=True)))


def other_setting(trainer: Trainer) -> str | None:
    """Return the first setting of this rank's parameter groups that is not the scenario's in the last step, as text."""
    training, step = trainer.config.training, trainer.optimizer.num_steps - 1
    for module, groups in trainer.optimizer.groups():
        settings = {
            "lr": training.rate_of(module, step),
            "weight_decay": training.weight_decay,
            "eps": training.adam_epsilon,
            "betas": (training.adam_beta1, training.adam_beta2),
        }
        for group, (key, expected) in product(groups, settings.items()):
            if (found := group[key]) != expected:
                return f"{key} of {module} is {found} instead of {expected} in step {step}"
    return None
