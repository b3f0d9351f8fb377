"""How many GPUs this process may use, found without torch: asking torch would cost seconds and a CUDA context."""

from __future__ import annotations

import os
from pathlib import Path

import pynvml

DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
"""One folder per GPU, there as soon as the kernel module is, also where NVML's library is missing."""


def num_gpus() -> int:
    """GPUs of this machine that `CUDA_VISIBLE_DEVICES` leaves visible; 0 where there is no driver."""
    num_installed = _num_by_nvml()
    if num_installed is None:
        num_installed = len(list(DRIVER_FOLDER.iterdir())) if DRIVER_FOLDER.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return num_installed
    # CUDA ends the list at its first entry that is no device, by convention an empty one or -1.
    entries = [entry.strip() for entry in visible.split(",")]
    ends = [index for index, entry in enumerate(entries) if entry in ("", "-1")]
    return min(num_installed, ends[0] if ends else len(entries))


def _num_by_nvml() -> int | None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()
