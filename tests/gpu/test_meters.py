"""What meters say on real GPUs: the account closes, memory has its parts, and no meter failed."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from mimo_bench.launch.inventory import ranks_per_gpu
from mimo_bench.predict.identities import ACCOUNT_TOLERANCE, PARTS_TOLERANCE
from mimo_bench.record import RunRecord
from tests.gpu.running import REPOSITORY, by_name, run


@pytest.mark.gpu(2)
def test_no_meter_fails(measured: RunRecord) -> None:
    assert {layout.name: layout.unmeasured for layout in measured.layouts} == {
        layout.name: {} for layout in measured.layouts
    }
    # Ranks that share a GPU say so; nobody else may be there.
    assert measured.tainted == (f"up to {ranks_per_gpu()} ranks shared a GPU" if ranks_per_gpu() > 1 else None)


@pytest.mark.gpu(2)
def test_a_record_says_how_gpus_are_connected_and_what_was_set(measured: RunRecord) -> None:
    environment = measured.environment
    pairs = combinations(range(len(environment.devices)), 2)
    assert set(environment.topology) == {f"{first}-{second}" for first, second in pairs}
    assert environment.nccl
    assert environment.variables["OMP_NUM_THREADS"]


@pytest.mark.gpu(2)
def test_every_ranks_account_closes_and_every_module_computes(measured: RunRecord) -> None:
    for layout in measured.layouts:
        assert layout.account is not None, layout.name
        for rank in layout.account.ranks:
            parts = rank.compute_seconds + rank.exposed_communication_seconds + rank.idle_seconds
            assert parts == pytest.approx(rank.step_seconds, rel=ACCOUNT_TOLERANCE), (layout.name, rank.rank)
            assert all(rank.compute_seconds_by_module[module] > 0 for module in rank.modules)


@pytest.mark.gpu(2)
def test_calls_are_split_into_transfer_and_wait(measured: RunRecord) -> None:
    disjoint = by_name(measured)["disjoint"]
    bridge = {row.collective: row for row in disjoint.communication if row.role == "bridge.vision->language"}
    assert {"send", "recv"} <= set(bridge)
    timed = [row for row in bridge.values() if row.seconds_per_step]
    assert timed
    assert all(row.transfer_seconds is not None and row.wait_seconds is not None for row in timed)
    assert any(row.exposed_seconds for row in timed)


@pytest.mark.gpu(2)
def test_parts_of_memory_add_up_to_the_peak(measured: RunRecord) -> None:
    for layout in measured.layouts:
        assert layout.memory is not None
        for rank in layout.memory.ranks:
            assert rank.parts is not None
            held = sum(rank.parts.model_dump().values())
            peak = pytest.approx(rank.peak_allocated_bytes, rel=PARTS_TOLERANCE)
            assert held == peak, (layout.name, rank.busiest)
            assert rank.predicted_peak_bytes


@pytest.mark.gpu(2)
def test_what_comparing_takes_beside_the_model_is_known(measured: RunRecord) -> None:
    # The record is held against its identities, the bound of two full tensors among them.
    for layout in measured.layouts:
        assert layout.comparing is not None, layout.name
        assert 0 < layout.comparing.largest_tensor_bytes <= layout.comparing.extra_bytes, layout.name


@pytest.mark.gpu(2)
def test_devices_are_read_at_the_edges_and_a_short_window_has_no_energy(measured: RunRecord) -> None:
    for layout in measured.layouts:
        assert layout.energy is not None
        assert layout.energy.joules_per_step is None
        assert layout.energy.reason is not None
        assert "10 s" in layout.energy.reason
        for device in layout.energy.devices:
            assert device.before.temperature_celsius
            assert device.after.sm_clock_mhz


@pytest.mark.gpu(2)
def test_parts_of_memory_add_up_where_samples_differ_in_images(tmp_path: Path) -> None:
    uneven = REPOSITORY / "scenarios" / "uneven_images.toml"
    # The record is held against its identities, the sum of parts among them.
    status, record = run(uneven, tmp_path, "--device", "cuda", "--modes", "timing", "--layout", "colocated-dp2")
    assert status == 0
    for layout in record.layouts:
        assert layout.memory is not None
        assert all(rank.parts is not None for rank in layout.memory.ranks)
