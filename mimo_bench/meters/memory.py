"""Device memory of one rank: the allocator's peaks, and what the whole device holds, context and NCCL included."""

from __future__ import annotations

import pynvml
import torch

from mimo_bench.record.schema import RankMemory


def reset_peaks() -> None:
    """Start a window: peaks before it do not count. Nothing waits."""
    torch.cuda.reset_peak_memory_stats()


def read_memory() -> RankMemory:
    """Peaks since the window began, and the device now; one NVML query, nothing waits for the device."""
    return RankMemory(
        device_uuid=_uuid(),
        peak_allocated_bytes=torch.cuda.max_memory_allocated(),
        peak_reserved_bytes=torch.cuda.max_memory_reserved(),
        device_used_bytes=_device_used_bytes(),
    )


def _uuid() -> str:
    """The UUID of this rank's device; an index would mean another device under CUDA_VISIBLE_DEVICES."""
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def _device_used_bytes() -> int:
    pynvml.nvmlInit()
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(_uuid())).used)
    finally:
        pynvml.nvmlShutdown()
