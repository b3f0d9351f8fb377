from .inventory import RANKS_PER_GPU, device_memory_bytes, is_visible, num_gpus, num_places, ranks_per_gpu
from .job import Job, Outcome
from .launcher import DeviceKind, Launcher
from .progress import beat

__all__ = [
    "RANKS_PER_GPU",
    "DeviceKind",
    "Job",
    "Launcher",
    "Outcome",
    "beat",
    "device_memory_bytes",
    "is_visible",
    "num_gpus",
    "num_places",
    "ranks_per_gpu",
]
