"""Which equal trainings of a baseline set the noise band, as far as batch, model and world allow."""

from __future__ import annotations

from pathlib import Path

from mimo_bench.layout.tables import GridTable, LayoutTable
from mimo_bench.parity.tolerance import Variant, parity_variants, rounded_variants
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario

SMOKE = load_scenario(Path(__file__).parents[2] / "scenarios" / "cpu_smoke.toml")


def with_baseline(table: LayoutTable, **changes: object) -> Scenario:
    """The smoke scenario with this layout alone."""
    return Scenario.model_validate({**dict(SMOKE), "baseline": table.name, "layout": (table,), **changes})


def trained(variant: Variant) -> LayoutTable:
    return variant.scenario.table(variant.scenario.baseline)


def test_a_baseline_on_two_ranks_is_trained_again_in_four_ways() -> None:
    rerun, jitter, micro, tensor = parity_variants(SMOKE)
    assert [variant.name for variant in (rerun, jitter, micro, tensor)] == [
        "rerun", "jitter", "micro-batches", "tensor-parallel",
    ]  # fmt: skip
    assert rerun.scenario == jitter.scenario == SMOKE
    # Two micro-batches of 4 samples become one of 8.
    assert trained(micro).global_micro_batch_size == 8
    assert trained(micro).grids() == SMOKE.table(SMOKE.baseline).grids()
    assert (trained(tensor).vision, trained(tensor).language) == (GridTable(tp=2), GridTable(tp=2))
    assert trained(tensor).grids().world_size == 2


def test_what_batch_and_world_do_not_allow_is_left_out() -> None:
    alone = with_baseline(
        LayoutTable(name="alone", vision=GridTable(), language=GridTable()),
        global_batch_size=1,
        global_micro_batch_size=1,
    )
    assert [variant.name for variant in rounded_variants(alone)] == ["jitter"]


def test_micro_batches_are_halved_where_they_cannot_be_doubled() -> None:
    whole = with_baseline(SMOKE.table(SMOKE.baseline), global_micro_batch_size=8)
    micro = next(variant for variant in rounded_variants(whole) if variant.name == "micro-batches")
    assert trained(micro).global_micro_batch_size == 4


def test_degrees_that_the_model_cannot_take_are_not_swapped_in() -> None:
    # Three replicas take 3 of 12 samples each; attention has 4 heads, which no tp of 3 divides.
    three = LayoutTable(name="three", vision=GridTable(dp=3), language=GridTable(dp=3))
    scenario = with_baseline(three, global_batch_size=12, global_micro_batch_size=6)
    assert [variant.name for variant in rounded_variants(scenario)] == ["jitter", "micro-batches"]
