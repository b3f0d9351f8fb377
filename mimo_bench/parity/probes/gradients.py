"""Every parameter's gradient against the baseline's, one canonical full tensor at a time.

scenario -> layout -> trainer -> meters -> record -> [parity] -> report

Called between the backward pass and the optimizer, when gradients are reduced and normalised and not yet clipped. No
more than two full tensors are held at once: the baseline's stream from disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from mimo_bench.parity.fingerprints import RankFingerprint, disagreement
from mimo_bench.record.schema import GradientDifference
from mimo_bench.trainer.counter_random import digest
from mimo_bench.trainer.models.mimo import hosted_modules
from mimo_bench.trainer.topology import Topology
from mimo_bench.trainer.trainer import Trainer
from mimo_bench.trainer.weights import Shard, shards

_KEY = "gradient"


class GradientProbe:
    """Saves the baseline's gradients, or holds a layout's against them."""

    def __init__(self, directory: Path, *, is_baseline: bool) -> None:
        """The baseline's gradients lie in `directory`, one file a parameter."""
        self._directory = directory
        self._is_baseline = is_baseline
        self.differences: tuple[GradientDifference, ...] | None = None
        """By parameter, over the whole model; the same on every rank. None for the baseline."""
        self.disagreement: str | None = None
        """Replicas whose gradients differ, in words."""

    @torch.no_grad()
    def inspect(self, trainer: Trainer) -> None:
        """Look at the finished gradients of `trainer`; collective over the world."""
        if self._is_baseline and dist.get_rank() == 0:
            self._directory.mkdir(parents=True, exist_ok=True)
        dist.barrier()
        collect_shards(trainer)
        digests: dict[str, str] = {}
        found: list[GradientDifference] = []
        for shard, gradient in full_gradients(trainer):
            digests[shard.name] = digest(gradient)
            if not _speaks_for(shard, trainer.topology):
                continue
            path = self._directory / f"{shard.name}.safetensors"
            if self._is_baseline:
                save_file({_KEY: gradient.contiguous()}, path)
            else:
                expected = load_file(path, device=str(gradient.device))[_KEY]
                found.append(difference(shard.name, shard.module, gradient, expected))
        self._merge(digests, found)

    def _merge(self, digests: dict[str, str], found: list[GradientDifference]) -> None:
        """Tell every rank what all have found."""
        mine = (
            RankFingerprint(weights=digests, samples=()).model_dump_json(),
            [one.model_dump_json() for one in found],
        )
        everyone: list[tuple[str, list[str]]] = [("", [])] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        parameter = disagreement(RankFingerprint.model_validate_json(held).weights for held, _ in everyone)
        if parameter is not None:
            self.disagreement = f"replicas of {parameter} hold different gradients"
        if not self._is_baseline:
            texts = (text for _, some in everyone for text in some)
            self.differences = tuple(GradientDifference.model_validate_json(text) for text in texts)


def full_gradients(trainer: Trainer) -> Iterator[tuple[Shard, torch.Tensor]]:
    """Each hosted parameter with its canonical full gradient, one after the other; collective over tensor ranks."""
    for shard in shards(trainer.model, trainer.topology):
        yield shard, shard.gather(getattr(shard.parameter, "main_grad").float())  # noqa: B009  # megatron-core's mark


def collect_shards(trainer: Trainer) -> None:
    """Fill whole gradient buffers where the distributed optimizer left each replica with its own part of the sums.

    In place and without a copy of the buffer; the optimizer goes on to read its own part, which stays as it is.
    """
    for _, module in hosted_modules(trainer.model):
        if not module.ddp_config.use_distributed_optimizer:
            continue
        for buffer in module.buffers:
            group = buffer.data_parallel_group
            for bucket in buffer.buckets:
                part = bucket.grad_data.view(group.size(), -1)[group.rank()].clone()
                dist.all_gather_into_tensor(bucket.grad_data, part, group=group)


def difference(name: str, module: str, found: torch.Tensor, expected: torch.Tensor) -> GradientDifference:
    """How a gradient relates to the baseline's: Frobenius norms, and the multiple of the baseline's that fits best."""
    found, expected = found.double().flatten(), expected.double().flatten()
    expected_square = float(expected @ expected)
    scale = float(found @ expected) / expected_square if expected_square else None
    return GradientDifference(
        parameter=name,
        module=module,
        norm=float(found.norm()),
        baseline_norm=expected_square**0.5,
        error_norm=float((found - expected).norm()),
        scale=scale,
        unscaled_error_norm=float((found - scale * expected).norm()) if scale is not None else None,
    )


def _speaks_for(shard: Shard, topology: Topology) -> bool:
    """Whether this rank is the one of all that hold the parameter that reads or writes its file."""
    coordinate = topology.layout.modules[shard.module].coordinate(topology.rank)
    return coordinate.tp == 0 and coordinate.dp == 0 and not shard.is_copy
