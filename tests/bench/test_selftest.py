"""Which layout shows which fault, and what the selftest's table says; `.ci/run` runs it whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_bench.bench.gate.campaign import Campaign
from mimo_bench.bench.gate.selftest import (
    COMPANION,
    SELFTEST,
    Part,
    choose_layouts,
    left_out,
    list_faults,
    plan_selftest,
    run_selftest,
)
from mimo_bench.cli import app as cli
from mimo_bench.cli.exits import BAD_INPUT
from mimo_bench.layout.tables import LayoutTable
from mimo_bench.parity.faults.catalogue import KNOWN, known_faults
from mimo_bench.parity.faults.sites import Site
from mimo_bench.parity.verdict import Measured, judge_reference
from mimo_bench.record import ReferenceVerdict
from mimo_bench.record.gate import Finding, HeldBaseline, Selftest, Trial
from mimo_bench.report.gate import describe_finding, render_selftest
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"
SMOKE = load_scenario(SCENARIOS / "cpu_smoke.toml")


NEED_AN_OUTPUT_LAYER = {"rows-without-a-gradient-grow", "rows-without-a-gradient-not-decayed"}
"""Faults that no layout with tied embeddings shows: the output layer gives each row of the embedding a gradient."""


def only(scenario: Scenario, *names: str) -> Scenario:
    """The scenario with these layouts alone."""
    return scenario.model_copy(update={"layout": tuple(scenario.table(name) for name in names)})


def planted(parts: tuple[Part, ...]) -> dict[str, str]:
    """Every fault with the scenario that it is planted in."""
    return {fault: part.origin for part in parts for fault in part.layouts}


@pytest.mark.parametrize("file", sorted(SCENARIOS.glob("*.toml")), ids=lambda file: file.stem)
def test_every_fault_is_planted_whatever_the_scenario_lacks(file: Path) -> None:
    parts = plan_selftest(load_scenario(file))
    shape = parts[0].scenario.shape.language
    assert set(KNOWN) - set(planted(parts)) == (NEED_AN_OUTPUT_LAYER if shape.tied_embeddings else set())
    assert left_out(parts) == sorted(set(KNOWN) - set(planted(parts)))
    for part in parts:
        assert part.scenario.baseline not in part.layouts.values()


def test_what_the_smoke_scenario_lacks_comes_from_the_companion() -> None:
    companions = {fault for fault, origin in planted(plan_selftest(SMOKE)).items() if origin == "companion"}
    assert companions == {
        "encoder-rests-without-images",
        "overlapped-reduction-skipped",
        "tied-embedding-gradients-not-reduced",
        "uneven-rows-split-evenly",
    }


def test_the_companion_alone_shows_every_fault_but_those_of_rows_without_a_gradient() -> None:
    part = plan_selftest(load_scenario(COMPANION))[0]
    assert part.origin == "given"
    assert set(part.layouts) == set(KNOWN) - NEED_AN_OUTPUT_LAYER


def test_a_scenario_of_a_baseline_alone_has_it_tried_and_every_fault_planted_elsewhere() -> None:
    given, companion = plan_selftest(only(SMOKE, SMOKE.baseline))
    assert (given.origin, given.layouts, given.modes(SMOKE.baseline)) == ("given", {}, ("parity",))
    assert set(companion.layouts) == set(KNOWN) - NEED_AN_OUTPUT_LAYER


def test_on_two_gpus_only_faults_are_planted_whose_layouts_fit() -> None:
    parts = plan_selftest(SMOKE, num_ranks=2)
    sizes = {part.scenario.table(layout).grids().world_size for part in parts for layout in part.layouts.values()}
    assert sizes <= {1, 2}
    assert {"bridge-gradient-doubled", "layer-norm-gradients-not-reduced"} <= set(planted(parts))
    assert left_out(parts) == [
        "encoder-stages-skipped",
        "gradient-of-one-stage-doubled",
        "process-groups-crossed",
        "tied-embedding-gradients-not-reduced",
        "uneven-rows-split-evenly",
    ]
    assert left_out(plan_selftest(SMOKE, num_ranks=5)) == []


def degree(table: LayoutTable, module: str, axis: str) -> int:
    found: int = getattr(table.grids().modules[module], axis)
    return found


def test_a_fault_is_planted_where_it_shows() -> None:
    layouts = choose_layouts(SMOKE, KNOWN)
    unequal = SMOKE.table(layouts["encoder-gradient-scaled-by-dp-ratio"])
    assert degree(unequal, "vision", "dp") != degree(unequal, "language", "dp")
    assert SMOKE.table(layouts["layer-norm-gradients-not-reduced"]).settings.sequence_parallel
    assert degree(SMOKE.table(layouts["replica-reduction-skipped"]), "vision", "dp") > 1
    sliced = SMOKE.table(layouts["weights-drawn-by-shard"])
    assert max(degree(sliced, "vision", "tp"), degree(sliced, "language", "tp")) > 1


def test_a_fault_that_nothing_but_chance_would_show_is_not_planted() -> None:
    uneven = load_scenario(SCENARIOS / "uneven_images.toml")
    # Two samples of nine have no image, and a replica reads two: one micro-batch in twenty, and 14 end a step.
    assert not Site.of(uneven, "colocated-dp2").meets_empty_replica
    assert Site.of(load_scenario(COMPANION), "colocated-dp2").meets_empty_replica
    even = SMOKE.model_copy(update={"global_micro_batch_size": 8})
    assert "micro-batches-averaged" in choose_layouts(SMOKE, KNOWN)
    assert "micro-batches-averaged" not in choose_layouts(even, KNOWN)


def test_a_layout_must_pass_as_timed_only_where_a_fault_shows_as_timed() -> None:
    given, companion = plan_selftest(SMOKE)
    assert given.modes(given.scenario.baseline) == given.modes("colocated-tp2-dp2") == ("parity", "timing")
    assert given.modes("vision-1--language-1") == ("parity",)
    assert companion.modes("one-rank") == companion.modes("colocated-dp2") == ("parity", "timing")
    assert companion.modes("vision-pp2--language-pp2") == ("parity",)


def test_every_fault_is_listed_with_its_check_and_where_to_find_its_layout() -> None:
    lines = list_faults(plan_selftest(SMOKE))
    assert len(lines) == len(known_faults())
    assert "kill-rank: crashed, in colocated-1-rank" in lines
    assert f"tied-embedding-gradients-not-reduced: replicas, in vision-pp2--language-pp2 of {COMPANION}" in lines
    slow = "by no check, as training stays right; the meters and `run --gate-performance` show it"
    assert f"slow-rank: {slow}" in lines
    assert "no layout" not in "".join(lines)
    assert any(
        line.endswith("in no layout that the ranks here can hold")
        for line in list_faults(plan_selftest(SMOKE, num_ranks=1))
    )


def test_every_fault_is_listed_without_a_file_and_nothing_is_planted_without_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["selftest", "--list", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(known_faults())
    assert f"kill-rank: crashed, in colocated-dp2 of {COMPANION}" in lines
    assert cli.main(["selftest", "--device", "cpu"]) == BAD_INPUT
    assert "name a FILE, such as scenarios/cpu_smoke.toml, or give --list" in capsys.readouterr().err


TRIAL = Trial(
    scenario="given", fault="kill-rank", layout="a", expected="crashed", found="crashed", reason="rank 1 was killed"
)
MISSED = Trial(
    scenario="companion",
    fault="weights-of-another-seed",
    layout="b",
    expected="static",
    found="passed",
    reason="2 steps agree",
)


def held(found: ReferenceVerdict) -> HeldBaseline:
    return HeldBaseline(scenario="given", layout="one-rank", model="llava-tiny", held=found)


PROVEN = held(
    judge_reference(Measured(loss_rel=1e-7, parameter="lm_head.weight", gradient_rel=2e-6, num_gradients=112))
)
WRONG = held(judge_reference(Measured(loss_rel=3e-4, parameter="lm_head.weight", gradient_rel=0.5, num_gradients=112)))
UNHELD = held(ReferenceVerdict(verdict="no counterpart", reason="transformers has no such model"))


def found(*trials: Trial, baselines: tuple[HeldBaseline, ...] = (PROVEN,)) -> Selftest:
    return Selftest(command=("mimo-bench", "selftest"), trials=trials, baselines=baselines)


def test_a_fault_caught_by_another_check_or_not_at_all_is_not_as_expected() -> None:
    assert (TRIAL.is_right, MISSED.is_right) == (True, False)
    assert found(TRIAL).is_right
    assert not found(TRIAL, MISSED).is_right
    text = render_selftest(found(TRIAL, MISSED))
    assert text.startswith("# Selftest: 1 of 2 as expected; 1 of 1 baselines agree with transformers")
    assert "| weights-of-another-seed | b (companion) | static | passed | NO | 2 steps agree |" in text
    assert describe_finding(MISSED).startswith("FAIL weights-of-another-seed in b of the companion")


def test_nothing_tried_proves_nothing() -> None:
    assert not found().is_right


def test_a_baseline_that_is_not_what_transformers_computes_fails_the_selftest() -> None:
    assert PROVEN.held.verdict == "passed"
    assert WRONG.held.verdict == "failed"
    assert WRONG.held.reason == "the loss is off by 0.0003 and the gradient of lm_head.weight is off by 0.5 of its norm"
    assert not found(TRIAL, baselines=(PROVEN, WRONG)).is_right
    assert "| llava-tiny (given) | 3.0e-04 | 1.0e-05 | 5.0e-01 | 1.0e-05 | failed |" in render_selftest(
        found(TRIAL, baselines=(WRONG,))
    )


def test_an_error_that_is_no_number_is_no_agreement() -> None:
    for numbers in ({"loss_rel": float("nan"), "gradient_rel": 0.0}, {"loss_rel": 0.0, "gradient_rel": float("nan")}):
        assert judge_reference(Measured(parameter="lm_head.weight", num_gradients=1, **numbers)).verdict == "failed"


def test_an_account_that_lacks_planned_trials_is_not_right() -> None:
    partial = found(TRIAL).model_copy(update={"num_planned": 3})
    assert not partial.is_right
    assert partial.summary.startswith("1 of 1 as expected, of 3 planned; ")
    assert found(TRIAL).model_copy(update={"num_planned": 1}).is_right


@pytest.mark.usefixtures("warm_commands")
def test_a_selftest_that_is_stopped_is_resumed_without_the_trials_that_it_has(tmp_path: Path) -> None:
    scenario = only(load_scenario(COMPANION), "one-rank", "colocated-vision-dp4-language-tp2-dp2")
    layout = scenario.names[1]
    part = Part(origin="given", scenario=scenario, layouts={"weights-of-another-seed": layout, "kill-rank": layout})
    campaign = Campaign(directory=tmp_path, device_kind="cpu")

    def stop(finding: Finding) -> None:
        if isinstance(finding, Trial) and finding.fault is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_selftest(campaign, [part], on_finding=stop)
    earlier = SELFTEST.read(tmp_path)
    assert earlier is not None
    assert [trial.fault for trial in earlier.trials] == [None, None, "weights-of-another-seed"]
    assert not earlier.is_right
    assert not (tmp_path / "baseline").exists()
    marked = [trial.model_copy(update={"reason": "from before"}) for trial in earlier.trials]
    resumed = run_selftest(
        campaign, [part], on_finding=lambda _: None, earlier=earlier.model_copy(update={"trials": tuple(marked)})
    )
    assert resumed.is_right
    assert {trial.fault or trial.layout: trial.reason == "from before" for trial in resumed.trials} == {
        "one-rank": False,
        layout: True,
        "weights-of-another-seed": True,
        "kill-rank": False,
    }
    assert SELFTEST.read(tmp_path) == resumed


def test_a_model_without_a_counterpart_is_said_to_be_unproven_and_does_not_count_as_proven() -> None:
    text = render_selftest(found(TRIAL, baselines=(UNHELD,)))
    assert "0 of 1 baselines agree with transformers" in text
    assert "| llava-tiny (given) | - | - | - | - | no counterpart | transformers has no such model |" in text
    assert describe_finding(UNHELD).startswith("-    transformers on one-rank: no counterpart: ")
    assert found(TRIAL, baselines=(UNHELD,)).is_right
