"""Faults of what runs only as timed: fused and overlapped parts. Parity mode, which fuses nothing, passes them."""

from __future__ import annotations

from collections.abc import Callable

from mimo_bench.layout import LANGUAGE
from mimo_bench.parity.faults.catalogue import fault
from mimo_bench.parity.faults.context import FaultContext, encoders, replace_attribute
from mimo_bench.parity.faults.late import around_steps, grown, restore_projectors
from mimo_bench.trainer import Shard, trained_shards


@fault(
    caught_by="as_timed",
    modes=("parity", "timing"),
    shows_in=lambda site: site.settings.fused_optimizer and site.trains_projectors,
)
def fused_optimizer_idles_from_the_middle_on(context: FaultContext) -> None:
    """The fused optimizer leaves projectors as they are in the second half of the steps."""
    if context.trainer.config.settings.fused_optimizer:
        optimizer = context.trainer.optimizer
        around_steps(context, restore_projectors(context), when=lambda: optimizer.num_steps >= context.num_steps // 2)


@fault(
    caught_by="as_timed",
    modes=("parity", "timing"),
    shows_in=lambda site: (
        site.settings.fused_optimizer and site.encoder_dp > 1 and site.trains_projectors and not site.is_sharded
    ),
)
def replica_drifts_under_the_fused_optimizer(context: FaultContext) -> None:
    """The second replica of each projector grows by a hundred-thousandth with each fused step."""
    if context.trainer.config.settings.fused_optimizer:
        around_steps(context, grown(context, lambda shard: shard.replicas.rank() == 1), when=lambda: True)


@fault(
    caught_by="as_timed",
    modes=("parity", "timing"),
    shows_in=lambda site: site.settings.fused_gradient_accumulation,
)
def fused_accumulation_loses_a_matrix(context: FaultContext) -> None:
    """The first layer of the language model gets no gradient for its output projection."""
    if context.trainer.config.settings.fused_gradient_accumulation:
        _on_gradient(context, "linear_proj.weight", lambda shard: shard.parameter.main_grad.zero_())  # type: ignore[attr-defined]


@fault(caught_by="as_timed", modes=("parity", "timing"), shows_in=lambda site: site.settings.fused_loss)
def fused_loss_flips_a_gradient(context: FaultContext) -> None:
    """The first layer's gradient of queries, keys and values has the wrong sign; every gradient norm is right."""
    if context.trainer.config.settings.fused_loss:
        _on_gradient(context, "linear_qkv.weight", lambda shard: shard.parameter.main_grad.neg_())  # type: ignore[attr-defined]


@fault(
    caught_by="as_timed",
    modes=("parity", "timing"),
    shows_in=lambda site: site.settings.overlap_grad_reduce and site.encoder_dp > 1 and not site.is_sharded,
)
def overlapped_reduction_skipped(context: FaultContext) -> None:
    """Replicas of the encoder keep gradients of their own where the reduction overlaps the backward pass."""
    if context.trainer.config.settings.overlap_grad_reduce:
        for _, module in encoders(context):
            for group in module.bucket_groups:
                replace_attribute(context, group, "start_grad_sync", lambda *_, **__: None)
                replace_attribute(context, group, "finish_grad_sync", lambda *_, **__: None)


def _on_gradient(context: FaultContext, end: str, change: Callable[[Shard], None]) -> None:
    """Change the finished gradient of a parameter in the first layer of the language model."""
    trainer = context.trainer
    finish = trainer.model.config.finalize_model_grads_func

    def finish_and_change(*args: object, **kwargs: object) -> None:
        finish(*args, **kwargs)
        for shard in trained_shards(trainer.model, trainer.topology):
            if shard.module == LANGUAGE and ".layers.0." in shard.name and shard.name.endswith(end):
                change(shard)

    replace_attribute(context, trainer.model.config, "finalize_model_grads_func", finish_and_change)
