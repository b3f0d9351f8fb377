"""How many GPUs this process may use, found without torch: asking torch would cost seconds and a CUDA context.

Ranks may share a GPU, for whoever has fewer of them than a layout has ranks: every kernel and every call of NCCL is
then the real one, and no time means anything.
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
    """GPUs of this machine that `CUDA_VISIBLE_DEVICES` leaves visible; 0 where there is no driver."""
    num_installed = _num_by_nvml()
    if num_installed is None:
        num_installed = len(list(DRIVER_FOLDER.iterdir())) if DRIVER_FOLDER.is_dir() else 0
    entries = _visible()
    return num_installed if entries is None else min(num_installed, len(entries))


def ranks_per_gpu() -> int:
    """How many ranks a GPU may be shared by; 1 unless the environment says more.

    Raises:
        UsageError: it says no number.
    """
    asked = os.environ.get(RANKS_PER_GPU, "1")
    if not asked.isdecimal() or int(asked) < 1:
        raise UsageError(f"{RANKS_PER_GPU}: {asked!r}: give the number of ranks that may share a GPU, such as 4")
    return int(asked)


def num_places() -> int:
    """How many ranks this machine's visible GPUs have room for."""
    return num_gpus() * ranks_per_gpu()


def is_visible(index: int, uuid: str) -> bool:
    """Whether `CUDA_VISIBLE_DEVICES` leaves this GPU visible; it may list indices, or beginnings of UUIDs."""
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
