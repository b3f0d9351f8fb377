"""Starting weights, equal in every layout: each parameter has a canonical name and a canonical full tensor.

A rank's parameter is a slice of the full tensor, and the full tensor's numbers depend on the seed, the canonical name
and the position alone. So every rank draws just its own slice, on its own device, and all layouts start equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.mimo.model.base import MimoModel

from mimo_bench.models import CHUNK, FIXED, OUTPUT, UNPADDED_ROWS, WORD_EMBEDDING, TensorSpec, digest, uniform
from mimo_bench.scenario import Training
from mimo_bench.trainer.model import hosted_modules, unwrap
from mimo_bench.trainer.topology import Topology

_LAYER = re.compile(r"\blayers\.(\d+)\.")
_EXPERT = re.compile(r"\bexperts\.local_experts\.(\d+)\.")

_STORED = {torch.float32: "F32", torch.bfloat16: "BF16"}
"""Dtypes as safetensors spells them."""

_PLAIN = (
    (re.compile(r"^encoders\.\w+\."), "encoder."),
    # A user's provider adds parameters to the projector next to those of megatron-core.
    (re.compile(r"^input_projections\.0\.(encoder\.)?"), "projector."),
)
"""How megatron-core's paths inside an encoder's module read in canonical names, which know no family."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One rank's slice of one canonical parameter."""

    name: str
    """Canonical: the module, then `encoder`, `projector` or the language model's own path to the parameter.

    Layers and experts are counted over the whole model, from 0.
    """
    module: str
    parameter: torch.nn.Parameter
    tp_group: dist.ProcessGroup
    replicas: dist.ProcessGroup
    """The ranks that hold the same slice; their gradients are summed."""
    has_expert_replicas: bool
    """Whether these are other ranks than for the rest of the module: its gradient has a buffer apart then."""
    dim: int | None
    """The dim that tensor parallelism splits; None if every rank holds the whole parameter."""
    stride: int
    """How many stacked tensors share that dim (gate and up projection: 2); each of them is split on its own."""
    is_tied: bool = False
    """True if two pipeline stages hold the parameter: a tied embedding is on both end stages."""
    is_copy: bool = False
    """True if the other stage speaks for a tied parameter."""
    unpadded: int | None = None
    """The canonical size of a split dim that was padded to divide by the ranks. Padding lies behind it, and is zero."""

    @property
    def full_shape(self) -> tuple[int, ...]:
        """The canonical shape."""
        shape = list(self.parameter.shape)
        if self.dim is not None:
            shape[self.dim] = self.unpadded or shape[self.dim] * self.tp_group.size()
        return tuple(shape)

    def spec(self, dtype: torch.dtype) -> TensorSpec:
        """Return the canonical full tensor's entry in a safetensors file that stores it in `dtype`."""
        return TensorSpec(name=self.name, dtype=_STORED[dtype], shape=self.full_shape)

    def gather(self, local: torch.Tensor) -> torch.Tensor:
        """The canonical full tensor of `local` slices; collective over the tensor-parallel group.

        Memory: the full tensor, the slice, and at most one chunk. Slices that alternate in every row are gathered some
        rows at a time.
        """
        num_ranks = self.tp_group.size()
        if self.dim is None or num_ranks == 1:
            return local  # one rank alone pads nothing
        shape = list(local.shape)
        shape[self.dim] *= num_ranks
        # Slices take turns in the full tensor: `mine` is [turns, elements] of [turns, ranks, elements].
        mine = local.contiguous().view(math.prod(local.shape[: self.dim]) * self.stride, -1)
        whole = local.new_empty(mine.shape[0], num_ranks, mine.shape[1])
        num_turns = max(1, CHUNK // whole[0].numel())
        for part, place in zip(mine.split(num_turns), whole.split(num_turns), strict=True):
            self._gather_turns(part, place)
        return whole.view(shape).narrow(self.dim, 0, self.full_shape[self.dim])

    def cut(self, whole: torch.Tensor) -> torch.Tensor:
        """This rank's slice of a canonical full tensor: what `gather` takes back; padding is zero."""
        num_ranks = self.tp_group.size()
        if self.dim is None or num_ranks == 1:
            return whole
        if missing := self.parameter.shape[self.dim] * num_ranks - whole.shape[self.dim]:
            shape = [missing if dim == self.dim else size for dim, size in enumerate(whole.shape)]
            whole = torch.cat([whole, whole.new_zeros(shape)], dim=self.dim)
        rank = self.tp_group.rank()
        return torch.cat(
            [part.chunk(num_ranks, dim=self.dim)[rank] for part in whole.chunk(self.stride, dim=self.dim)], dim=self.dim
        )

    def positions(self) -> Iterator[torch.Tensor]:
        """The flat position in the full tensor of every element of the flat slice; int64, a chunk at a time.

        Padding has positions behind the last of the full tensor.
        """
        num_elements = self.parameter.numel()
        for start in range(0, num_elements, CHUNK):
            index = torch.arange(start, min(start + CHUNK, num_elements), device=self.parameter.device)
            yield index if self.dim is None else self._in_full(index, self.dim)

    @property
    def holder(self) -> int:
        """This rank's number among all of its stage that hold the parameter, slices of it or copies."""
        return self.replicas.rank() * self.tp_group.size() + self.tp_group.rank()

    @property
    def num_holders(self) -> int:
        """Number of holders."""
        return self.replicas.size() * self.tp_group.size()

    @property
    def num_slices(self) -> int:
        """Into how many slices tensor parallelism cuts the full tensor."""
        return 1 if self.dim is None else self.tp_group.size()

    def owners(self, start: int, length: int, device: torch.device) -> torch.Tensor:
        """The tensor-parallel rank that holds each of `length` elements of the flat full tensor, from `start` on."""
        assert self.dim is not None
        beyond = math.prod(self.full_shape[self.dim + 1 :])
        piece = self.parameter.shape[self.dim] // self.stride
        index = torch.arange(start, start + length, device=device) // beyond % self.full_shape[self.dim]
        # Slices follow each other in order of rank, once for each of the stacked tensors.
        return index // piece % self.num_slices

    def _gather_turns(self, part: torch.Tensor, place: torch.Tensor) -> None:
        # What all ranks bring to one turn lies together, and is received where it stays.
        gathered = place if len(part) == 1 else part.new_empty(self.tp_group.size(), *part.shape)
        dist.all_gather_into_tensor(gathered.view(-1), part.view(-1), group=self.tp_group)
        if gathered is not place:
            place.copy_(gathered.transpose(0, 1))

    def _in_full(self, index: torch.Tensor, dim: int) -> torch.Tensor:
        """Map indices of the flat slice to the flat full tensor."""
        size, beyond = self.parameter.shape[dim], math.prod(self.parameter.shape[dim + 1 :])
        piece, row = size // self.stride, index // beyond % size
        row = (row // piece * self.tp_group.size() + self.tp_group.rank()) * piece + row % piece
        return (index // (size * beyond) * self.full_shape[dim] + row) * beyond + index % beyond


COPIES_DIFFER = "the first and the last pipeline stage hold different values of this tied weight"

Start = Callable[[Shard], torch.Tensor]
"""Function that returns a slice's starting values, drawn or stored, in its shape and on its device."""


def shards(model: MimoModel, topology: Topology) -> Iterator[Shard]:
    """Every parameter that this rank holds a slice of."""
    for module, wrapped in hosted_modules(model):
        inner, groups = unwrap(wrapped), topology.groups[module]
        for name, parameter in inner.named_parameters():
            is_split = getattr(parameter, "tensor_model_parallel", False)
            is_apart = has_expert_replicas(parameter)
            # Where one stage holds both ends of a tied model, the output layer has no weight of its own.
            is_tied = (
                name in (WORD_EMBEDDING, OUTPUT)
                and bool(inner.share_embeddings_and_output_weights)
                and groups.pp.size() > 1
            )
            is_copy = is_tied and name == OUTPUT
            yield Shard(
                name=f"{module}.{WORD_EMBEDDING if is_copy else _canonical(inner, name)}",
                module=module,
                parameter=parameter,
                tp_group=groups.expt_tp if is_apart else groups.tp,
                replicas=groups.expt_dp if is_apart else groups.dp,
                has_expert_replicas=is_apart,
                dim=getattr(parameter, "partition_dim") if is_split else None,  # noqa: B009  # megatron-core's own mark
                stride=getattr(parameter, "partition_stride") if is_split else 1,  # noqa: B009
                is_tied=is_tied,
                is_copy=is_copy,
                unpadded=getattr(parameter, UNPADDED_ROWS, None),
            )


def differing_copy(tensors: Iterable[tuple[Shard, torch.Tensor]], group: dist.ProcessGroup) -> str | None:
    """Return the name of a tied parameter whose slices differ between the two stages; None if all are equal.

    Collective over `group`, whose ranks bring the `tensors` of all their shards.
    """
    mine = {(shard.name, shard.tp_group.rank()): digest(tensor) for shard, tensor in tensors if shard.is_tied}
    everyone: list[dict[tuple[str, int], str]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, mine, group=group)
    found: dict[tuple[str, int], str] = {}
    for digests in everyone:
        for key, value in digests.items():
            if found.setdefault(key, value) != value:
                return key[0]
    return None


def has_expert_replicas(parameter: torch.nn.Parameter) -> bool:
    """True for an expert's parameter with other replicas than the rest, by megatron-core's own mark."""
    return not getattr(parameter, "allreduce", True)


def trained_shards(model: MimoModel, topology: Topology) -> Iterator[Shard]:
    """Those of the shards that get a gradient: not what is fixed."""
    return (shard for shard in shards(model, topology) if shard.parameter.requires_grad)


def fill_weights(model: MimoModel, topology: Topology, start: Start) -> None:
    """Fill every parameter with what it starts from."""
    with torch.no_grad():
        for shard in shards(model, topology):
            shard.parameter.copy_(start(shard))


def draw_weights(model: MimoModel, topology: Topology, *, seed: int) -> None:
    """Fill every parameter from the seed and its canonical name."""
    fill_weights(model, topology, partial(drawn, seed=seed))


def drawn(shard: Shard, *, seed: int) -> torch.Tensor:
    """Draw the starting values of a slice; float32, in its shape. Fixed parameters get their fixed values."""
    fixed: torch.Tensor | None = getattr(shard.parameter, FIXED, None)
    if fixed is not None:
        return fixed.to(shard.parameter.device)
    centre, scale = _distribution(shard)
    numbers = torch.empty(shard.parameter.shape, device=shard.parameter.device)
    num_elements = math.prod(shard.full_shape)
    for part, positions in zip(numbers.view(-1).split(CHUNK), shard.positions(), strict=True):
        part.copy_(centre + (uniform(f"{seed}/{shard.name}", positions) - 0.5) * scale)
        part.masked_fill_(positions >= num_elements, 0.0)  # padding
    return numbers


def _distribution(shard: Shard) -> tuple[float, float]:
    """Centre and width of the uniform distribution that a parameter is drawn from.

    Matrices have a standard deviation of 1 / sqrt(fan in). Norm weights lie about 1 and biases about 0, but on neither
    exactly: a parameter whose values are all equal could be sharded wrongly without a trace.
    """
    shape = shard.full_shape
    if len(shape) >= 2:
        return 0.0, math.sqrt(12.0 / math.prod(shape[1:]))
    return (0.0 if shard.name.endswith("bias") else 1.0), 0.1


def _canonical(module: torch.nn.Module, path: str) -> str:
    """The canonical name, without its module, of the parameter at `path`."""
    name = _with_global_experts(module, _with_global_layers(module, path), path)
    for pattern, plain in _PLAIN:
        name = pattern.sub(plain, name)
    return name


def _with_global_layers(module: torch.nn.Module, name: str) -> str:
    """`name` with the layer's number in this stage replaced by its number in the whole module, from 0."""
    if (match := _LAYER.search(name)) is None:
        return name
    layer: Any = module.get_submodule(name[: match.end() - 1])
    return f"{name[: match.start(1)]}{layer.layer_number - 1}{name[match.end(1) :]}"


def _with_global_experts(module: torch.nn.Module, name: str, path: str) -> str:
    """`name`, of the parameter at `path`, with the expert's number on this rank replaced by its number in the layer."""
    if (match := _EXPERT.search(path)) is None:
        return name
    layer: Any = module.get_submodule(path[: match.start() - 1])
    return _EXPERT.sub(f"experts.{layer.local_expert_indices[int(match[1])]}.", name)


def freeze_weights(model: MimoModel, topology: Topology, *, training: Training) -> None:
    """Take frozen parameters out of the training; the model must not be wrapped for data parallelism yet."""
    for shard in shards(model, topology):
        # Only taken out, never in: some parameters are fixed whatever is trained. Of a module that is frozen in all its
        # parts nothing is reduced, so parameters that a provider adds must not be trained either.
        if training.is_frozen(shard.module) or not training.trains(shard.name):
            shard.parameter.requires_grad_(False)
