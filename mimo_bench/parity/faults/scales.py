"""Faults of normalisation: gradients summed instead of averaged, or divided by a wrong count."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mimo_bench.layout import LANGUAGE
from mimo_bench.models import WORD_EMBEDDING
from mimo_bench.parity.faults.catalogue import fault
from mimo_bench.parity.faults.context import FaultContext, encoders, replace_attribute
from mimo_bench.trainer import Shard, hosted_modules, shards


@fault(caught_by="gradients", shows_in=lambda site: site.encoder_dp > 1)
def encoder_gradient_averaged_over_replicas(context: FaultContext) -> None:
    """The encoder averages gradients over its replicas, and the language model sums them."""
    for name, module in encoders(context):
        _scale_further(context, module, 1 / context.layout.modules[name].dp)


@fault(caught_by="gradients", shows_in=lambda site: site.encoder_dp != site.layout.language.dp)
def encoder_gradient_scaled_by_dp_ratio(context: FaultContext) -> None:
    """Each module averages over its own replicas, so the encoder's gradient is off by the ratio of degrees."""
    for name, module in encoders(context):
        _scale_further(context, module, context.layout.language.dp / context.layout.modules[name].dp)


@fault(caught_by="gradients")
def encoder_gradient_not_normalised(context: FaultContext) -> None:
    """The encoder's gradient stays a sum over answer tokens while the language model's becomes a mean."""
    for _, module in encoders(context):
        replace_attribute(context, module, "scale_gradients", lambda _: None)


@fault(
    caught_by="gradients",
    shows_in=lambda site: site.layout.language.tp > 1 and not site.is_sharded,
)
def gradient_of_one_slice_lost(context: FaultContext) -> None:
    """The last tensor-parallel rank of the language model gets no gradient for its own shards."""

    def drop(shard: Shard) -> None:
        if shard.dim is not None and shard.tp_group.rank() == shard.tp_group.size() - 1:
            shard.parameter.main_grad.zero_()  # type: ignore[attr-defined]  # megatron-core's mark

    _on_finished_gradients(context, LANGUAGE, drop)


@fault(
    caught_by="gradients",
    shows_in=lambda site: site.layout.language.pp > 1 and not site.is_sharded,
)
def gradient_of_one_stage_doubled(context: FaultContext) -> None:
    """The first stage of the language model counts each micro-batch twice, in the parameters that only it holds."""
    ties_embeddings = context.trainer.config.shape.language.tied_embeddings

    def double(shard: Shard) -> None:
        is_shared = ties_embeddings and shard.name.endswith(WORD_EMBEDDING)
        if context.trainer.topology.is_first_stage(LANGUAGE) and not is_shared:
            shard.parameter.main_grad.mul_(2.0)  # type: ignore[attr-defined]  # megatron-core's mark

    _on_finished_gradients(context, LANGUAGE, double)


@fault(
    caught_by="replicas",
    shows_in=lambda site: (
        site.layout.language.dp > 1 and site.layout.language.tp == site.layout.language.pp == 1 and not site.is_sharded
    ),
)
def local_token_count(context: FaultContext) -> None:
    """Each language replica divides by its own number of answer tokens, times the number of replicas."""
    totals, replicas = context.trainer.totals, context.layout.language.dp
    reduce = totals.reduce
    own: list[float] = []

    def remember() -> None:
        own[:] = [totals.read()["scored_tokens"] * replicas]
        reduce()

    replace_attribute(context, totals, "reduce", remember)
    if (module := dict(hosted_modules(context.trainer.model)).get(LANGUAGE)) is not None:
        scale = module.scale_gradients
        # Only ranks that have counted tokens have a number of their own.
        replace_attribute(context, module, "scale_gradients", lambda by: scale(1 / own[0] if own[0] else by))


@fault(caught_by="gradients", shows_in=lambda site: site.plan.num_micro_batches > 1)
def micro_batches_averaged(context: FaultContext) -> None:
    """The encoder's gradient is a mean over micro-batches, the language model's a sum."""
    for _, module in encoders(context):
        _scale_further(context, module, 1 / context.trainer.config.plan.num_micro_batches)


def _on_finished_gradients(context: FaultContext, module: str, change: Callable[[Shard], None]) -> None:
    """Change the gradients of a module after they are reduced and normalised."""
    trainer = context.trainer
    finish = trainer.model.config.finalize_model_grads_func

    def finish_and_change(*args: Any, **kwargs: Any) -> None:
        finish(*args, **kwargs)
        for shard in shards(trainer.model, trainer.topology):
            if shard.module == module:
                change(shard)

    replace_attribute(context, trainer.model.config, "finalize_model_grads_func", finish_and_change)


def _scale_further(context: FaultContext, module: Any, ratio: float) -> None:
    """Scale a module's gradients by `ratio` in addition to their normalisation."""
    replace_attribute(context, module, "scale_gradients", partial(_scale_twice, module.scale_gradients, ratio))


def _scale_twice(scale: Callable[[Any], None], ratio: float, by: Any) -> None:
    scale(by * ratio)
