"""One global batch through the model: which schedule runs it, what a micro-batch feeds, what the loss is."""

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
from mimo_bench.trainer.megatron.bridge import ColocatedBridge, colocated_bridges, own_rows
from mimo_bench.trainer.megatron.merge import Merge
from mimo_bench.trainer.megatron.pipeline import Pipeline
from mimo_bench.trainer.topology import Topology


class Schedule(Protocol):
    """Runs all micro-batches of a global batch, forward or forward and backward."""

    def __call__(self, batch: Sequence[MicroBatch], *, forward_only: bool) -> None:
        """Run the micro-batches of one global batch in order."""
        ...


def build_schedule(
    model: MimoModel, *, topology: Topology, totals: Totals, plan: BatchPlan, seq_length: int
) -> Schedule:
    """The schedule of this placement: one after the other when colocated, 1F1B over all modules when disjoint."""
    layout, merge = topology.layout, Merge(model)
    extra: dict[str, Any] = {}
    forward_backward: Callable[..., Any] = forward_backward_no_pipelining
    colocated, pipeline = colocated_bridges(model), None
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
        step = forward_evaluate if forward_only else forward_train
        if pipeline is not None:
            pipeline.start(batch)
        forward_backward(
            forward_step_func=partial(step, topology=topology, totals=totals, bridges=colocated, merge=merge),
            data_iterator=iter(batch),
            model=[model],
            num_microbatches=len(batch),
            seq_length=seq_length,
            # The pipeline knows its shapes; the schedule only hands this number on.
            micro_batch_size=1,
            forward_only=forward_only,
            pg_collection=topology.for_schedule(),
            **extra,
        )

    return run


def name_bridges(groups: Mapping[tuple[str, str], Sequence[Any]]) -> None:
    """Give the groups of each bridge, which megatron-core makes without one, their role name."""
    for (source, destination), members in groups.items():
        for group in members:
            # None and a sentinel stand for groups that this rank is not in.
            if isinstance(group, dist.ProcessGroup):
                group._set_group_desc(f"bridge.{source}->{destination}")


def _groups(bridge: Any) -> list[Any]:
    return [bridge.bridge_pg, bridge.src_grid_broadcast_pg, bridge.dest_grid_broadcast_pg]


def forward_train(
    batches: Iterator[MicroBatch],
    model: MimoModel,
    *,
    topology: Topology,
    totals: Totals,
    bridges: Mapping[str, ColocatedBridge],
    merge: Merge,
) -> tuple[Any, Callable[[torch.Tensor], Any]]:
    """Forward one micro-batch; on the last language stage the output is the loss of each position, [b, s]."""
    batch = next(batches)
    output = _forward(batch, model, topology, bridges, merge, labels=batch.labels)
    _count_items(batch, topology, totals)

    def loss(losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        assert batch.loss_mask is not None
        loss_sum = (losses.float() * batch.loss_mask).sum()
        num_scored = batch.loss_mask.sum().to(torch.int)
        if topology.speaks_for_replica(LANGUAGE):
            totals.add(loss=loss_sum.detach(), scored_tokens=num_scored, **_positions(batch))
        return loss_sum, num_scored, {}

    return output, loss


def forward_evaluate(
    batches: Iterator[MicroBatch],
    model: MimoModel,
    *,
    topology: Topology,
    totals: Totals,
    bridges: Mapping[str, ColocatedBridge],
    merge: Merge,
) -> tuple[Any, Callable[[torch.Tensor], Any]]:
    """Forward one micro-batch; on the last language stage the output is this rank's logits, [b, s, vocabulary / tp]."""
    batch = next(batches)
    output = _forward(batch, model, topology, bridges, merge, labels=None)
    _count_items(batch, topology, totals)

    def score(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        assert batch.labels is not None
        assert batch.loss_mask is not None
        whole = gather_from_tensor_model_parallel_region(logits.float(), group=topology.groups[LANGUAGE].tp)
        losses = torch.nn.functional.cross_entropy(whole.flatten(0, 1), batch.labels.flatten(), reduction="none")
        loss_sum = (losses * batch.loss_mask.flatten()).sum()
        num_correct = ((whole.argmax(-1) == batch.labels) * batch.loss_mask).sum()
        num_scored = batch.loss_mask.sum().to(torch.int)
        if topology.speaks_for_replica(LANGUAGE):
            totals.add(loss=loss_sum, scored_tokens=num_scored, correct_tokens=num_correct, **_positions(batch))
        return loss_sum, num_scored, {}

    return output, score


def _forward(
    batch: MicroBatch,
    model: MimoModel,
    topology: Topology,
    bridges: Mapping[str, ColocatedBridge],
    merge: Merge,
    *,
    labels: torch.Tensor | None,
) -> Any:
    """What this rank's modules make of a micro-batch: rows by encoder, hidden states, losses or logits."""
    for module, bridge in bridges.items():
        bridge.expect(items=batch.items_per_sample[module], text_rows=batch.rows_per_sample[module])
    merge.expect(batch.places)
    output, _ = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        modality_inputs={module: {ENCODER: {"inputs": inputs}} for module, inputs in batch.encoder_inputs.items()}
        or None,
        labels=labels,
        loss_mask=batch.loss_mask,
    )
    if isinstance(output, dict):
        for module, items in batch.items_per_sample.items():
            if topology.is_last_stage(module):
                output[module] = own_rows(output[module], items)
    return output


def _positions(batch: MicroBatch) -> dict[str, int]:
    return {"tokens": batch.num_tokens, "token_pairs": batch.num_token_pairs}


def _count_items(batch: MicroBatch, topology: Topology, totals: Totals) -> None:
    for module in batch.encoder_inputs:
        if topology.speaks_for_replica(module):
            totals.add(**{items_total(module): sum(batch.items_per_sample[module])})
