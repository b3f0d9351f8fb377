"""Comparison of full tensors of every parameter with the baseline's, one canonical tensor at a time.

The baseline's tensors stream from disk in chunks, unless their digests are equal. They are as large as four copies of
the model, and every layout reads them: threads read ahead into pinned memory, as fast as the page cache delivers. Sums
run over chunks in float64.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import torch
import torch.distributed as dist

from mimo_bench.models import digest
from mimo_bench.parity.diagnose import diverged
from mimo_bench.record import ParameterDifference
from mimo_bench.trainer import Shard, Topology
from mimo_bench.util import write_atomically

CHUNK = 1 << 22
"""Elements that are read and compared at a time."""

_NUM_AHEAD = 6
"""Chunks that threads read ahead, one each."""

_BYTES = torch.finfo(torch.float32).bits // 8


def write(path: Path, tensor: torch.Tensor) -> None:
    """Write the elements of a float32 tensor in their order, without a header."""
    assert tensor.dtype == torch.float32
    with path.open("wb") as file:
        for part in chunks(tensor):
            file.write(memoryview(to_host(part).numpy()))


def stream(path: Path, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield the elements of a file in chunks, on `device`, while threads read ahead."""
    num_elements = path.stat().st_size // _BYTES
    starts = iter(range(0, num_elements, CHUNK))
    reading: deque[Future[torch.Tensor]] = deque()
    with ThreadPoolExecutor(_NUM_AHEAD) as pool:

        def read_on(count: int) -> None:
            for start in islice(starts, count):
                length = min(CHUNK, num_elements - start)
                reading.append(pool.submit(_read, path, start, length, device.type == "cuda"))

        read_on(_NUM_AHEAD)
        while reading:
            part = reading.popleft().result()
            read_on(1)
            yield part.to(device, non_blocking=True)


def chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Return the elements of a tensor in the chunks of `stream`."""
    return iter(tensor.flatten().split(CHUNK))


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy on the host; from a GPU in pinned memory, for speed."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda).copy_(tensor)


def _read(path: Path, start: int, length: int, pinned: bool) -> torch.Tensor:
    part = torch.empty(length, dtype=torch.float32, pin_memory=pinned)
    with path.open("rb", buffering=0) as file:
        file.seek(start * _BYTES)
        view = memoryview(part.numpy()).cast("B")
        while view:
            if not (count := file.readinto(view)):
                raise EOFError(f"{path} ended while it was read; nothing else may write to a run's directory")
            view = view[count:]
    return part


_DIGESTS = "digests.json"

_ULP = torch.finfo(torch.float32).eps
"""One unit in the last place of a weight of 1."""


class Elements(NamedTuple):
    """Masks of a chunk of a parameter, by the baseline's second moment."""

    significant: torch.Tensor
    """Elements whose gradients are more than rounding."""
    untouched: torch.Tensor
    """Elements whose gradient was zero in every step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """Longest way that AdamW can move the weights of a module in some steps."""

    start: torch.Tensor
    """Starting weights, in the canonical shape."""
    num_steps: int
    longest: float
    """Longest way of a weight besides its decay; infinite if no bound is known."""
    decay: float
    """Share of a weight that decays, negative."""

    @property
    def resolution(self) -> float:
        """Rounding of an update relative to its weight: one unit in the last place at the start and for each step."""
        return (self.num_steps + 1) * _ULP


def path_of(directory: Path, parameter: str) -> Path:
    """Return the file of a parameter's tensor in `directory`."""
    return directory / f"{parameter}.float32"


class Comparison:
    """Tensors of one kind, such as gradients: the baseline's are saved, a layout's are compared with them."""

    def __init__(self, directory: Path, *, topology: Topology, is_baseline: bool) -> None:
        """Use the baseline's tensors in `directory`, one file a parameter. Collective over the world."""
        self._directory = directory
        self._topology = topology
        self._is_baseline = is_baseline
        self._digests: dict[str, str] = {}
        self._found: list[ParameterDifference] = []
        if is_baseline and dist.get_rank() == 0:
            directory.mkdir(parents=True, exist_ok=True)
        dist.barrier()
        self._expected = {} if is_baseline else json.loads((directory / _DIGESTS).read_text(encoding="utf-8"))

    @torch.no_grad()
    def take(
        self,
        shard: Shard,
        full: torch.Tensor,
        *,
        look: Callable[[torch.Tensor], None] | None = None,
        where: Iterable[Elements] | None = None,
        way: Way | None = None,
    ) -> None:
        """Save or compare one full tensor; called by every rank that holds a shard of the parameter.

        Args:
            shard: the rank's shard.
            full: float32, in the canonical shape.
            look: called with every chunk of the baseline's tensor.
            where: masks of the elements to compare, in chunks; None for all.
            way: of an update, how far it may go; the difference along the starting weights is measured as well.
        """
        if not hashes(shard):
            return
        self._digests[shard.name] = digest(full)
        if not speaks_for(shard):
            return
        if self._is_baseline:
            write(path_of(self._directory, shard.name), full)
            return
        if self._digests[shard.name] == self._expected[shard.name]:
            # Equal in every bit: nothing needs to be read.
            expected, where, way = chunks(full), None, None
        else:
            expected = stream(path_of(self._directory, shard.name), full.device)
        self._found.append(difference(shard, full, _shown(expected, look), where=where, way=way))

    def merge(self, what: str) -> tuple[tuple[ParameterDifference, ...], str | None]:
        """Return the differences of all ranks, and the first tensor whose copies differ; the same on every rank.

        `what` names the kind of the tensors. Collective over the world.
        """
        mine = (json.dumps(self._digests), [one.model_dump_json() for one in self._found])
        everyone: list[tuple[str, list[str]]] = [("", [])] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        digests = [json.loads(held) for held, _ in everyone]
        if self._is_baseline and dist.get_rank() == 0:
            together = {name: found for held in digests for name, found in held.items()}
            write_atomically(self._directory / _DIGESTS, json.dumps(together).encode())
        problem = diverged(digests, self._topology.layout, what=what)
        texts = (text for _, some in everyone for text in some)
        return tuple(ParameterDifference.model_validate_json(text) for text in texts), problem


def difference(
    shard: Shard,
    found: torch.Tensor,
    expected: Iterator[torch.Tensor],
    *,
    where: Iterable[Elements] | None = None,
    way: Way | None = None,
) -> ParameterDifference:
    """Compare a tensor with the baseline's: Frobenius norms, largest elements, and the multiple that fits best."""
    sums = _Sums(shard, found.device, way)
    kept = cycle([None]) if where is None else where
    starts = cycle([None]) if way is None else chunks(way.start)
    for parts in zip(chunks(found), expected, kept, starts, strict=False):
        sums.add(*parts)
    return sums.difference()


def _shown(parts: Iterator[torch.Tensor], look: Callable[[torch.Tensor], None] | None) -> Iterator[torch.Tensor]:
    for part in parts:
        if look is not None:
            look(part)
        yield part


class _Sums:
    """Sums over the chunks of a tensor, kept on its device: the host waits once, at the end."""

    def __init__(self, shard: Shard, device: torch.device, way: Way | None) -> None:
        """Start at zero."""
        self._shard = shard
        self._way = way
        self._start = 0
        self._products, self._maxima, self._slices = (
            torch.zeros(size, dtype=torch.float64, device=device) for size in (6, 4, shard.num_slices)
        )

    def add(
        self, found: torch.Tensor, expected: torch.Tensor, kept: Elements | None, start: torch.Tensor | None
    ) -> None:
        """Add a chunk, or the significant elements of it, and of an update its part along the starting weights."""
        ours, theirs = found.double(), expected.double()
        if start is not None:
            self._add_way(ours, theirs, kept, start.double())
        if kept is not None:
            ours, theirs = ours * kept.significant, theirs * kept.significant
        off = ours - theirs
        direction = off.new_zeros(()) if start is None else start.double()
        pairs = ((ours, ours), (ours, theirs), (theirs, theirs), (off, off), (off, direction), (direction, direction))
        self._products += torch.stack([(one * other).sum() for one, other in pairs])
        self._maxima[:2] = torch.maximum(self._maxima[:2], torch.stack([theirs.abs().max(), off.abs().max()]))
        if len(self._slices) > 1:
            owner = self._shard.owners(self._start, len(off), off.device)
            self._slices += torch.stack([(off.square() * (owner == k)).sum() for k in range(len(self._slices))])
        self._start += len(off)

    def _add_way(self, ours: torch.Tensor, theirs: torch.Tensor, kept: Elements | None, start: torch.Tensor) -> None:
        """Add what a weight moved besides its decay, and errors of weights that had no gradient, beyond rounding."""
        assert self._way is not None
        rounding = self._way.resolution * start.abs()
        moved = ((ours - self._way.decay * start).abs() - rounding).max()
        wrong = moved.new_zeros(())
        if kept is not None:
            wrong = (((ours - theirs).abs() - rounding) * kept.untouched).max()
        self._maxima[2:] = torch.maximum(self._maxima[2:], torch.stack([moved, wrong]))

    def difference(self) -> ParameterDifference:
        """Return the result; waits for the device."""
        square, cross, expected_square, error_square, along, weights_square = self._products.tolist()
        largest, largest_error, moved, wrong = self._maxima.tolist()
        way = self._way
        scale = cross / expected_square if expected_square else None
        return ParameterDifference(
            parameter=self._shard.name,
            module=self._shard.module,
            norm=_finite(math.sqrt(square)),
            baseline_norm=_finite(math.sqrt(expected_square)),
            error_norm=_finite(math.sqrt(error_square)),
            scale=_finite(scale),
            unscaled_error_norm=None if scale is None else _finite(math.sqrt(max(0.0, square - scale * cross))),
            baseline_max=_finite(largest),
            error_max=_finite(largest_error),
            slice_error_norms=_norms(self._slices.tolist()) if error_square > 0.0 and len(self._slices) > 1 else (),
            resolution_norm=None if way is None else _finite(way.resolution * math.sqrt(weights_square)),
            longest_way=None if way is None or not way.longest else _finite(moved / way.longest),
            untouched_error=None if way is None or not way.longest else _finite(wrong / way.longest),
            along_weights_share=(
                _finite(along**2 / (error_square * weights_square)) if error_square and weights_square else None
            ),
        )


def _norms(squares: list[float]) -> tuple[float, ...]:
    """Return norms by tensor-parallel rank; none if one is not finite."""
    return tuple(math.sqrt(square) for square in squares) if all(map(math.isfinite, squares)) else ()


def hashes(shard: Shard) -> bool:
    """Return True if this rank hashes a full tensor, of the ranks that gathered it together.

    One rank hashes each set of shards, and every rank its copy of a replicated tensor. All copies are compared, and
    none is hashed twice.
    """
    return shard.num_slices == 1 or shard.tp_group.rank() == _dealt(shard) % shard.num_slices


def speaks_for(shard: Shard) -> bool:
    """Return True if this rank reads or writes the file of the parameter, of all ranks that hold it.

    Parameters are spread over replicas and shards, so that all ranks of a stage compare at the same time.
    """
    return shard.holder == _dealt(shard) and not shard.is_copy


def _dealt(shard: Shard) -> int:
    return crc32(shard.name.encode()) % shard.num_holders


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
