"""One global batch through the model: which schedule runs it, what a micro-batch feeds, what the loss is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.pipeline_parallel.multimodule_communicator import MultiModulePipelineCommunicator
from megatron.core.pipeline_parallel.schedules import (
    forward_backward_no_pipelining,
    forward_backward_pipelining_without_interleaving,
)
from megatron.core.tensor_parallel.mappings import gather_from_tensor_model_parallel_region

from mimo_bench.layout import LANGUAGE
from mimo_bench.trainer.data.loader import MicroBatch
from mimo_bench.trainer.grads import Totals, items_total
from mimo_bench.trainer.models.config import ENCODER
from mimo_bench.trainer.topology import Topology


class Schedule(Protocol):
    """Runs all micro-batches of a global batch, forward or forward and backward."""

    def __call__(self, batch: Sequence[MicroBatch], *, forward_only: bool) -> None:
        """Run the micro-batches of one global batch in order."""
        ...


def build_schedule(model: MimoModel, *, topology: Topology, totals: Totals, seq_length: int) -> Schedule:
    """The schedule of this placement: one after the other when colocated, 1F1B over all modules when disjoint."""
    layout = topology.layout
    extra: dict[str, Any] = {}
    forward_backward: Callable[..., Any] = forward_backward_no_pipelining
    if layout.placement == "disjoint":
        forward_backward = forward_backward_pipelining_without_interleaving
        extra["p2p_communicator"] = MultiModulePipelineCommunicator(
            topology.grids,
            {**{name: [LANGUAGE] for name in layout.encoders}, LANGUAGE: []},
            model.config,
            dim_mapping={"s": 0, "b": 1, "h": 2},
            module_output_ndim=dict.fromkeys(layout.encoders, 2),
        )

        name_bridges(
            {(b.src_module_name, b.dest_module_name): _groups(b) for b in extra["p2p_communicator"].bridge_comms}
        )
    else:
        name_bridges({ends: [bridge.gather_pg] for ends, bridge in model.colocated_comms.items()})

    def run(batch: Sequence[MicroBatch], *, forward_only: bool) -> None:
        step = forward_evaluate if forward_only else forward_train
        forward_backward(
            forward_step_func=partial(step, topology=topology, totals=totals),
            data_iterator=iter(batch),
            model=[model],
            num_microbatches=len(batch),
            seq_length=seq_length,
            # Shapes travel with the tensors; the schedule only hands this number on.
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
    batches: Iterator[MicroBatch], model: MimoModel, *, topology: Topology, totals: Totals
) -> tuple[Any, Callable[[torch.Tensor], Any]]:
    """Forward one micro-batch; on the last language stage the output is the loss of each position, [b, s]."""
    batch = next(batches)
    output, _ = model(**_inputs(batch), labels=batch.labels, loss_mask=batch.loss_mask)
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
    batches: Iterator[MicroBatch], model: MimoModel, *, topology: Topology, totals: Totals
) -> tuple[Any, Callable[[torch.Tensor], Any]]:
    """Forward one micro-batch; on the last language stage the output is this rank's logits, [b, s, vocabulary / tp]."""
    batch = next(batches)
    output, _ = model(**_inputs(batch), labels=None, loss_mask=batch.loss_mask)
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


def _inputs(batch: MicroBatch) -> dict[str, Any]:
    encoders = {module: {ENCODER: {"inputs": inputs}} for module, inputs in batch.encoder_inputs.items()}
    return {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "modality_inputs": encoders or None,
    }


def _positions(batch: MicroBatch) -> dict[str, int]:
    return {"tokens": batch.num_tokens, "token_pairs": batch.num_token_pairs}


def _count_items(batch: MicroBatch, topology: Topology, totals: Totals) -> None:
    for module, counts in batch.items_per_sample.items():
        if topology.speaks_for_replica(module):
            totals.add(**{items_total(module): sum(counts)})
