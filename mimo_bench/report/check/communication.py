"""Communication that `mimo-bench check` prints: bytes of all ranks in each collective of a step, largest first.

Integers and text only.
"""

from __future__ import annotations

from collections.abc import Iterator

from mimo_bench.layout import BatchPlan, Layout, LayoutTable
from mimo_bench.predict import Buckets, CommunicationPrediction, items_by_step, predict_communication
from mimo_bench.report.check.memory import size
from mimo_bench.scenario import Scenario

_SAYS_NOTHING = ("attention", "compile_layers", "fused_optimizer", "overlap_param_gather")
"""Settings that change when and how something is computed or sent, and not what is sent."""


class CommunicationTables:
    """The tables of one scenario's layouts; made once for all layouts that send the same."""

    def __init__(self, scenario: Scenario) -> None:
        """None is made yet."""
        self._scenario = scenario
        self._known: dict[tuple[object, ...], tuple[str, ...]] = {}
        self._buckets: Buckets = {}
        self._items = items_by_step(scenario)

    def of(self, table: LayoutTable, layout: Layout, plan: BatchPlan) -> tuple[str, ...]:
        """Return the lines of the layout that `table` declares, which is `layout` and splits samples by `plan`."""
        key = (_grids(layout), plan.num_micro_batches, *plan.micro_batch_size.values(), _settings(table))
        if (known := self._known.get(key)) is None:
            predicted = predict_communication(self._scenario, table.name, items=self._items, buckets=self._buckets)
            known = self._known[key] = tuple(describe_communication(predicted))
        return known


def _grids(layout: Layout) -> tuple[object, ...]:
    """Degrees, and which modules share their ranks; not which ranks those are."""
    spans: dict[range, int] = {}
    return tuple(
        (grid.tp, grid.cp, grid.pp, grid.dp, grid.ep, spans.setdefault(grid.ranks, len(spans)))
        for grid in layout.modules.values()
    )


def _settings(table: LayoutTable) -> tuple[object, ...]:
    return tuple(value for name, value in table.settings if name not in _SAYS_NOTHING)


def describe_communication(predicted: CommunicationPrediction) -> Iterator[str]:
    """A layout's communication as lines of text; none for a single rank."""
    rows = sorted(
        # Received bytes were sent, and are listed as such.
        (row for row in predicted.rows if row.collective != "recv"),
        key=lambda row: row.num_bytes,
        reverse=True,
    )
    if rows:
        yield from _aligned(
            [
                ["group", "collective", "calls", "bytes a step, all ranks"],
                *([row.role, row.collective, _mean(row.num_calls), size(round(row.num_bytes))] for row in rows),
            ]
        )
    if not all(_is_whole(row.num_calls) and _is_whole(row.num_bytes) for row in rows):
        yield "  calls and bytes are means over the timed steps, as their samples differ in items"
    yield from _left_out(predicted)


def _is_whole(count: float) -> bool:
    return count == round(count)


def _mean(count: float) -> str:
    return str(round(count)) if _is_whole(count) else f"{count:.1f}"


def _left_out(predicted: CommunicationPrediction) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for role, reason in predicted.left_out.items():
        reasons.setdefault(reason, []).append(role)
    for reason, roles in reasons.items():
        yield f"  not predicted, as {reason}: {', '.join(roles)}"


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for group, collective, calls, amount in rows:
        words = f"{group.ljust(widths[0])}  {collective.ljust(widths[1])}"
        yield f"  {words}  {calls.rjust(widths[2])}  {amount.rjust(widths[3])}"
