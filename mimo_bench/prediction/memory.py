"""The device memory that each rank of a layout will need at its busiest moment, by module, and whether it fits.

Parameters, gradients and optimizer state are exact; activations follow formulas; the busiest moment is the larger of
two: the loss or a layer's backward pass with every micro-batch in flight, or the update of the weights, when nothing is
in flight but the optimizer works on a copy. What experts keep is decided by routing, so nothing is said about it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mimo_bench.data_section import SyntheticData
from mimo_bench.layout import LANGUAGE, Grid, Layout
from mimo_bench.prediction.activations import ActivationBytes, activation_bytes
from mimo_bench.prediction.parameters import stage_parameters
from mimo_bench.prediction.state import ELEMENT_BYTES, StateBytes, state_bytes
from mimo_bench.scenario import Scenario

CONTEXT_BYTES = 5 << 30
"""What a device holds outside of the allocator: CUDA's context, kernels and NCCL's buffers. Measured on H200s: 3.8 to
4.9 GiB with up to two ranks."""
FRAGMENTATION_SHARE = 0.05
"""What the allocator reserves beyond its peak. Measured: 0.03 on average."""


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
        """What is kept from step to step."""
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
        """What is kept from step to step."""
        return sum(module.state_bytes for module in self.modules.values())

    @property
    def device_bytes(self) -> int:
        """What the device has to have; at least that, where the peak is not known."""
        known = self.state_bytes if self.peak_bytes is None else self.peak_bytes
        return round(known * (1 + FRAGMENTATION_SHARE)) + CONTEXT_BYTES


def predict_memory(scenario: Scenario, name: str) -> tuple[RankPrediction, ...]:
    """Every rank of the layout called `name`, as its timed steps train it; not for models with `unknown_encoders`."""
    table = scenario.table(name)
    layout, plan = table.grids(), scenario.batch_plan(name)
    found: dict[tuple[object, ...], RankPrediction] = {}
    predictions = []
    for rank in range(layout.world_size):
        key = tuple(_place(scenario, layout, module, rank) for module in layout.modules_of(rank))
        if key not in found:
            parts = {
                module: _parts(scenario, name, module, layout.modules[module], rank=rank)
                for module in layout.modules_of(rank)
            }
            in_flight = {module: num_in_flight(layout, module, rank, plan.num_micro_batches) for module in parts}
            found[key] = _rank(rank, parts, in_flight, waiting=_waiting_bytes(scenario, name, rank))
        known = found[key]
        predictions.append(
            RankPrediction(rank=rank, modules=known.modules, peak_bytes=known.peak_bytes, busiest=known.busiest)
        )
    return tuple(predictions)


def num_in_flight(layout: Layout, module: str, rank: int, num_micro_batches: int) -> int:
    """Micro-batches whose activations a rank holds at once: all stages behind its own must have had theirs (1F1B)."""
    if layout.placement == "colocated":
        return 1
    grid = layout.modules[module]
    num_behind = grid.pp - 1 - grid.coordinate(rank).pp + (0 if module == LANGUAGE else layout.language.pp)
    return min(num_behind + 1, num_micro_batches)


_Parts = tuple[StateBytes, ActivationBytes | None]


def _place(scenario: Scenario, layout: Layout, module: str, rank: int) -> tuple[object, ...]:
    """What decides a rank's part of a module: ranks of one tensor-parallel group hold equal amounts, not of experts."""
    at = layout.modules[module].coordinate(rank)
    has_experts = module == LANGUAGE and scenario.shape.language.experts is not None
    return module, at.pp, at.dp, at.tp if has_experts else 0


def _parts(scenario: Scenario, name: str, module: str, grid: Grid, *, rank: int) -> _Parts:
    at, settings = grid.coordinate(rank), scenario.table(name).settings
    state = state_bytes(
        stage_parameters(scenario.shape, module, grid, stage=at.pp),
        trains=lambda parameter: scenario.training.trains(f"{module}.{parameter}"),
        grid=grid,
        stage=at.pp,
        dp_rank=at.dp,
        tp_rank=at.tp,
        settings=settings,
        precision=scenario.precision,
    )
    activations = activation_bytes(
        scenario.shape,
        module,
        grid,
        stage=at.pp,
        num_items=_items_per_sample(scenario, module) * scenario.batch_plan(name).micro_batch_size[module],
        seq_length=scenario.seq_length,
        settings=settings,
        precision=scenario.precision,
        training=scenario.training,
    )
    return state, activations


def _items_per_sample(scenario: Scenario, module: str) -> int:
    """What the fullest sample has for a module: one text for the language model, or so many images."""
    if module == LANGUAGE or not isinstance(scenario.data, SyntheticData):
        return 1
    return scenario.data.most_items(module)


def _rank(
    rank: int,
    parts: Mapping[str, _Parts],
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
            workspace_bytes=(
                None if activations is None else max(activations.loss, activations.layer, state.update - kept[module])
            ),
        )
        for module, (state, activations) in parts.items()
    }
    if len(known) < len(parts):
        return RankPrediction(rank=rank, modules=modules, peak_bytes=None, busiest=None)
    held = sum(state.total for state, _ in parts.values()) + waiting
    training = held + sum(kept.values()) + max(max(a.loss, a.layer) for a in known.values())
    updating = held + max(state.update for state, _ in parts.values())
    return RankPrediction(
        rank=rank,
        modules=modules,
        peak_bytes=max(training, updating),
        busiest="forward and backward" if training >= updating else "update",
    )


def _waiting_bytes(scenario: Scenario, name: str, rank: int) -> int:
    """Batches that lie ready on the device while steps are timed, so that the loader is not what is timed."""
    table, steps = scenario.table(name), scenario.steps
    layout, plan = table.grids(), scenario.batch_plan(name)
    total = 0
    for module in layout.modules_of(rank):
        samples = plan.micro_batch_size[module] * plan.num_micro_batches * (steps.warmup + steps.timed)
        if module == LANGUAGE:
            # Tokens, labels and positions as int64, the mask as fp32.
            total += samples * scenario.seq_length * (3 * 8 + 4)
        else:
            encoder = scenario.shape.encoders[module]
            items = samples * _items_per_sample(scenario, module)
            total += items * math.prod(encoder.item_shape) * ELEMENT_BYTES[scenario.precision]
    return total
