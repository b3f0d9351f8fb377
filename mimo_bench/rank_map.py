"""What `mimo-bench check` prints: for every layout, which rank holds what, samples, memory and communication.

[scenario -> layout] -> trainer -> ...: integers and text only, so a laptop answers in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator

from mimo_bench.communication_table import describe_communication
from mimo_bench.layout import BatchPlan, Layout
from mimo_bench.memory_table import describe_memory
from mimo_bench.scenario import LayoutTable, Scenario


def describe(scenario: Scenario, *, device_bytes: int | None) -> Iterator[str]:
    """The scenario's layouts as lines of text: a heading, a rank map, memory and communication.

    Args:
        scenario: a valid one.
        device_bytes: memory of each device; None where that is not known.
    """
    for table in scenario.layout:
        layout, plan = table.grids(), scenario.batch_plan(table.name)
        yield f"{table.name}{' (baseline)' if table.name == scenario.baseline else ''}"
        yield f"  {_world(layout)}; {_batch(plan)}"
        if chosen := _chosen_settings(table):
            yield f"  settings: {', '.join(chosen)}"
        yield from _aligned(_rows(layout, plan))
        yield from describe_memory(scenario, table.name, device_bytes=device_bytes)
        yield from describe_communication(scenario, table.name)
        yield ""


def _world(layout: Layout) -> str:
    return f"{layout.placement}, {layout.world_size} {'rank' if layout.world_size == 1 else 'ranks'}"


def _batch(plan: BatchPlan) -> str:
    shares = ", ".join(f"{size} per {module} replica" for module, size in plan.micro_batch_size.items())
    return (
        f"{plan.global_batch_size} samples a step = {plan.num_micro_batches} micro-batches "
        f"x {plan.global_micro_batch_size} ({shares})"
    )


def _chosen_settings(table: LayoutTable) -> list[str]:
    chosen = table.settings.model_dump(exclude_defaults=True).items()
    return [name if value is True else f"{name} = {str(value).lower()}" for name, value in chosen]


def _rows(layout: Layout, plan: BatchPlan) -> Iterator[list[str]]:
    """A heading, then one row per rank and one cell per module."""
    yield ["rank", *layout.modules]
    for rank in range(layout.world_size):
        yield [str(rank), *(_cell(layout, plan, module, rank) for module in layout.modules)]


def _cell(layout: Layout, plan: BatchPlan, module: str, rank: int) -> str:
    """Where `rank` stands in the module's grid, and which samples of the first micro-batch it works on."""
    grid = layout.modules[module]
    if rank not in grid.ranks:
        return "-"
    at = grid.coordinate(rank)
    samples = plan.sample_ids(step=0, micro_batch=0, module=module, dp_rank=at.dp)
    shown = f"sample {samples.start}" if len(samples) == 1 else f"samples {samples.start}-{samples.stop - 1}"
    experts = f" ep{at.ep}" if grid.ep > 1 else ""
    return f"tp{at.tp} dp{at.dp} pp{at.pp}{experts} {shown}"


def _aligned(rows: Iterator[list[str]]) -> Iterator[str]:
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for rank, *cells in table:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths[1:], strict=True))
        yield f"  {rank.rjust(widths[0])}  {'  '.join(padded)}".rstrip()
