"""Output of `mimo-bench check`: notes on samples; for every layout a rank map, memory and communication.

Integers and text only, so a laptop answers in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mimo_bench.layout import BatchPlan, Coordinate, Grid, Layout, LayoutTable
from mimo_bench.models import unknown_modules
from mimo_bench.predict import MemoryPredictor
from mimo_bench.report.check.communication import CommunicationTables
from mimo_bench.report.check.data import notes
from mimo_bench.report.check.memory import Need, describe_memory, need_of
from mimo_bench.scenario import Scenario
from mimo_bench.util import counted


def describe_layouts(scenario: Scenario, *, device_bytes: int | None, on_need: Callable[[Need], None]) -> Iterator[str]:
    """Yield notes on samples, then layouts as lines of text: a heading, a rank map, memory, communication.

    Args:
        scenario: a valid one.
        device_bytes: memory of each device; None where that is not known.
        on_need: called with the need of each layout whose memory is predicted.
    """
    predictor, maps, communication = MemoryPredictor(scenario), RankMaps(), CommunicationTables(scenario)
    unknown = unknown_modules(scenario.shape)
    if said := list(notes(scenario)):
        yield from (*said, "")
    for table in scenario.layout:
        layout = table.grids()
        plan = scenario.plan_of(table, layout)
        yield f"{table.name}{' (baseline)' if table.name == scenario.baseline else ''}"
        yield f"  {_world(layout)}; {_batch(plan)}"
        if chosen := _chosen_settings(table):
            yield f"  settings: {', '.join(chosen)}"
        yield from maps.of(layout, plan)
        if unknown:
            yield f"  memory is not predicted, as the parameters of {' and '.join(unknown)} are another package's"
        else:
            ranks = predictor.predict(table, layout, plan)
            on_need(need_of(table.name, ranks))
            yield from describe_memory(ranks, device_bytes=device_bytes)
        yield from communication.of(table, layout, plan)
        yield ""


def _world(layout: Layout) -> str:
    return f"{layout.placement}, {counted(layout.world_size, 'rank')}"


def _batch(plan: BatchPlan) -> str:
    shares = ", ".join(f"{size} per {module} replica" for module, size in plan.micro_batch_size.items())
    micro_batches = "1 micro-batch" if plan.num_micro_batches == 1 else f"{plan.num_micro_batches} micro-batches"
    return f"{plan.global_batch_size} samples a step = {micro_batches} x {plan.global_micro_batch_size} ({shares})"


def _chosen_settings(table: LayoutTable) -> list[str]:
    chosen = table.settings.model_dump(exclude_defaults=True).items()
    return [name if value is True else f"{name} = {str(value).lower()}" for name, value in chosen]


class RankMaps:
    """A heading, then one row per rank and one cell per module; made once for layouts that differ in settings alone."""

    def __init__(self) -> None:
        """None is made yet."""
        self._known: dict[tuple[object, ...], tuple[str, ...]] = {}

    def of(self, layout: Layout, plan: BatchPlan) -> tuple[str, ...]:
        """Return the lines of `layout`, which splits samples by `plan`."""
        key = (*layout.modules.items(), *plan.micro_batch_size.values())
        if (known := self._known.get(key)) is None:
            known = self._known[key] = tuple(_rank_map(layout, plan))
        return known


def _rank_map(layout: Layout, plan: BatchPlan) -> Iterator[str]:
    ranks = ["rank", *map(str, range(layout.world_size))]
    width = max(map(len, ranks))
    columns = [_column(module, grid, plan, num_ranks=layout.world_size) for module, grid in layout.modules.items()]
    for rank, *cells in zip(ranks, *columns, strict=True):
        yield f"  {rank:>{width}}  {'  '.join(cells)}".rstrip()


def _column(module: str, grid: Grid, plan: BatchPlan, *, num_ranks: int) -> list[str]:
    """The heading and a cell for every rank of the layout, all of one width."""
    inside = [_cell(grid, grid.coordinate(rank), plan, module) for rank in grid.ranks]
    cells = [module, *["-"] * grid.rank_offset, *inside, *["-"] * (num_ranks - grid.ranks.stop)]
    width = max(map(len, cells))
    return [cell.ljust(width) for cell in cells]


def _cell(grid: Grid, at: Coordinate, plan: BatchPlan, module: str) -> str:
    """Return a rank's coordinate in the module's grid, and its samples of the first micro-batch."""
    samples = plan.sample_ids(step=0, micro_batch=0, module=module, dp_rank=at.dp)
    shown = f"sample {samples.start}" if len(samples) == 1 else f"samples {samples.start}-{samples.stop - 1}"
    experts = f" ep{at.ep}" if grid.ep > 1 else ""
    return f"tp{at.tp} dp{at.dp} pp{at.pp}{experts} {shown}"
