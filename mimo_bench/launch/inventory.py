"""GPUs that this process may use, found without torch, which would cost seconds and a CUDA context.

Ranks may share a GPU if a layout has more ranks than the machine has GPUs. Kernels and calls of NCCL are then real, and
times mean nothing.
"""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path

import pynvml

from mimo_bench.util import UsageError

RANKS_PER_GPU = "MIMO_BENCH_RANKS_PER_GPU"

DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
"""One folder per GPU, there as soon as the kernel module is, also where NVML's library is missing."""


def num_gpus() -> int:
    """Return the number of GPUs that `CUDA_VISIBLE_DEVICES` leaves visible; 0 without a driver."""
    num_installed = _num_by_nvml()
    if num_installed is None:
        num_installed = len(list(DRIVER_FOLDER.iterdir())) if DRIVER_FOLDER.is_dir() else 0
    entries = _visible()
    return num_installed if entries is None else min(num_installed, len(entries))


def ranks_per_gpu() -> int:
    """Return the number of ranks that may share a GPU; 1 unless the environment says more.

    Raises:
        UsageError: it says no number.
    """
    asked = os.environ.get(RANKS_PER_GPU, "1")
    if not asked.isdecimal() or int(asked) < 1:
        raise UsageError(f"{RANKS_PER_GPU}: {asked!r}: give the number of ranks that may share a GPU, such as 4")
    return int(asked)


def num_places() -> int:
    """Return the number of ranks that the visible GPUs have room for."""
    return num_gpus() * ranks_per_gpu()


def is_visible(index: int, uuid: str) -> bool:
    """Return True if `CUDA_VISIBLE_DEVICES` leaves this GPU visible; it lists indices, or beginnings of UUIDs."""
    entries = _visible()
    return entries is None or any(entry == str(index) or uuid.startswith(entry) for entry in entries)


def _visible() -> list[str] | None:
    """The entries of `CUDA_VISIBLE_DEVICES`; None where it is not set."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return None
    # CUDA ends the list at its first entry that is no device, by convention an empty one or -1.
    entries = [entry.strip() for entry in listed.split(",")]
    return list(takewhile(lambda entry: entry not in ("", "-1"), entries))


def _num_by_nvml() -> int | None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


def device_memory_bytes() -> int | None:
    """Memory of the smallest visible GPU; None where there is none, or the driver does not tell."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        visible = [
            handle for index, handle in enumerate(handles) if is_visible(index, str(pynvml.nvmlDeviceGetUUID(handle)))
        ]
        return min((int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in visible), default=None)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
