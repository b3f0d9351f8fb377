"""The baseline again, mathematically equal and rounded differently: how far these lie apart is the noise band."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mimo_bench.layout import LayoutTable
from mimo_bench.record import VariantName
from mimo_bench.scenario import Scenario
from mimo_bench.util import LayoutError


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One equal training of the baseline."""

    name: VariantName
    scenario: Scenario
    """With the baseline as this variant trains it."""


def parity_variants(scenario: Scenario) -> tuple[Variant, ...]:
    """What is trained again in parity mode: as it was, which should give the same bits, and rounded differently."""
    return (Variant(name="rerun", scenario=scenario), *rounded_variants(scenario))


def rounded_variants(scenario: Scenario) -> tuple[Variant, ...]:
    """Every equal training of the baseline that rounds differently, as far as batch, model and world allow."""
    return (
        Variant(name="jitter", scenario=scenario),
        *_first("micro-batches", scenario, _other_micro_batches(scenario)),
        *_first("tensor-parallel", scenario, _swapped_degrees(scenario)),
    )


def _first(name: VariantName, scenario: Scenario, tables: Iterator[LayoutTable]) -> Iterator[Variant]:
    """The first of `tables` that can be trained, as the baseline."""
    for table in tables:
        # Built anew: a copy would keep what the scenario has cached of its layouts.
        variant = Scenario.model_validate({**dict(scenario), "layout": (table,)})
        try:
            variant.check()
        except LayoutError:
            continue
        yield Variant(name=name, scenario=variant)
        return


def _other_micro_batches(scenario: Scenario) -> Iterator[LayoutTable]:
    """The baseline with gradients summed over half as many micro-batches, or twice as many."""
    table = scenario.table(scenario.baseline)
    size = scenario.case(scenario.baseline).plan.global_micro_batch_size
    for other in (2 * size, size // 2):
        if other:
            yield table.model_copy(update={"global_micro_batch_size": other})


def _swapped_degrees(scenario: Scenario) -> Iterator[LayoutTable]:
    """The baseline on the same ranks, tensor-parallel where it is data-parallel and the other way round."""
    table = scenario.table(scenario.baseline)
    if (swapped := table.swapped()) != table:
        yield swapped
        # What experts need.
        yield swapped.model_copy(update={"settings": table.settings.model_copy(update={"sequence_parallel": True})})
