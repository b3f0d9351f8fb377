"""Calls that a step makes once, behind its last micro-batch: gradients, norms and updated weights."""

from __future__ import annotations

from collections.abc import Iterator

from mimo_bench.layout import LANGUAGE
from mimo_bench.prediction.parameters import Parameter, stage_parameters, words_per_rank
from mimo_bench.prediction.state import bucket_sizes
from mimo_bench.prediction.step import FP32_BYTES, Calls, Step

WORLD = "default_pg"
"""The role of the group of all ranks; the name is torch's."""
_NUM_TOTALS = 5
"""Sums of `trainer/grads.py` beside one for each encoder; float64."""
_FP64_BYTES = 8


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
    is_sharded = step.settings.distributed_optimizer
    axes, num_ranks = ("tp-cp-dp-pp", grid.size) if is_sharded else ("tp-pp", grid.tp * grid.pp)
    if num_ranks > 1:
        yield Calls(
            role=f"{module}.{axes}", collective="all_reduce", num_calls=grid.size, num_bytes=FP32_BYTES * grid.size
        )


def replica_calls(step: Step, module: str) -> Iterator[Calls]:
    """Gradients summed over replicas, in fp32 and bucket by bucket (`_ParamAndGradBucketGroup.start_grad_sync`).

    The distributed optimizer leaves every rank its own range, and gathers the updated weights (`start_param_sync`).
    """
    grid = step.layout.modules[module]
    if grid.dp == 1:
        return
    buckets = [size for stage in range(grid.pp) for size in _buckets(step, module, stage)]
    num_ranks, num_elements = grid.tp * grid.dp, sum(buckets)
    if not buckets:
        return
    is_sharded = step.settings.distributed_optimizer
    yield Calls(
        role=f"{module}.dp-cp",
        collective="reduce_scatter" if is_sharded else "all_reduce",
        num_calls=num_ranks * len(buckets),
        num_bytes=num_ranks * num_elements * FP32_BYTES,
    )
    if is_sharded:
        yield Calls(
            role=f"{module}.dp-cp",
            collective="all_gather",
            num_calls=num_ranks * len(buckets),
            # Every rank puts its own range in.
            num_bytes=num_ranks * num_elements // grid.dp * step.element_bytes,
        )


def tied_embedding_calls(step: Step) -> Iterator[Calls]:
    """Gradients of a word embedding that stands on the first and on the last stage, in fp32.

    Of `_allreduce_word_embedding_grads`.
    """
    shape, grid = step.shape.language, step.layout.language
    if shape.tied_embeddings and grid.pp > 1 and not step.training.is_frozen(LANGUAGE):
        num_ranks = 2 * grid.tp * grid.dp
        num_bytes = words_per_rank(shape, grid.tp) * shape.hidden_size * FP32_BYTES
        yield Calls(
            role=f"{LANGUAGE}.embedding",
            collective="all_reduce",
            num_calls=num_ranks,
            num_bytes=num_ranks * num_bytes,
        )


def split_norm_calls(step: Step) -> Iterator[Calls]:
    """Gradients of norms whose input sequence parallelism splits, in fp32, one call for each stage.

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


def _buckets(step: Step, module: str, stage: int) -> tuple[int, ...]:
    grid = step.layout.modules[module]
    return bucket_sizes(
        stage_parameters(step.shape, module, grid, stage=stage),
        trains=lambda parameter: step.training.trains(f"{module}.{parameter}"),
        grid=grid,
        stage=stage,
        settings=step.settings,
    )


def _is_norm(parameter: Parameter) -> bool:
    return parameter.name.endswith("layernorm.weight")
