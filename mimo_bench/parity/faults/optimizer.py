"""Faults of the optimizer: right gradients, wrong steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mimo_bench.parity.faults.catalogue import fault
from mimo_bench.parity.faults.context import FaultContext, encoders, replace_attribute
from mimo_bench.trainer import hosted_modules


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


def _on_encoder_optimizer(context: FaultContext, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the parameter groups of the encoders' optimizers, which are thrown away with the trainer."""
    for name, _ in encoders(context):
        optimizer = context.trainer.optimizer.module_infos[name].optimizer
        for group in optimizer.param_groups:
            change(group)
