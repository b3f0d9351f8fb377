from .clock import StepClock, build_clock
from .communication.calls import bus_bytes
from .communication.interception import Interceptor
from .communication.watch import watch_communication
from .cpu_compute import ComputeSpans
from .energy import EnergyMeter, processes_on
from .environment import hash_of_code, hash_of_measuring_code, read_environment
from .memory import (
    ExtraMemory,
    device_uuid,
    held_by_module,
    read_memory,
    reset_peaks,
    snapshot_if_out_of_memory,
    with_parts,
)
from .memory_watch import Allocator, MemoryWatch, PeakStep, watch_peak
from .phase_clock import PhaseClock
from .phases import phases
from .rehearsal import rehearsal
from .unmeasured import Unmeasured

__all__ = [
    "Allocator",
    "ComputeSpans",
    "EnergyMeter",
    "ExtraMemory",
    "Interceptor",
    "MemoryWatch",
    "PeakStep",
    "PhaseClock",
    "StepClock",
    "Unmeasured",
    "build_clock",
    "bus_bytes",
    "device_uuid",
    "hash_of_code",
    "hash_of_measuring_code",
    "held_by_module",
    "phases",
    "processes_on",
    "read_environment",
    "read_memory",
    "rehearsal",
    "reset_peaks",
    "snapshot_if_out_of_memory",
    "watch_communication",
    "watch_peak",
    "with_parts",
]
