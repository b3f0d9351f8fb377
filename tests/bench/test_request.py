"""Requests, where the answer depends on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_bench.bench.request import check_fits, device_kind, parse_modes, run_directories
from mimo_bench.scenario import Scenario, load_scenario
from mimo_bench.util import UsageError

PATH = Path(__file__).parents[2] / "scenarios" / "cpu_smoke.toml"


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario(PATH)


def check(monkeypatch: pytest.MonkeyPatch, scenario: Scenario, names: list[str], *, available: int) -> None:
    monkeypatch.setattr("mimo_bench.bench.request.num_places", lambda: available)
    check_fits(scenario, PATH, names, device_kind="cuda")


def test_a_layout_that_needs_more_gpus_than_there_are_is_refused_with_what_fits(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(monkeypatch, scenario, [], available=8)
    with pytest.raises(UsageError, match=r"needs 8 GPUs, 2 are visible; use --device cpu, or pick with --layout from "):
        check(monkeypatch, scenario, [], available=2)


def test_only_the_layouts_that_run_have_to_fit_and_the_baseline_always_runs(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(monkeypatch, scenario, ["vision-1--language-1"], available=2)
    with pytest.raises(UsageError, match=r"'colocated-dp2' needs 2 GPUs, 1 are visible; use --device cpu$"):
        check(monkeypatch, scenario, ["colocated-1-rank"], available=1)


def test_cpu_ranks_always_fit(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimo_bench.bench.request.num_places", lambda: 0)
    check_fits(scenario, PATH, [], device_kind="cpu")


def test_auto_takes_cpu_ranks_where_no_gpu_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device_kind("auto") == device_kind("cpu") == "cpu"


def test_modes_run_in_one_order_and_once() -> None:
    assert parse_modes("timing, parity,timing") == ("parity", "timing")


def test_one_file_has_the_directory_to_itself_and_several_get_one_each(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_directories(out, [Path("a.toml")]) == [out]
    assert run_directories(out, [Path("a.toml"), Path("b.toml")]) == [out / "a", out / "b"]
    assert not out.exists()
