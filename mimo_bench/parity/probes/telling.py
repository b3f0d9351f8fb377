"""Which elements of an update tell anything: those whose gradients are more than rounding.

The baseline leaves the mean of every second moment. So a layout marks a parameter's elements while the baseline's
second moments come by to be compared, and keeps one bit of each until the update is compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist

from mimo_bench.parity.probes.stored import chunks
from mimo_bench.util import write_atomically

ROUNDING_SHARE = 1e-3
"""Where updates are compared, an element is left out whose gradients, root mean square over the steps, are below this
share of its parameter's: Adam takes a full step for a gradient that is rounding alone, in whatever direction."""

_BITS = 8


class Means:
    """The means of the baseline's second moments, by parameter."""

    def __init__(self, path: Path, *, is_baseline: bool) -> None:
        """They lie in the file `path`, which the baseline writes."""
        self._path = path
        self._means: dict[str, float] = {} if is_baseline else json.loads(path.read_text(encoding="utf-8"))

    def take(self, parameter: str, second: torch.Tensor) -> None:
        """Add the mean of a full second moment of the baseline's."""
        total = torch.zeros((), dtype=torch.float64, device=second.device)
        for part in chunks(second):
            total += part.sum(dtype=torch.float64)
        self._means[parameter] = (total / second.numel()).item()

    def leave(self) -> None:
        """Write what all ranks of the baseline have taken; collective over the world."""
        everyone: list[dict[str, float]] = [{}] * dist.get_world_size()
        dist.all_gather_object(everyone, self._means)
        if dist.get_rank() == 0:
            together = dict(chain.from_iterable(taken.items() for taken in everyone))
            write_atomically(self._path, json.dumps(together).encode())

    def telling(self, parameter: str) -> Telling:
        """Marks the elements of a parameter as its second moments come by."""
        return Telling(ROUNDING_SHARE**2 * self._means[parameter])


class Telling:
    """The marked elements of one tensor: as it is looked at, so they come back, in chunks; a bit for each is held."""

    def __init__(self, bound: float) -> None:
        """Elements are marked that are more than `bound`."""
        self._bound = bound
        self._packed: list[tuple[torch.Tensor, int]] = []

    def look(self, part: torch.Tensor) -> None:
        """Mark what of a chunk is more."""
        marked = torch.nn.functional.pad((part > self._bound).to(torch.uint8), (0, -len(part) % _BITS)).view(_BITS, -1)
        packed = marked[0].clone()
        for bit in range(1, _BITS):
            packed |= marked[bit] << bit
        self._packed.append((packed, len(part)))

    def __iter__(self) -> Iterator[torch.Tensor]:
        """By chunk, whether each element is marked."""
        for packed, length in self._packed:
            yield torch.cat([(packed >> bit & 1).bool() for bit in range(_BITS)])[:length]
