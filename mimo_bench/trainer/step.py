"""One global batch through the model: its schedule, the inputs of a micro-batch, the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.pipeline_parallel.schedules import (
    forward_backward_no_pipelining,
    forward_backward_pipelining_without_interleaving,
)
from megatron.core.tensor_parallel.mappings import gather_from_tensor_model_parallel_region

from mimo_bench.layout import LANGUAGE, BatchPlan
from mimo_bench.models import ENCODER
from mimo_bench.trainer.gradients import Totals, items_total
from mimo_bench.trainer.loader import MicroBatch
from mimo_bench.trainer.megatron.bridge import ColocatedBridge, own_rows
from mimo_bench.trainer.megatron.merge import Merge
from mimo_bench.trainer.megatron.pipeline import Pipeline
from mimo_bench.trainer.topology import Topology


class Schedule(Protocol):
    """Function that runs all micro-batches of a global batch, forward or forward and backward."""

    def __call__(self, batch: Sequence[MicroBatch], *, forward_only: bool) -> None:
        """Run the micro-batches of one global batch in order."""
        ...


def build_schedule(
    model: MimoModel, *, topology: Topology, totals: Totals, plan: BatchPlan, seq_length: int
) -> Schedule:
    """Return the schedule of this placement: without pipelining if colocated, 1F1B over all modules if disjoint."""
    layout, forward = topology.layout, ModelForward(model, topology)
    extra: dict[str, Any] = {}
    forward_backward: Callable[..., Any] = forward_backward_no_pipelining
    pipeline: Pipeline | None = None
    if layout.placement == "disjoint":
        forward_backward = forward_backward_pipelining_without_interleaving
        split = layout.language.tp if model.config.sequence_parallel else 1
        extra["p2p_communicator"] = pipeline = Pipeline(
            topology.grids,
            {**{name: [LANGUAGE] for name in layout.encoders}, LANGUAGE: []},
            model.config,
            dim_mapping={"s": 0, "b": 1, "h": 2},
            module_output_ndim=dict.fromkeys(layout.encoders, 2),
            language_shape=(seq_length // split, plan.micro_batch_size[LANGUAGE], model.config.hidden_size),
        )
        name_bridges({(b.src_module_name, b.dest_module_name): _groups(b) for b in pipeline.bridge_comms})
    else:
        name_bridges({ends: [bridge.gather_pg] for ends, bridge in model.colocated_comms.items()})

    def run(batch: Sequence[MicroBatch], *, forward_only: bool) -> None:
        step = partial(forward_step, forward=forward, topology=topology, totals=totals, trains=not forward_only)
        if pipeline is not None:
            pipeline.start(batch)
        forward_backward(
            forward_step_func=step,
            data_iterator=iter(batch),
            model=[model],
            num_microbatches=len(batch),
            seq_length=seq_length,
            # Required, and unused: the pipeline knows its shapes.
            micro_batch_size=1,
            forward_only=forward_only,
            pg_collection=topology.for_schedule(),
            **extra,
        )

    return run


class ModelForward:
    """Forward pass of a micro-batch through a MimoModel.

    megatron-core's model takes tokens and items, and not how many rows each sample has. Colocated bridges and the merge
    read that from the micro-batch inside the model; there is none between two passes, so none can be out of date.
    """

    def __init__(self, model: MimoModel, topology: Topology) -> None:
        """Replace the merge and the colocated bridges of `model` by ours, which take samples of uneven rows."""
        self._model, self._topology = model, topology
        self._batch: MicroBatch | None = None
        Merge(model, self._inside)
        model.colocated_comms = {
            (encoder, language): ColocatedBridge(even, encoder, self._inside)
            for (encoder, language), even in model.colocated_comms.items()
        }

    def __call__(self, batch: MicroBatch, *, labels: torch.Tensor | None) -> Any:
        """Return what this rank's modules give: rows by encoder, hidden states, losses or logits."""
        self._batch = batch
        output, _ = self._model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            modality_inputs={module: {ENCODER: {"inputs": inputs}} for module, inputs in batch.encoder_inputs.items()}
            or None,
            labels=labels,
            loss_mask=batch.loss_mask,
        )
        self._batch = None
        if isinstance(output, dict):
            for module, items in batch.items_per_sample.items():
                if self._topology.is_last_stage(module):
                    output[module] = own_rows(output[module], items)
        return output

    def _inside(self) -> MicroBatch:
        assert self._batch is not None, "bridges and merge run inside of a forward pass only"
        return self._batch


def name_bridges(groups: Mapping[tuple[str, str], Sequence[Any]]) -> None:
    """Describe the groups of each bridge by role; megatron-core makes them without a description."""
    for (source, destination), members in groups.items():
        for group in members:
            # megatron-core gives None or a sentinel for groups that this rank is not in.
            if isinstance(group, dist.ProcessGroup):
                group._set_group_desc(f"bridge.{source}->{destination}")


def _groups(bridge: Any) -> list[Any]:
    return [bridge.bridge_pg, bridge.src_grid_broadcast_pg, bridge.dest_grid_broadcast_pg]


def forward_step(
    batches: Iterator[MicroBatch],
    model: MimoModel,
    *,
    forward: ModelForward,
    topology: Topology,
    totals: Totals,
    trains: bool,
) -> tuple[Any, Callable[[torch.Tensor], Any]]:
    """Forward one micro-batch and return the output with the function that scores it.

    On the last language stage the output is the loss of each position, [b, s]; if nothing `trains`, this rank's logits,
    [b, s, vocabulary / tp].
    """
    batch = next(batches)
    output = forward(batch, labels=batch.labels if trains else None)
    for module in batch.encoder_inputs:
        if topology.speaks_for_replica(module):
            totals.add(**{items_total(module): sum(batch.items_per_sample[module])})

    def score(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        assert batch.loss_mask is not None
        counted: dict[str, Any] = {"tokens": batch.num_tokens, "token_pairs": batch.num_token_pairs}
        if trains:
            losses = output.float()
        else:
            assert batch.labels is not None
            logits = gather_from_tensor_model_parallel_region(output.float(), group=topology.groups[LANGUAGE].tp)
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="none")
            losses = losses.view_as(batch.labels)
            counted["correct_tokens"] = ((logits.argmax(-1) == batch.labels) * batch.loss_mask).sum()
        loss_sum = (losses * batch.loss_mask).sum()
        num_scored = batch.loss_mask.sum().to(torch.int)
        if topology.speaks_for_replica(LANGUAGE):
            totals.add(loss=loss_sum.detach(), scored_tokens=num_scored, **counted)
        return loss_sum, num_scored, {}

    return output, score
