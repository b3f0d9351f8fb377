"""Weights stored in a directory: each rank reads its slices; rank 0 writes what the others gather.

Weights alone: neither the optimizer's state nor the place in the data is among them, so nothing resumes from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.mimo.model.base import MimoModel
from safetensors import SafetensorError, safe_open

from mimo_bench.models import CHUNK_BYTES, StoredFile, TensorSpec, TensorWriter, tensors_of
from mimo_bench.trainer.model import hosted_modules
from mimo_bench.trainer.topology import Topology
from mimo_bench.trainer.weights import COPIES_DIFFER, Shard, differing_copy, shards
from mimo_bench.util import WeightsError


class StoredWeights:
    """Slices of one rank, read on demand from mapped files."""

    def __init__(self, directory: Path) -> None:
        """Read from `directory`; the scenario has checked that these are the model's weights."""
        self._directory = directory
        self._files: dict[str, Any] = {}
        self._open = ExitStack()

    @torch.no_grad()
    def __call__(self, shard: Shard) -> torch.Tensor:
        """The slice that a shard is, in its dtype and on its device; padding is zero.

        Raises:
            WeightsError: the parameter is not there, or has another shape.
        """
        stored = self._find(shard)
        local = torch.zeros_like(shard.parameter)
        if shard.dim is None:
            return local.copy_(stored[:])
        num_pieces, piece = shard.stride, local.shape[shard.dim] // shard.stride
        for index in range(num_pieces):
            start = (index * shard.tp_group.size() + shard.tp_group.rank()) * piece
            length = min(piece, shard.full_shape[shard.dim] - start)
            if length > 0:
                where = (*[slice(None)] * shard.dim, slice(start, start + length))
                local.narrow(shard.dim, index * piece, length).copy_(stored[where])
        return local

    def _find(self, shard: Shard) -> Any:
        path = self._directory / f"{shard.module}.safetensors"
        try:
            if shard.module not in self._files:
                self._files[shard.module] = self._open.enter_context(safe_open(path, framework="pt"))
            stored = self._files[shard.module].get_slice(shard.name)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path}: {shard.name}: {error}; import the weights again") from None
        if (shape := tuple(stored.get_shape())) != shard.full_shape:
            raise WeightsError(
                f"{path}: {shard.name} has shape {list(shape)}, and the model's is {list(shard.full_shape)}; "
                "name weights of this model"
            )
        return stored


def unread_parameter(directory: Path, model: MimoModel, topology: Topology) -> str | None:
    """Return why weights in `directory` are of another model, if they have a parameter that no rank's model has.

    Collective over the world.
    """
    everyone: list[set[str]] = [set()] * dist.get_world_size()
    dist.all_gather_object(everyone, {shard.name for shard in shards(model, topology)})
    known = set[str]().union(*everyone)
    for module in topology.layout.modules:
        if unread := sorted(set(tensors_of(directory, module)) - known):
            return (
                f"{directory / f'{module}.safetensors'}: {unread[0]}: the model has no such parameter; build it with "
                "the provider that these weights were trained with"
            )
    return None


@torch.no_grad()
def write_weights(
    model: MimoModel, topology: Topology, directory: Path, *, on_tensor: Callable[[], None] = lambda: None
) -> dict[str, StoredFile] | None:
    """Write `<module>.safetensors` of every module into `directory`; collective over the world.

    Tensors go one after the other through the host memory of rank 0, the only writer: no rank
    holds more than one full tensor at once. Every rank calls `on_tensor` after each.

    Raises:
        WeightsError: two stages hold different values of a tied parameter; on every rank, and nothing is written.
    """
    # On the host: a full tensor needs no room on the writer's device, and NCCL no further connections.
    relay = dist.new_group(backend="gloo")
    _gather_parameters(model)
    held = ((shard, shard.parameter) for shard in shards(model, topology))
    if (name := differing_copy(held, relay)) is not None:
        raise WeightsError(f"{directory}: {name}: {COPIES_DIFFER}; nothing was saved")
    first_replica = (shard for shard in shards(model, topology) if not shard.is_copy and shard.replicas.rank() == 0)
    mine = {shard.name: shard for shard in first_replica}
    speakers = _speakers(mine)
    files = {}
    for module in topology.layout.modules:
        names = sorted(name for name, (_, _, its_module) in speakers.items() if its_module == module)
        tensors = _in_step((_bring(name, mine.get(name), speakers[name], relay) for name in names), relay, on_tensor)
        if dist.get_rank() == 0:
            specs = [speakers[name][1] for name in names]
            files[module] = _write(directory / f"{module}.safetensors", specs, tensors)
        else:
            for _ in tensors:
                pass
    return files or None


def _in_step(
    tensors: Iterable[torch.Tensor | None], relay: dist.ProcessGroup, on_tensor: Callable[[], None]
) -> Iterator[torch.Tensor | None]:
    """Yield each tensor and wait until all ranks are done with it, so that no rank runs ahead or seems to hang."""
    for tensor in tensors:
        yield tensor
        dist.barrier(group=relay)
        on_tensor()


def _gather_parameters(model: MimoModel) -> None:
    """Let every replica hold what the optimizer has updated: under overlap it would be gathered by the next forward."""
    for _, module in hosted_modules(model):
        if module.ddp_config.overlap_param_gather:
            module.start_param_sync(force_sync=True)


def _speakers(mine: dict[str, Shard]) -> dict[str, tuple[int, TensorSpec, str]]:
    """Return for every parameter the rank that sends it, its spec and its module. Collective."""
    sent = {
        name: (dist.get_rank(), shard.spec(shard.parameter.dtype), shard.module)
        for name, shard in mine.items()
        if shard.tp_group.rank() == 0
    }
    everyone: list[dict[str, tuple[int, TensorSpec, str]]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, sent)
    return {name: speaker for one in everyone for name, speaker in one.items()}


def _bring(
    name: str, shard: Shard | None, speaker: tuple[int, TensorSpec, str], relay: dist.ProcessGroup
) -> torch.Tensor | None:
    """The full tensor as bytes on rank 0; None on the others. Those that hold a slice gather it first."""
    source, spec, _ = speaker
    rank = dist.get_rank()
    whole = shard.gather(shard.parameter).contiguous().cpu().view(-1) if shard is not None else None
    if source == 0:
        return whole.view(torch.uint8) if rank == 0 and whole is not None else None
    if rank == source:
        assert whole is not None
        dist.send(whole.view(torch.uint8), dst=0, group=relay)
    if rank == 0:
        received = torch.empty(spec.num_bytes, dtype=torch.uint8)
        dist.recv(received, src=source, group=relay)
        return received
    return None


def _write(path: Path, specs: Sequence[TensorSpec], tensors: Iterator[torch.Tensor | None]) -> StoredFile:
    with TensorWriter(path, specs) as writer:
        for spec, tensor in zip(writer.order, tensors, strict=True):
            assert tensor is not None
            content = memoryview(tensor.numpy())
            writer.write(spec.name, (content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)))
    return StoredFile(num_bytes=writer.num_bytes, sha256=writer.sha256)
