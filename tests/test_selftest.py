"""Which layout shows which fault, and what the selftest's table says; `.ci/run` runs it whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_bench.errors import FaultError
from mimo_bench.parity.planting import KNOWN
from mimo_bench.scenario import LayoutTable, Scenario, load_scenario
from mimo_bench.selftest import Trial, choose_layouts, render

SMOKE = load_scenario(Path(__file__).parents[1] / "scenarios" / "cpu_smoke.toml")


def only(scenario: Scenario, *names: str) -> Scenario:
    """The scenario with these layouts alone."""
    return scenario.model_copy(update={"layout": tuple(scenario.table(name) for name in names)})


def test_every_fault_has_a_layout_of_the_smoke_scenario_and_none_is_the_baseline() -> None:
    layouts = choose_layouts(SMOKE)
    assert set(layouts) == set(KNOWN)
    assert SMOKE.baseline not in layouts.values()


def test_on_two_gpus_only_faults_are_planted_whose_layouts_fit() -> None:
    layouts = choose_layouts(SMOKE, num_ranks=2)
    assert {SMOKE.table(layout).grids().world_size for layout in layouts.values()} <= {1, 2}
    assert {"bridge-gradient-doubled", "layer-norm-gradients-not-reduced"} <= set(layouts)
    assert "encoder-gradient-scaled-by-dp-ratio" in choose_layouts(SMOKE, num_ranks=4)


def degree(table: LayoutTable, module: str, axis: str) -> int:
    found: int = getattr(table.grids().modules[module], axis)
    return found


def test_a_fault_is_planted_where_it_shows() -> None:
    layouts = choose_layouts(SMOKE)
    unequal = SMOKE.table(layouts["encoder-gradient-scaled-by-dp-ratio"])
    assert degree(unequal, "vision", "dp") != degree(unequal, "language", "dp")
    assert SMOKE.table(layouts["layer-norm-gradients-not-reduced"]).settings.sequence_parallel
    assert degree(SMOKE.table(layouts["replica-reduction-skipped"]), "vision", "dp") > 1
    sliced = SMOKE.table(layouts["weights-drawn-by-shard"])
    assert max(degree(sliced, "vision", "tp"), degree(sliced, "language", "tp")) > 1


def test_a_scenario_without_a_layout_for_some_fault_is_refused_by_the_faults_name() -> None:
    lacking = only(SMOKE, "colocated-dp2", "colocated-1-rank")
    with pytest.raises(FaultError, match=r"encoder-gradient-scaled-by-dp-ratio: no layout .*cpu_smoke\.toml"):
        choose_layouts(lacking)


def test_a_fault_caught_by_another_check_or_not_at_all_is_not_as_expected() -> None:
    trial = Trial(fault="kill-rank", layout="a", expected="crashed", found="crashed", reason="rank 1 was killed")
    missed = Trial(
        fault="weights-of-another-seed", layout="b", expected="static", found="passed", reason="2 steps agree"
    )
    assert (trial.is_right, missed.is_right) == (True, False)
    text = render([trial, missed])
    assert text.startswith("# Selftest: 1 of 2 as expected")
    assert "| NO |" in text
