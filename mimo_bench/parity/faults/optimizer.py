"""Faults of the optimizer: right gradients, wrong steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mimo_bench.layout import LANGUAGE
from mimo_bench.models import WORD_EMBEDDING
from mimo_bench.parity.faults.catalogue import fault
from mimo_bench.parity.faults.context import FaultContext, encoders, replace_attribute
from mimo_bench.parity.faults.late import around_steps, projectors
from mimo_bench.trainer import OptimizerState, hosted_modules, trained_shards


@fault(caught_by="optimizer", shows_in=lambda site: site.training.clip_grad_norm > 0)
def clipped_by_own_norm(context: FaultContext) -> None:
    """Each rank clips by the gradient norm of its first module instead of the whole model's; Adam hardly shows it."""
    optimizer = context.trainer.optimizer
    trained, hosted = list(optimizer.learning_rates), dict(hosted_modules(context.trainer.model))
    if own := [index for index, name in enumerate(trained) if name in hosted]:
        clip = optimizer._clip
        replace_attribute(context, optimizer, "_clip", lambda _: clip(optimizer._norms[own[0]]))


@fault(caught_by="optimizer")
def encoder_epsilon_of_another_optimizer(context: FaultContext) -> None:
    """The encoder's Adam uses eps=1e-5, a hundred to a thousand times the configured value."""
    _on_encoder_optimizer(context, lambda group: group.update(eps=1e-5))


@fault(caught_by="optimizer")
def encoder_learning_rate_doubled(context: FaultContext) -> None:
    """The encoder's learning rate is twice the configured value."""
    optimizer = context.trainer.optimizer
    set_rates = optimizer._set_rates

    def double() -> None:
        set_rates()
        _on_encoder_optimizer(context, lambda group: group.update(lr=2 * group["lr"]))

    replace_attribute(context, optimizer, "_set_rates", double)


@fault(caught_by="optimizer", shows_in=lambda site: site.training.weight_decay > 0)
def encoder_weights_not_decayed(context: FaultContext) -> None:
    """The encoder's optimizer has no weight decay."""
    _on_encoder_optimizer(context, lambda group: group.update(weight_decay=0.0))


@fault(caught_by="optimizer")
def encoder_rate_off_by_a_thousandth(context: FaultContext) -> None:
    """The encoder's learning rate is a thousandth above the configured value."""
    optimizer = context.trainer.optimizer
    set_rates = optimizer._set_rates

    def raise_rate() -> None:
        set_rates()
        _on_encoder_optimizer(context, lambda group: group.update(lr=1.001 * group["lr"]))

    replace_attribute(context, optimizer, "_set_rates", raise_rate)


@fault(caught_by="optimizer")
def encoder_betas_swapped(context: FaultContext) -> None:
    """The encoder's Adam has its two betas in the wrong order."""
    _on_encoder_optimizer(context, lambda group: group.update(betas=group["betas"][::-1]))


@fault(caught_by="optimizer", shows_in=lambda site: site.trains_projectors)
def projector_steps_half_as_far_again(context: FaultContext) -> None:
    """Projectors move half as far again as AdamW moves them; rates and gradients are right."""

    def begin() -> Callable[[], None]:
        kept = [(shard.parameter, shard.parameter.detach().clone()) for shard in projectors(context)]

        def lengthen() -> None:
            for parameter, before in kept:
                parameter.add_(parameter - before, alpha=0.5)

        return lengthen

    around_steps(context, begin, when=lambda: True)


@fault(
    caught_by="optimizer",
    shows_in=lambda site: site.training.weight_decay > 0 and not site.ties_embeddings,
)
def rows_without_a_gradient_not_decayed(context: FaultContext) -> None:
    """Rows of the word embedding that no batch has touched do not decay, as in optimizers for sparse gradients."""
    _after_step_on_untouched_rows(context, lambda rows, kept: rows.div_(kept))


@fault(caught_by="optimizer", shows_in=lambda site: not site.ties_embeddings)
def rows_without_a_gradient_grow(context: FaultContext) -> None:
    """Rows of the word embedding that no batch has touched grow by a ten-thousandth in each step."""
    _after_step_on_untouched_rows(context, lambda rows, _: rows.mul_(1 + 1e-4))


@fault(caught_by="optimizer", shows_in=lambda site: site.training.weight_decay > 0 and not site.is_sharded)
def norms_and_biases_not_decayed(context: FaultContext) -> None:
    """Vectors of the language model do not decay, as many recipes have it, and this scenario does not."""

    def begin() -> Callable[[], None]:
        kept = _kept_share(context)

        def undo() -> None:
            for shard in trained_shards(context.trainer.model, context.trainer.topology):
                if shard.module == LANGUAGE and len(shard.full_shape) == 1:
                    shard.parameter.div_(kept)

        return undo

    around_steps(context, begin, when=lambda: True)


def _after_step_on_untouched_rows(context: FaultContext, change: Callable[[torch.Tensor, float], object]) -> None:
    trainer = context.trainer
    state = OptimizerState(trainer.optimizer)

    def begin() -> Callable[[], None]:
        kept = _kept_share(context)

        def act() -> None:
            for shard in trained_shards(trainer.model, trainer.topology):
                if shard.name.endswith(WORD_EMBEDDING):
                    untouched = state.read_one(shard, "exp_avg_sq").eq(0.0).all(dim=1)
                    rows = shard.parameter[untouched]
                    change(rows, kept)
                    shard.parameter[untouched] = rows

        return act

    around_steps(context, begin, when=lambda: True)


def _kept_share(context: FaultContext) -> float:
    """Return the share of a weight of the language model that decay leaves in the next step."""
    training = context.trainer.config.training
    return 1.0 - training.rate_of(LANGUAGE, context.trainer.optimizer.num_steps) * training.weight_decay


def _on_encoder_optimizer(context: FaultContext, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the parameter groups of the encoders' optimizers, which are thrown away with the trainer."""
    for name, _ in encoders(context):
        optimizer = context.trainer.optimizer.module_infos[name].optimizer
        for group in optimizer.param_groups:
            change(group)
