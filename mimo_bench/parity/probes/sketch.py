"""Comparison of every parameter with the baseline by sketches, where full tensors would cost too much disk and time.

A sketch adds the elements of a tensor, each with a random sign, into `NUM_SUMS` sums. It is linear: the sketch of a
difference is the difference of sketches, and its norm is that of the difference, with a standard deviation of
sqrt(2 / NUM_SUMS), which is 4 %. A tensor of at most `NUM_SUMS` elements is kept as it is.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from mimo_bench.models import digest, uniform
from mimo_bench.parity.diagnose import diverged
from mimo_bench.parity.probes.gradients import collect_shards, full_gradients
from mimo_bench.parity.probes.outcome import taken_way
from mimo_bench.parity.probes.tensors import Way, chunks, hashes, speaks_for
from mimo_bench.record import ParameterDifference
from mimo_bench.trainer import WEIGHT, OptimizerState, Shard, Trainer, hosted_modules, trained_shards
from mimo_bench.util import write_atomically

NUM_SUMS = 1024
"""Sums of a sketch."""

_STORED = TypeAdapter(dict[str, list[float]])


class SketchProbe:
    """Leaves the baseline's sketches of one kind of tensors, or compares a layout's with them."""

    def __init__(self, path: Path, *, is_baseline: bool) -> None:
        """Use the baseline's sketches in the file `path`."""
        self._path = path
        self._is_baseline = is_baseline
        self.differences: tuple[ParameterDifference, ...] | None = None
        """By parameter, over the whole model; the same on every rank. None for the baseline."""
        self.disagreement: str | None = None
        """The first parameter of which replicas hold different tensors, as text."""

    @torch.no_grad()
    def inspect_gradients(self, trainer: Trainer) -> None:
        """Look at gradients that are reduced, normalised and not yet clipped; collective over the world."""
        collect_shards(trainer)
        digests: dict[str, str] = {}
        mine = {shard.name: self._of(shard, full, digests) for shard, full in full_gradients(trainer)}
        self._merge(trainer, mine, digests, {}, what="gradients")

    @torch.no_grad()
    def inspect_updates(self, trainer: Trainer) -> None:
        """Look at weights and their updates by all steps; collective over the world."""
        gather_updated_weights(trainer)
        state, digests, ways = OptimizerState(trainer.optimizer), dict[str, str](), dict[str, list[float]]()
        mine = {}
        for shard in trained_shards(trainer.model, trainer.topology):
            held: torch.Tensor = shard.parameter
            if held.dtype != torch.float32:
                # What layers compute with is rounded; replicas must hold the same of that, too.
                rounded = shard.gather(held.detach()).float()
                if hashes(shard):
                    digests[f"{shard.name} as rounded"] = digest(rounded)
                held = state.read_one(shard, WEIGHT)
            way, update = taken_way(trainer, shard, held)
            mine[shard.name] = self._of(shard, update, digests)
            if speaks_for(shard):
                ways[shard.name] = _measured(way, update)
        self._merge(trainer, mine, digests, ways, what="weights")

    def _of(self, shard: Shard, full: torch.Tensor, digests: dict[str, str]) -> list[float] | None:
        """Return the sketch of a parameter's full tensor; None on ranks that do not speak for it."""
        if hashes(shard):
            digests[shard.name] = digest(full)
        return sketch(shard.name, full).tolist() if speaks_for(shard) else None

    def _merge(
        self,
        trainer: Trainer,
        mine: dict[str, list[float] | None],
        digests: dict[str, str],
        ways: dict[str, list[float]],
        *,
        what: str,
    ) -> None:
        spoken = {name: found for name, found in mine.items() if found is not None}
        everyone: list[tuple[dict[str, list[float]], dict[str, str], dict[str, list[float]]]]
        everyone = [({}, {}, {})] * dist.get_world_size()
        dist.all_gather_object(everyone, (spoken, digests, ways))
        self.disagreement = diverged([held for _, held, _ in everyone], trainer.topology.layout, what=what)
        sketches = {name: found for some, _, _ in everyone for name, found in some.items()}
        moved = {name: found for _, _, some in everyone for name, found in some.items()}
        if not self._is_baseline:
            expected = _STORED.validate_json(self._path.read_bytes())
            self.differences = tuple(
                sketched_difference(name, found, expected[name], moved.get(name)) for name, found in sketches.items()
            )
        elif dist.get_rank() == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, _STORED.dump_json(sketches))


def sketch(name: str, full: torch.Tensor) -> torch.Tensor:
    """Return the sketch of a full tensor, float64 [NUM_SUMS]; signs depend on name and position alone."""
    sums = torch.zeros(NUM_SUMS, dtype=torch.float64, device=full.device)
    start = 0
    for part in chunks(full):
        positions = torch.arange(start, start + len(part), device=part.device)
        signs = uniform(f"sketch/{name}", positions).sub_(0.5).sign_()
        first = start % NUM_SUMS
        padding = (first, -(first + len(part)) % NUM_SUMS)
        sums += torch.nn.functional.pad(part.double() * signs, padding).view(-1, NUM_SUMS).sum(dim=0)
        start += len(part)
    return sums


def sketched_difference(
    name: str, found: list[float], expected: list[float], way: list[float] | None = None
) -> ParameterDifference:
    """Return the difference of two tensors by their sketches.

    Args:
        name: canonical, of the parameter.
        found: the layout's sketch.
        expected: the baseline's.
        way: of an update, the norm of its rounding, and its longest movement over that of AdamW.
    """
    ours, theirs = (torch.tensor(values, dtype=torch.float64) for values in (found, expected))
    square, cross, expected_square = float(ours @ ours), float(ours @ theirs), float(theirs @ theirs)
    scale = cross / expected_square if expected_square else None
    return ParameterDifference(
        parameter=name,
        module=name.partition(".")[0],
        norm=_finite(math.sqrt(square)),
        baseline_norm=_finite(math.sqrt(expected_square)),
        error_norm=_finite(float((ours - theirs).norm())),
        scale=None if scale is None else _finite(scale),
        unscaled_error_norm=None if scale is None else _finite(math.sqrt(max(0.0, square - scale * cross))),
        resolution_norm=None if way is None else _finite(way[0]),
        longest_way=None if way is None else _finite(way[1]),
    )


def gather_updated_weights(trainer: Trainer) -> None:
    """Wait for weights that the distributed optimizer gathers with the next forward pass; collective."""
    for _, module in hosted_modules(trainer.model):
        if module.ddp_config.overlap_param_gather:
            module.start_param_sync(force_sync=True)


def _measured(way: Way, update: torch.Tensor) -> list[float]:
    """Return the norm of an update's rounding, and its longest movement besides decay over the longest of AdamW."""
    square = torch.zeros((), dtype=torch.float64, device=update.device)
    longest = torch.zeros((), dtype=torch.float64, device=update.device)
    for moved, start in zip(chunks(update), chunks(way.start), strict=True):
        rounding = way.resolution * start.double().abs()
        square += rounding.square().sum()
        longest = torch.maximum(longest, ((moved.double() - way.decay * start.double()).abs() - rounding).max())
    return [math.sqrt(square.item()), longest.item() / way.longest]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
