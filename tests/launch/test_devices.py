"""GPUs and CPU time that this process may use."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from mimo_bench.launch import inventory as devices
from mimo_bench.util.errors import UsageError


@pytest.mark.parametrize(
    ("visible", "expected"), [("0", 1), ("0,1", 2), ("0, 1 ,2,3", 3), ("", 0), ("-1", 0), ("1,-1,0", 1)]
)
def test_cuda_visible_devices_hides_gpus(
    visible: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(devices, "_uuids_by_nvml", lambda: None)
    monkeypatch.setattr(devices, "DRIVER_FOLDER", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.num_gpus() == expected


def test_without_a_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_uuids_by_nvml", lambda: None)
    monkeypatch.setattr(devices, "DRIVER_FOLDER", tmp_path / "none")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.num_gpus() == 0


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1]),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-aa", [0]),
        ("GPU-bb22,GPU-aa11", [1, 0]),
        ("", []),
        ("-1,0", []),
        ("0,0", []),
        ("0,GPU-aa", []),
        ("0,7,1", [0]),
        ("GPU-", []),
        ("gpu0", []),
        ("none", []),
    ],
)
def test_visible_gpus_are_those_that_cuda_shows(
    visible: str | None, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.visible_gpus(("GPU-aa11", "GPU-bb22")) == expected


@pytest.mark.parametrize(("num_installed", "expected"), [(0, 0), (2, 1)])
def test_a_slice_of_a_gpu_is_one_device(num_installed: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_uuids_by_nvml", lambda: [f"GPU-{index}" for index in range(num_installed)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-11aa,MIG-22bb")
    assert devices.num_gpus() == expected


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put two GPUs into NVML."""
    for name, answer in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=8),
    }.items():
        monkeypatch.setattr(f"pynvml.{name}", answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("nvmlShutdown", 8),
        ("nvmlInit", None),
        ("nvmlDeviceGetCount", None),
        ("nvmlDeviceGetHandleByIndex", None),
        ("nvmlDeviceGetUUID", None),
        ("nvmlDeviceGetMemoryInfo", None),
    ],
)
def test_a_call_of_nvml_that_fails_leaves_the_number_of_gpus_known(
    name: str, memory: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in "ab":
        (tmp_path / number).mkdir()
        (tmp_path / number / "information").write_text(f"Model: made up\nGPU UUID: \t GPU-{number}{number}-1\n")
    monkeypatch.setattr(devices, "DRIVER_FOLDER", tmp_path)

    def fail(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(f"pynvml.{name}", fail)
    assert (devices.num_gpus(), devices.device_memory_bytes()) == (2, memory)
    if name == "nvmlDeviceGetUUID":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bb")
        assert devices.num_gpus() == 1


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/job", {"job/cpu.max": "150000 100000", "cpu.max": "max 100000"}, 1.5),
        ("0::/job/step", {"job/cpu.max": "200000 100000", "job/step/cpu.max": "max 100000"}, 2.0),
        ("0::/job", {"job/cpu.max": "400000 100000"}, None),
        ("4:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "50000", "cpu/job/cpu.cfs_period_us": "100000"}, 0.5),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("4:memory:/job", {}, None),
    ],
)
def test_the_cpu_quota_is_the_least_of_all_control_groups_above(
    groups: str, files: dict[str, str], expected: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    (tmp_path / "groups").write_text(f"{groups}\n")
    monkeypatch.setattr(devices, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(devices, "CONTROL_GROUP_ROOT", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    assert devices.cpu_quota() == expected


def test_ranks_may_share_gpus_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_uuids_by_nvml", lambda: ["GPU-0", "GPU-1"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv(devices.RANKS_PER_GPU, raising=False)
    assert devices.num_places() == 2
    monkeypatch.setenv(devices.RANKS_PER_GPU, "4")
    assert devices.num_places() == 8


@pytest.mark.parametrize("asked", ["0", "-1", "two", ""])
def test_what_is_no_number_of_sharers_is_refused_by_name(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.RANKS_PER_GPU, asked)
    with pytest.raises(UsageError, match=f"MIMO_BENCH_RANKS_PER_GPU: '{asked}'"):
        devices.ranks_per_gpu()
