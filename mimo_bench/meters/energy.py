"""Energy and state of one device, by the driver: its energy counter, clocks, heat, and processes on it.

Read at the edges of the timed window only, by the one rank that has the device; nothing runs during the steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml

from mimo_bench.record import MIN_ENERGY_WINDOW_SECONDS, DeviceProcess, DeviceState, RankEnergy

_THROTTLES = {
    0x4: "power cap by software",
    0x8: "slowdown by hardware",
    0x10: "kept with other devices",
    0x20: "too hot, by software",
    0x40: "too hot, by hardware",
    0x80: "power brake by hardware",
}
"""Bits of the driver's clock event reasons. Idleness and clocks that users set are no slowdowns."""

_MPS_SERVER = "nvidia-cuda-mps-server"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    at: float
    millijoules: int | None
    state: DeviceState


class EnergyMeter:
    """Energy and state of one device from here until `read`."""

    def __init__(self, device_uuid: str) -> None:
        """The window begins."""
        self._uuid = device_uuid
        self._before = _read(device_uuid)

    def read(self) -> RankEnergy:
        """The window ends; the caller has waited for the device."""
        after, before = _read(self._uuid), self._before
        seconds = after.at - before.at
        is_known = None not in (after.millijoules, before.millijoules) and seconds >= MIN_ENERGY_WINDOW_SECONDS
        return RankEnergy(
            device_uuid=self._uuid,
            window_seconds=seconds,
            joules=((after.millijoules or 0) - (before.millijoules or 0)) / 1e3 if is_known else None,
            before=before.state,
            after=after.state,
        )


def processes_on(device_uuid: str) -> tuple[DeviceProcess, ...]:
    """Every process that computes on a device; clients of NVIDIA's MPS are among them, its own server is not."""
    pynvml.nvmlInit()
    try:
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByUUID(device_uuid))
        return tuple(
            DeviceProcess(
                device_uuid=device_uuid,
                pid=int(process.pid),
                used_bytes=None if process.usedGpuMemory is None else int(process.usedGpuMemory),
            )
            for process in running
            if not _is_mps_server(int(process.pid))
        )
    finally:
        pynvml.nvmlShutdown()


def _is_mps_server(pid: int) -> bool:
    """Return True if a process is the server of those that share the device, and computes nothing of its own."""
    try:
        return str(pynvml.nvmlSystemGetProcessName(pid)).endswith(_MPS_SERVER)
    except pynvml.NVMLError:
        return False


def _read(device_uuid: str) -> _Reading:
    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(device_uuid)
        return _Reading(
            at=time.monotonic(),
            millijoules=_asked(lambda: int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))),
            state=_state(handle),
        )
    finally:
        pynvml.nvmlShutdown()


def _state(handle: Any) -> DeviceState:
    reasons = _asked(lambda: int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)))
    milliwatts = _asked(lambda: int(pynvml.nvmlDeviceGetPowerUsage(handle)))
    return DeviceState(
        temperature_celsius=_asked(lambda: int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))),
        sm_clock_mhz=_asked(lambda: int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))),
        memory_clock_mhz=_asked(lambda: int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM))),
        power_watts=None if milliwatts is None else milliwatts / 1e3,
        throttle_reasons=None if reasons is None else tuple(name for bit, name in _THROTTLES.items() if reasons & bit),
    )


def _asked(read: Callable[[], int]) -> int | None:
    """Return the driver's answer; None if this device or driver gives none."""
    try:
        return read()
    except pynvml.NVMLError:
        return None
