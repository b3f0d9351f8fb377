from .inventory import RANKS_PER_GPU, cpu_quota, device_memory_bytes, num_gpus, num_places, ranks_per_gpu, visible_gpus
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
    "cpu_quota",
    "device_memory_bytes",
    "num_gpus",
    "num_places",
    "ranks_per_gpu",
    "visible_gpus",
]
