"""Energy, clocks and heat by a driver made by hand: what it does not tell is unknown, and strangers are named."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from mimo_bench.meters.energy import EnergyMeter, processes_on
from mimo_bench.record import DeviceProcess, RankRecord
from mimo_bench.record.merge import foreign_processes
from tests.support import golden

POWER_CAP, HARDWARE_SLOWDOWN, TOO_HOT, IDLE = 0x4, 0x8, 0x40, 0x1


class Driver:
    """What NVML says; a reading that is None is not supported."""

    def __init__(self) -> None:
        """An H200 at work."""
        self.now = 100.0
        self.millijoules: int | None = 5_000_000
        self.reasons: int | None = 0
        self.names: dict[int, str] = {7: "/usr/bin/python3"}

    def answers(self) -> dict[str, Callable[..., Any]]:
        """The functions of NVML that the meter asks."""
        return {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
            "nvmlDeviceGetTotalEnergyConsumption": lambda _: self._told(self.millijoules),
            "nvmlDeviceGetCurrentClocksEventReasons": lambda _: self._told(self.reasons),
            "nvmlDeviceGetPowerUsage": lambda _: 612_500,
            "nvmlDeviceGetTemperature": lambda _, __: 61,
            "nvmlDeviceGetClockInfo": lambda _, kind: {pynvml.NVML_CLOCK_SM: 1755, pynvml.NVML_CLOCK_MEM: 3201}[kind],
            "nvmlDeviceGetComputeRunningProcesses": lambda _: [
                SimpleNamespace(pid=7, usedGpuMemory=3 << 20),
                SimpleNamespace(pid=9, usedGpuMemory=None),
            ],
            "nvmlSystemGetProcessName": lambda pid: self._told(self.names.get(pid)),
        }

    def _told[T](self, value: T | None) -> T:
        if value is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    for name, answer in made.answers().items():
        monkeypatch.setattr(pynvml, name, answer)
    monkeypatch.setattr("mimo_bench.meters.energy.time.monotonic", lambda: made.now)
    return made


def test_energy_is_what_the_counter_went_on_by_over_a_long_enough_window(driver: Driver) -> None:
    meter = EnergyMeter("GPU-0")
    driver.now, driver.millijoules = 112.0, 12_200_000
    found = meter.read()
    assert (found.window_seconds, found.joules) == (12.0, 7200.0)
    assert (found.after.temperature_celsius, found.after.sm_clock_mhz, found.after.power_watts) == (61, 1755, 612.5)


@pytest.mark.parametrize(("seconds", "millijoules"), [(9.9, 12_200_000), (12.0, None)])
def test_a_short_window_and_a_device_without_a_counter_have_no_energy(
    driver: Driver, seconds: float, millijoules: int | None
) -> None:
    meter = EnergyMeter("GPU-0")
    driver.now, driver.millijoules = 100.0 + seconds, millijoules
    assert meter.read().joules is None


def test_why_clocks_are_held_down_is_told_at_both_edges_and_idleness_is_no_reason(driver: Driver) -> None:
    driver.reasons = IDLE
    meter = EnergyMeter("GPU-0")
    driver.reasons = POWER_CAP | TOO_HOT
    found = meter.read()
    assert found.before.throttle_reasons == ()
    assert found.after.throttle_reasons == ("power cap by software", "too hot, by hardware")


def test_a_driver_that_does_not_say_why_clocks_are_down_is_not_taken_to_say_that_they_are_up(driver: Driver) -> None:
    driver.reasons = None
    assert EnergyMeter("GPU-0").read().after.throttle_reasons is None


def rank(pid: int, *processes: DeviceProcess) -> RankRecord:
    """A rank that is process `pid` and saw `processes` on its device."""
    one = golden.ranks(golden.BASELINE)[0]
    return one.model_copy(update={"pid": pid, "processes": processes})


def test_a_process_on_a_device_that_is_no_rank_is_named_with_what_it_holds(driver: Driver) -> None:
    seen = processes_on("GPU-0")
    assert foreign_processes([rank(7, *seen), rank(8)]) == "process 9 holds memory of GPU-0"
    assert foreign_processes([rank(9, *seen), rank(8)]) == "process 7 holds 3 MiB of GPU-0"
    assert foreign_processes([rank(7, *seen), rank(9, *seen)]) is None


def test_the_server_of_mps_is_nobody(driver: Driver) -> None:
    driver.names[9] = "/usr/bin/nvidia-cuda-mps-server"
    assert [one.pid for one in processes_on("GPU-0")] == [7]


def test_where_the_driver_numbers_processes_otherwise_more_of_them_than_ranks_tell(driver: Driver) -> None:
    seen = processes_on("GPU-0")
    assert foreign_processes([rank(1, seen[0])]) is None
    assert foreign_processes([rank(1, *seen), rank(2, *seen)]) is None
    assert foreign_processes([rank(1, *seen)]) == (
        "GPU-0 has 2 processes and ours are 1 of them, as the driver numbers them: 7 with 3 MiB, 9 with memory"
    )


def test_each_device_is_judged_by_its_own_processes(driver: Driver) -> None:
    # Where the one host numbers as we do, and the other does not.
    far = [one.model_copy(update={"device_uuid": "GPU-1", "pid": one.pid + 70}) for one in processes_on("GPU-1")]
    elsewhere = rank(8, *far).model_copy(update={"host": "bench-2"})
    said = foreign_processes([rank(7, *processes_on("GPU-0")), elsewhere])
    assert said is not None
    assert said.startswith("process 9 holds memory of GPU-0; GPU-1 has 2 processes and ours are 1 of them")


def test_a_number_that_a_rank_has_on_another_host_is_no_excuse(driver: Driver) -> None:
    seen = processes_on("GPU-0")
    elsewhere = rank(9).model_copy(update={"host": "bench-2"})
    assert foreign_processes([rank(7, *seen), elsewhere]) == "process 9 holds memory of GPU-0"
