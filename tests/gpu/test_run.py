"""`mimo-bench run` on real GPUs: the same training as on CPU ranks, and the same order when a rank fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mimo_bench.record import RunRecord
from tests.gpu.running import by_name, hold_against_cpu, run


@pytest.mark.gpu(2)
def test_every_layout_trains_on_gpus_what_it_trains_on_cpu_ranks(
    scenario: Path, measured: RunRecord, tmp_path: Path
) -> None:
    status, on_cpu = run(scenario, tmp_path / "cpu", "--device", "cpu", "--modes", "parity")
    assert status == 0
    hold_against_cpu(measured, on_cpu)


@pytest.mark.gpu(2)
def test_memory_and_communication_are_recorded_by_rank_and_by_group_role(measured: RunRecord) -> None:
    layouts = by_name(measured)
    for layout in layouts.values():
        assert layout.memory is not None
        assert {memory.device_uuid for memory in layout.memory.ranks} == {
            device.uuid for device in measured.environment.devices[: layout.world_size]
        }
        for memory in layout.memory.ranks:
            assert 0 < memory.peak_allocated_bytes <= memory.peak_reserved_bytes <= memory.device_used_bytes
    roles = {name: {entry.role for entry in layout.communication} for name, layout in layouts.items()}
    assert "bridge.vision->language" in roles["disjoint"]
    assert {"bridge.vision->language", "language.tp", "vision.dp-cp"} <= roles["fan-in"]


@pytest.mark.gpu(2)
@pytest.mark.parametrize(
    ("fault", "ended", "reason"),
    [
        ("kill-rank", "crashed", "SIGKILL"),
        ("hang-rank", "timeout", "no progress"),
        ("exhaust-memory", "oom", "rank 1"),
    ],
)
def test_a_rank_that_fails_ends_its_layout_alone(
    scenario: Path, tmp_path: Path, fault: str, ended: str, reason: str
) -> None:
    status, record = run(
        scenario, tmp_path / "out", "--device", "cuda", "--modes", "timing",
        "--hang-limit", "20", "--plant", f"{fault}@fan-in", "--layout", "fan-in", "--layout", "disjoint",
    )  # fmt: skip
    layouts = by_name(record)
    assert status == 3
    assert layouts["fan-in"].status == ended
    assert reason in layouts["fan-in"].reason
    if fault == "exhaust-memory":
        place = tmp_path / "out" / "layouts" / "fan-in" / "timing"
        assert json.loads((place / "rank1.memory.json").read_text())["modules"]
        assert (place / "rank1.memory.pickle").stat().st_size > 0
    # Nothing was asked of parity: what shows that they ran is that they were timed.
    assert all(layouts[name].timing is not None for name in ("colocated", "disjoint"))
