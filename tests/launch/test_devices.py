"""How many GPUs this process may use."""

from __future__ import annotations

from pathlib import Path

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
    monkeypatch.setattr(devices, "_num_by_nvml", lambda: None)
    monkeypatch.setattr(devices, "DRIVER_FOLDER", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.num_gpus() == expected


def test_without_a_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_num_by_nvml", lambda: None)
    monkeypatch.setattr(devices, "DRIVER_FOLDER", tmp_path / "none")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.num_gpus() == 0


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [True, True]),
        ("1", [False, True]),
        ("GPU-aa", [True, False]),
        ("", [False, False]),
        ("-1,0", [False, False]),
    ],
)
def test_visible_gpus_are_listed_by_index_or_by_uuid(
    visible: str | None, expected: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [devices.is_visible(index, uuid) for index, uuid in enumerate(("GPU-aa11", "GPU-bb22"))] == expected


def test_ranks_may_share_gpus_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_num_by_nvml", lambda: 2)
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
