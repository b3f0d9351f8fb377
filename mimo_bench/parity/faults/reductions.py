"""Faults of reduction: sums over ranks that are skipped, or taken over the wrong ranks."""

from __future__ import annotations

from importlib import import_module

import torch.distributed as dist

from mimo_bench.layout import Grid
from mimo_bench.parity.faults.catalogue import fault
from mimo_bench.parity.faults.context import FaultContext, encoders, replace_attribute
from mimo_bench.trainer import hosted_modules


@fault(
    caught_by="replicas",
    shows_in=lambda site: site.settings.sequence_parallel and site.layout.language.tp > 1,
)
def layer_norm_gradients_not_reduced(context: FaultContext) -> None:
    """Under sequence parallelism each rank keeps the norm gradients of its own part of the sequence."""
    _leave_out(context, "_allreduce_non_tensor_model_parallel_grads")


@fault(caught_by="replicas", shows_in=lambda site: site.has(tp=2, dp=2) and not site.is_sharded, alone=True)
def process_groups_crossed(context: FaultContext) -> None:
    """Half of the ranks make the groups of a module's replicas in the other order, so sums mix two groups.

    Torch names a group by the number of groups before it, and ranks meet under that name. Members of the first group of
    one half join the last group of the other, without an error.
    """
    hosted = dict(hosted_modules(context.trainer.model))
    for name, grid in context.layout.modules.items():
        # Every rank makes every group, as it should: only the order is wrong.
        is_other_half = context.rank in grid.ranks and grid.coordinate(context.rank).dp > 0
        for stage in range(grid.pp):
            groups = _replicas(grid, stage)
            for ranks in reversed(groups) if is_other_half else groups:
                made = dist.new_group(ranks, backend=context.trainer.topology.grids[name].backend)
                if context.rank in ranks:
                    for buckets in hosted[name].bucket_groups:
                        replace_attribute(context, buckets, "data_parallel_group", made)


@fault(caught_by="replicas", shows_in=lambda site: site.encoder_dp > 1 and not site.is_sharded)
def replica_reduction_skipped(context: FaultContext) -> None:
    """The encoder's replicas never sum their gradients, and drift apart."""
    for _, module in encoders(context):
        replace_attribute(context, module, "finish_grad_sync", lambda **_: None)


@fault(
    caught_by="replicas",
    shows_in=lambda site: site.ties_embeddings and site.layout.language.pp > 1,
)
def tied_embedding_gradients_not_reduced(context: FaultContext) -> None:
    """The first and the last stage each keep their own gradient of the word embedding that they share."""
    _leave_out(context, "_allreduce_word_embedding_grads")


def _leave_out(context: FaultContext, reduction: str) -> None:
    # The package exports a function under its module's name, which hides the module from a plain import.
    finalisation = import_module("megatron.core.distributed.finalize_model_grads")
    replace_attribute(context, finalisation, reduction, lambda *_, **__: None)


def _replicas(grid: Grid, stage: int) -> list[list[int]]:
    """Return the ranks that hold copies of the same shard of a stage, shard by shard."""
    held = [rank for rank in grid.ranks if grid.coordinate(rank).pp == stage]
    return [[rank for rank in held if grid.coordinate(rank).tp == tp] for tp in range(grid.tp)]
