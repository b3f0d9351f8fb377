"""Tensors of the baseline on disk, written and read a chunk at a time.

A model's moments and updates are as large as four copies of it, and every layout reads them all: through pinned memory,
by several threads that read ahead, it comes as fast as the page cache gives it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch

CHUNK = 1 << 22
"""Elements that are read, and compared, at a time."""

_NUM_AHEAD = 6
"""Chunks that are being read while one is looked at, each by a thread of its own."""

_BYTES = torch.finfo(torch.float32).bits // 8


def write(path: Path, tensor: torch.Tensor) -> None:
    """Write a float32 tensor's elements in their order, and nothing else."""
    assert tensor.dtype == torch.float32
    with path.open("wb") as file:
        for part in chunks(tensor):
            file.write(memoryview(to_host(part).numpy()))


def stream(path: Path, device: torch.device) -> Iterator[torch.Tensor]:
    """The elements of a file in chunks, on `device`; the next ones are read meanwhile."""
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
    """A tensor's elements in the pieces in which `stream` brings a file."""
    return iter(tensor.flatten().split(CHUNK))


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the host; in pinned memory if it comes from a GPU, which is what makes it fast."""
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
