"""Calls that a step makes once, behind its last micro-batch: gradients, norms and updated weights."""

from __future__ import annotations

from collections.abc import Iterator

from mimo_bench.layout import LANGUAGE
from mimo_bench.models import Parameter, stage_parameters, vocab_per_rank
from mimo_bench.predict.state import bucket_sizes
from mimo_bench.predict.step import FP32_BYTES, Calls, Step

WORLD = "default_pg"
"""The role of the group of all ranks; the name is torch's."""
_NUM_TOTALS = 5
"""Sums of `trainer/gradients.py` besides one for each encoder; float64."""
_FP64_BYTES = 8
EXPERT_SLICES = "expert_tp-ep-pp"
"""The axes over which experts, each whole on its rank, are held once."""


def world_calls(step: Step) -> Iterator[Calls]:
    """Totals of the batch (`Totals.reduce`) and the norms of trained modules (`ScheduledOptimizer._reduce_norms`)."""
    size, trained = step.layout.world_size, [name for name in step.layout.modules if not step.training.is_frozen(name)]
    if size > 1:
        totals = _FP64_BYTES * (_NUM_TOTALS + len(step.layout.encoders))
        num_bytes = size * (totals + FP32_BYTES * len(trained))
        yield Calls(role=WORLD, collective="all_reduce", num_calls=2 * size, num_bytes=num_bytes)


def norm_calls(step: Step, module: str) -> Iterator[Calls]:
    """The squared norm of a module's gradients, over all ranks that hold different pieces of them (`_squared_norm`)."""
    if step.training.is_frozen(module):
        return
    grid = step.layout.modules[module]
    whole, dense, experts = ("tp-cp-dp-pp", grid.size), ("tp-pp", grid.tp * grid.pp), (EXPERT_SLICES, grid.ep * grid.pp)
    kinds = (dense, experts) if has_expert_replicas(step, module) else (dense,)
    for kind in kinds:
        axes, num_ranks = whole if step.settings.distributed_optimizer else kind
        if num_ranks > 1:
            num_bytes = FP32_BYTES * grid.size
            yield Calls(role=f"{module}.{axes}", collective="all_reduce", num_calls=grid.size, num_bytes=num_bytes)


def replica_calls(step: Step, module: str) -> Iterator[Calls]:
    """Gradients summed over replicas, in fp32 and bucket by bucket (`_ParamAndGradBucketGroup.start_grad_sync`).

    The distributed optimizer leaves every rank its own range, and gathers the updated weights (`start_param_sync`).
    """
    grid = step.layout.modules[module]
    yield from _reduction(step, module, role=f"{module}.dp-cp", num_replicas=grid.dp)
    if has_expert_replicas(step, module):
        yield from _reduction(step, module, role=f"{module}.expert_dp", num_replicas=grid.expert_dp, of_experts=True)


def _reduction(step: Step, module: str, *, role: str, num_replicas: int, of_experts: bool = False) -> Iterator[Calls]:
    grid = step.layout.modules[module]
    if num_replicas == 1:
        return
    stages = range(grid.pp)
    buckets = [size for stage in stages for size in _buckets(step, module, stage, of_experts=of_experts)]
    num_ranks, num_elements = grid.tp * grid.dp, sum(buckets)
    if not buckets:
        return
    is_sharded = step.settings.distributed_optimizer
    yield Calls(
        role=role,
        collective="reduce_scatter" if is_sharded else "all_reduce",
        num_calls=num_ranks * len(buckets),
        num_bytes=num_ranks * num_elements * FP32_BYTES,
    )
    if is_sharded:
        yield Calls(
            role=role,
            collective="all_gather",
            num_calls=num_ranks * len(buckets),
            # Every rank puts its own range in.
            num_bytes=num_ranks * num_elements // num_replicas * step.element_bytes,
        )


def tied_embedding_calls(step: Step) -> Iterator[Calls]:
    """Gradients of a word embedding that the first and the last stage hold, in fp32.

    Of `_allreduce_word_embedding_grads`.
    """
    shape, grid = step.shape.language, step.layout.language
    if shape.tied_embeddings and grid.pp > 1 and not step.training.is_frozen(LANGUAGE):
        num_ranks = 2 * grid.tp * grid.dp
        num_bytes = vocab_per_rank(shape, grid.tp) * shape.hidden_size * FP32_BYTES
        yield Calls(
            role=f"{LANGUAGE}.embedding",
            collective="all_reduce",
            num_calls=num_ranks,
            num_bytes=num_ranks * num_bytes,
        )


def split_norm_calls(step: Step) -> Iterator[Calls]:
    """Gradients of norms and routers whose input sequence parallelism splits, in fp32, one call for each stage.

    Of `_allreduce_non_tensor_model_parallel_grads`.
    """
    grid = step.layout.language
    if grid.tp == 1 or not step.settings.sequence_parallel or step.training.is_frozen(LANGUAGE):
        return
    norms = [
        sum(one.num_elements for one in stage_parameters(step.shape, LANGUAGE, grid, stage=stage) if _is_norm(one))
        for stage in range(grid.pp)
    ]
    num_ranks = grid.tp * grid.dp
    yield Calls(
        role=f"{LANGUAGE}.tp",
        collective="all_reduce",
        num_calls=num_ranks * len(norms),
        num_bytes=num_ranks * sum(norms) * FP32_BYTES,
    )


def has_expert_replicas(step: Step, module: str) -> bool:
    """Return True if other ranks hold a module's experts than hold the rest of it."""
    if module != LANGUAGE or step.shape.language.experts is None:
        return False
    parameters = stage_parameters(step.shape, module, step.layout.language, stage=0)
    return any(one.has_expert_replicas for one in parameters)


def _buckets(step: Step, module: str, stage: int, *, of_experts: bool) -> tuple[int, ...]:
    grid, settings = step.layout.modules[module], step.settings
    degrees = (grid.tp, grid.pp, grid.dp, grid.ep)
    key = (module, degrees, stage, of_experts, settings.distributed_optimizer, settings.overlap_grad_reduce)
    if (known := step.buckets.get(key)) is None:
        known = step.buckets[key] = bucket_sizes(
            stage_parameters(step.shape, module, grid, stage=stage),
            trains=lambda parameter: step.training.trains(f"{module}.{parameter}"),
            grid=grid,
            stage=stage,
            settings=settings,
            of_experts=of_experts,
        )
    return known


def _is_norm(parameter: Parameter) -> bool:
    # A router reads what a norm gives, and is on every rank like it.
    return parameter.name.endswith(("layernorm.weight", "router.weight"))
