"""The device memory that each rank of a layout will need at its busiest moment, by module, and whether it fits.

Parameters, gradients and optimizer state are exact; activations follow formulas; the busiest moment is the larger of
two: the loss or a layer's backward pass with every micro-batch in flight, or the update of the weights, when nothing is
in flight but the optimizer works on a copy. What experts keep is decided by routing, so nothing is said about it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mimo_bench.layout import LANGUAGE, BatchPlan, Coordinate, Grid, Layout, LayoutTable, Settings
from mimo_bench.models import stage_parameters
from mimo_bench.predict.activations import ActivationBytes, activation_bytes
from mimo_bench.predict.items import ItemCounts
from mimo_bench.predict.state import ELEMENT_BYTES, StateBytes, state_bytes
from mimo_bench.scenario import Scenario

CONTEXT_BYTES = 5 << 30
"""What a device holds outside of the allocator: CUDA's context, kernels and NCCL's buffers. Measured on H200s: 3.8 to
4.9 GiB with up to two ranks."""
FRAGMENTATION_SHARE = 0.05
"""What the allocator reserves beyond its peak. Measured: 0.03 on average."""

MATRIX_PRODUCTS_BYTES = 32 << 20
"""What cuBLAS takes of the allocator for itself on Hopper, for each thread that multiplies: one goes forward, another
backward. Measured as the workspace of models that are too small to need any other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModulePrediction:
    """One module on one rank."""

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int | None
    """Of all micro-batches in flight; None where routing decides."""
    workspace_bytes: int | None
    """Of its own busiest moment; None where routing decides."""

    @property
    def state_bytes(self) -> int:
        """Memory that is kept from step to step."""
        return self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class RankPrediction:
    """One rank."""

    rank: int
    modules: Mapping[str, ModulePrediction]
    peak_bytes: int | None
    """Of the allocator; None where routing decides."""
    busiest: str | None
    """`forward and backward` or `update`; None where routing decides."""

    @property
    def state_bytes(self) -> int:
        """Memory that is kept from step to step."""
        return sum(module.state_bytes for module in self.modules.values())

    @property
    def device_bytes(self) -> int:
        """Memory that the device must have; a lower bound where the peak is not known."""
        known = self.state_bytes if self.peak_bytes is None else self.peak_bytes
        return round(known * (1 + FRAGMENTATION_SHARE)) + CONTEXT_BYTES


def predict_memory(scenario: Scenario, name: str) -> tuple[RankPrediction, ...]:
    """Every rank of the layout called `name`, as its timed steps train it; not for models with `unknown_modules`."""
    case = scenario.case(name)
    return MemoryPredictor(scenario).predict(case.table, case.layout, case.plan)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """A layout that is being predicted."""

    layout: Layout
    plan: BatchPlan
    settings: Settings
    kind: int
    """A number that equal settings share: in keys it compares faster than they do."""


class MemoryPredictor:
    """Predicts layouts of one scenario; what a grid takes is worked out once for all layouts that have it."""

    def __init__(self, scenario: Scenario) -> None:
        """Nothing is known yet but the samples."""
        self._scenario = scenario
        self._items = {module: ItemCounts(scenario, module) for module in scenario.shape.encoders}
        self._has_experts = scenario.shape.language.experts is not None
        self._kinds: dict[Settings, int] = {}
        self._states: dict[tuple[object, ...], StateBytes] = {}
        self._activations: dict[tuple[object, ...], ActivationBytes | None] = {}
        self._spans: dict[tuple[object, ...], tuple[RankPrediction, ...]] = {}

    def predict(self, table: LayoutTable, layout: Layout, plan: BatchPlan) -> tuple[RankPrediction, ...]:
        """Every rank of the layout that `table` declares, which is `layout` and splits samples by `plan`."""
        kind = self._kinds.setdefault(table.settings, len(self._kinds))
        case = _Case(layout=layout, plan=plan, settings=table.settings, kind=kind)
        return tuple(
            RankPrediction(rank=rank, modules=known.modules, peak_bytes=known.peak_bytes, busiest=known.busiest)
            for span, modules in _spans(layout)
            for rank, known in zip(span, self._span(case, span, modules), strict=True)
        )

    def _span(self, case: _Case, span: range, modules: Sequence[str]) -> tuple[RankPrediction, ...]:
        """The ranks of a span, by whatever number: those of another layout's equal span, where there was one."""
        layout, plan = case.layout, case.plan
        key = (
            *((module, _degrees(layout.modules[module]), plan.micro_batch_size[module]) for module in modules),
            (layout.placement, layout.language.pp, plan.num_micro_batches, case.kind),
        )
        if (known := self._spans.get(key)) is None:
            known = self._spans[key] = tuple(self._ranks(case, span, modules))
        return known

    def _ranks(self, case: _Case, span: range, modules: Sequence[str]) -> Iterator[RankPrediction]:
        found: dict[tuple[object, ...], RankPrediction] = {}
        for rank in span:
            at = {module: case.layout.modules[module].coordinate(rank) for module in modules}
            # Ranks of one tensor-parallel group hold equal amounts, but of experts.
            key = tuple((place.pp, place.dp, self._expert_place(module, place)) for module, place in at.items())
            if key not in found:
                found[key] = self._rank(case, rank, at)
            yield found[key]

    def _rank(self, case: _Case, rank: int, at: Mapping[str, Coordinate]) -> RankPrediction:
        in_flight = {module: num_in_flight(case.layout, module, rank, case.plan.num_micro_batches) for module in at}
        parts = {
            module: (self._state(case, module, place), self._activation(case, module, place, in_flight[module]))
            for module, place in at.items()
        }
        waiting = sum(self._waiting_bytes(case.plan, module, place) for module, place in at.items())
        return _rank(rank, parts, in_flight, waiting=waiting)

    def _expert_place(self, module: str, at: Coordinate) -> int:
        """Return the coordinate besides stage and replica that decides which part of a module a rank owns."""
        return at.tp if self._has_experts and module == LANGUAGE else 0

    def _state(self, case: _Case, module: str, at: Coordinate) -> StateBytes:
        """Return the state that a rank keeps of a module, wherever the module's span begins."""
        grid, settings = case.layout.modules[module], case.settings
        owned = (at.dp, self._expert_place(module, at)) if settings.distributed_optimizer else ()
        key = (module, _degrees(grid), at.pp, owned, case.kind)
        if (known := self._states.get(key)) is None:
            training = self._scenario.training
            known = self._states[key] = state_bytes(
                stage_parameters(self._scenario.shape, module, grid, stage=at.pp),
                trains=lambda parameter: training.trains(f"{module}.{parameter}"),
                grid=grid,
                stage=at.pp,
                dp_rank=at.dp,
                tp_rank=at.tp,
                settings=settings,
                precision=self._scenario.precision,
            )
        return known

    def _activation(self, case: _Case, module: str, at: Coordinate, num_in_flight: int) -> ActivationBytes | None:
        grid, scenario, plan = case.layout.modules[module], self._scenario, case.plan
        num_items = plan.micro_batch_size[module]
        if module != LANGUAGE:
            num_items = self._items[module].in_flight(module, plan, dp_rank=at.dp, num_in_flight=num_in_flight)
        key = (module, _degrees(grid), at.pp, num_items, case.kind)
        if key not in self._activations:
            self._activations[key] = activation_bytes(
                scenario.shape,
                module,
                grid,
                stage=at.pp,
                # A micro-batch without any item has its encoder read a blank one.
                num_items=max(1, num_items),
                seq_length=scenario.seq_length,
                settings=case.settings,
                precision=scenario.precision,
                training=scenario.training,
            )
        return self._activations[key]

    def _waiting_bytes(self, plan: BatchPlan, module: str, at: Coordinate) -> int:
        """Return the size of a replica's batches, which wait on the device while steps are timed."""
        scenario = self._scenario
        if module == LANGUAGE:
            num_steps = scenario.steps.warmup + scenario.steps.timed
            num_samples = num_steps * plan.micro_batch_size[module] * plan.num_micro_batches
            # Tokens, labels and positions as int64, the mask as fp32.
            return num_samples * scenario.seq_length * (3 * 8 + 4)
        item = math.prod(scenario.shape.encoders[module].item_shape) * ELEMENT_BYTES[scenario.precision]
        return item * self._items[module].in_all(module, plan, dp_rank=at.dp)


def _spans(layout: Layout) -> list[tuple[range, list[str]]]:
    """The spans of ranks that tile the world, in order, and the modules on each: two are equal or disjoint."""
    modules: dict[range, list[str]] = {}
    for module, grid in layout.modules.items():
        modules.setdefault(grid.ranks, []).append(module)
    return sorted(modules.items(), key=lambda span: span[0].start)


def _degrees(grid: Grid) -> tuple[int, ...]:
    return grid.tp, grid.cp, grid.pp, grid.dp, grid.ep


def num_in_flight(layout: Layout, module: str, rank: int, num_micro_batches: int) -> int:
    """Micro-batches whose activations a rank holds at once: all stages behind its own must have had theirs (1F1B)."""
    if layout.placement == "colocated":
        return 1
    grid = layout.modules[module]
    num_behind = grid.pp - 1 - grid.coordinate(rank).pp + (0 if module == LANGUAGE else layout.language.pp)
    return min(num_behind + 1, num_micro_batches)


def _rank(
    rank: int,
    parts: Mapping[str, tuple[StateBytes, ActivationBytes | None]],
    in_flight: Mapping[str, int],
    *,
    waiting: int,
) -> RankPrediction:
    known = {module: activations for module, (_, activations) in parts.items() if activations is not None}
    kept = {module: in_flight[module] * activations.kept for module, activations in known.items()}
    modules = {
        module: ModulePrediction(
            parameters_bytes=state.parameters,
            gradients_bytes=state.gradients,
            optimizer_bytes=state.optimizer,
            activations_bytes=kept.get(module),
            workspace_bytes=(None if activations is None else max(activations.busiest, state.update - kept[module])),
        )
        for module, (state, activations) in parts.items()
    }
    if len(known) < len(parts):
        return RankPrediction(rank=rank, modules=modules, peak_bytes=None, busiest=None)
    # Nothing goes back through ranks without a trained parameter, but where they pass gradients on to an encoder.
    goes_backward = any(module == LANGUAGE or state.gradients for module, (state, _) in parts.items())
    products = MATRIX_PRODUCTS_BYTES * (2 if goes_backward else 1)
    held = sum(state.total for state, _ in parts.values()) + waiting + products
    training = held + sum(kept.values()) + max(a.busiest for a in known.values())
    updating = held + max(state.update for state, _ in parts.values())
    return RankPrediction(
        rank=rank,
        modules=modules,
        peak_bytes=max(training, updating),
        busiest="forward and backward" if training >= updating else "update",
    )
