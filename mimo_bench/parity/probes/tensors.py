"""Full tensors of every parameter against the baseline's, one canonical tensor at a time.

scenario -> layout -> trainer -> meters -> record -> [parity] -> report

The baseline's stream from disk. On the device lie at most two full tensors at once, while slices are gathered into one;
sums run over chunks in float64.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from zlib import crc32

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from mimo_bench.parity.replicas import diverged
from mimo_bench.record.schema import ParameterDifference
from mimo_bench.trainer.counter_random import digest
from mimo_bench.trainer.topology import Topology
from mimo_bench.trainer.weights import Shard

_KEY = "tensor"

_CHUNK = 1 << 22
"""Elements that are compared at a time."""

_RESOLUTION = 3 * torch.finfo(torch.float32).eps
"""Of the weight that an update moved: one unit in the last place where it started, and two steps that were rounded."""


class Comparison:
    """One kind of tensor of every parameter, gradients say: the baseline's are saved, a layout's held against them."""

    def __init__(self, directory: Path, *, topology: Topology, is_baseline: bool) -> None:
        """The baseline's tensors lie in `directory`, one file a parameter. Collective over the world."""
        self._directory = directory
        self._topology = topology
        self._is_baseline = is_baseline
        self._digests: dict[str, str] = {}
        self._found: list[ParameterDifference] = []
        if is_baseline and dist.get_rank() == 0:
            directory.mkdir(parents=True, exist_ok=True)
        dist.barrier()

    @torch.no_grad()
    def take(
        self,
        shard: Shard,
        full: torch.Tensor,
        *,
        where: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> None:
        """Save or compare one full tensor, which every rank that holds a part of the parameter brings.

        Args:
            shard: the rank's part.
            full: in the canonical shape.
            where: in that shape, on the host, what of it is compared; None for all of it.
            weights: in that shape, on the host, a direction in which a difference would tell; None for none.
        """
        self._digests[shard.name] = digest(full)
        if not speaks_for(shard, self._topology):
            return
        if self._is_baseline:
            save_file({_KEY: full.contiguous()}, self._path(shard))
        else:
            self._found.append(difference(shard, full, self.expected(shard), where=where, weights=weights))

    def expected(self, shard: Shard) -> torch.Tensor:
        """The baseline's tensor, on the host; only where this rank is the one to read it."""
        return load_file(self._path(shard))[_KEY]

    def merge(self, what: str) -> tuple[tuple[ParameterDifference, ...], str | None]:
        """What all ranks found, and which replicas' tensors, `what` they are, differ; the same on every rank.

        Collective over the world.
        """
        mine = (json.dumps(self._digests), [one.model_dump_json() for one in self._found])
        everyone: list[tuple[str, list[str]]] = [("", [])] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        problem = diverged([json.loads(held) for held, _ in everyone], self._topology.layout, what=what)
        texts = (text for _, some in everyone for text in some)
        return tuple(ParameterDifference.model_validate_json(text) for text in texts), problem

    def _path(self, shard: Shard) -> Path:
        return self._directory / f"{shard.name}.safetensors"


def difference(
    shard: Shard,
    found: torch.Tensor,
    expected: torch.Tensor,
    *,
    where: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> ParameterDifference:
    """How a tensor relates to the baseline's: Frobenius norms, largest elements, the multiple that fits best."""
    square = cross = expected_square = error_square = along = weights_square = 0.0
    largest = largest_error = 0.0
    for start in range(0, found.numel(), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        part, other = found.flatten()[chunk].double(), _read(expected, chunk, found.device)
        if where is not None:
            kept = _read(where, chunk, found.device)
            part, other = part * kept, other * kept
        off = part - other
        if weights is not None:
            direction = _read(weights, chunk, found.device)
            along += float(off @ direction)
            weights_square += float(direction @ direction)
        square += float(part @ part)
        cross += float(part @ other)
        expected_square += float(other @ other)
        error_square += float(off @ off)
        # NaN loses every comparison with a Python float, but not the sums above.
        largest, largest_error = max(largest, float(other.abs().max())), max(largest_error, float(off.abs().max()))
    scale = cross / expected_square if expected_square else None
    return ParameterDifference(
        parameter=shard.name,
        module=shard.module,
        norm=_finite(math.sqrt(square)),
        baseline_norm=_finite(math.sqrt(expected_square)),
        error_norm=_finite(math.sqrt(error_square)),
        scale=_finite(scale),
        unscaled_error_norm=None if scale is None else _finite(math.sqrt(max(0.0, square - scale * cross))),
        baseline_max=_finite(largest),
        error_max=_finite(largest_error),
        slice_error_norms=_slice_errors(shard, found, expected) if error_square > 0.0 else (),
        resolution_norm=None if weights is None else _finite(_RESOLUTION * math.sqrt(weights_square)),
        along_weights_share=_finite(
            along**2 / (error_square * weights_square) if error_square and weights_square else None
        ),
    )


def _read(host: torch.Tensor, chunk: slice, device: torch.device) -> torch.Tensor:
    return host.flatten()[chunk].to(device).double()


def _slice_errors(shard: Shard, found: torch.Tensor, expected: torch.Tensor) -> tuple[float, ...]:
    """The error norm of each tensor-parallel rank's slice, in the order of ranks; none where nothing is split."""
    if shard.dim is None or shard.tp_group.size() == 1:
        return ()
    squares = [0.0] * shard.tp_group.size()
    width = shard.parameter.shape[shard.dim] // shard.stride
    # Slices follow each other in order of rank, once for each of the stacked tensors.
    parts = zip(found.split(width, dim=shard.dim), expected.split(width, dim=shard.dim), strict=True)
    for index, (part, other) in enumerate(parts):
        error = part - other.to(part.device)
        squares[index % len(squares)] += float(error.square().sum(dtype=torch.float64))
    return tuple(math.sqrt(square) for square in squares) if all(map(math.isfinite, squares)) else ()


def speaks_for(shard: Shard, topology: Topology) -> bool:
    """Whether this rank is the one of all that hold the parameter that reads or writes its file.

    Parameters are dealt out over replicas and slices, so that all of a stage's ranks compare at the same time.
    """
    grid = topology.layout.modules[shard.module]
    coordinate = grid.coordinate(topology.rank)
    speaker = crc32(shard.name.encode()) % (grid.tp * grid.dp)
    return coordinate.dp * grid.tp + coordinate.tp == speaker and not shard.is_copy


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
