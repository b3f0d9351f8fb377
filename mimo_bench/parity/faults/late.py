"""Faults of the last step alone: every loss and gradient norm is right, as no step follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from mimo_bench.parity.faults.catalogue import fault
from mimo_bench.parity.faults.context import FaultContext, encoders, replace_attribute
from mimo_bench.trainer import Shard, trained_shards


@fault(caught_by="optimizer", shows_in=lambda site: site.trains_projectors)
def projector_gradient_flipped_in_the_last_step(context: FaultContext) -> None:
    """The gradient of each projector has the wrong sign in the last step; its norm is right."""
    finish = context.trainer.model.config.finalize_model_grads_func

    def flip(*args: object, **kwargs: object) -> None:
        finish(*args, **kwargs)
        if _is_last(context):
            for shard in projectors(context):
                shard.parameter.main_grad.neg_()  # type: ignore[attr-defined]  # megatron-core's mark

    replace_attribute(context, context.trainer.model.config, "finalize_model_grads_func", flip)


@fault(caught_by="optimizer", shows_in=lambda site: site.trains_projectors)
def projector_stops_learning_in_the_last_step(context: FaultContext) -> None:
    """The weights of each projector stay as they are in the last step."""
    around_steps(context, restore_projectors(context), when=lambda: _is_last(context))


@fault(caught_by="optimizer", shows_in=lambda site: site.training.weight_decay > 0)
def decay_lost_in_the_last_step(context: FaultContext) -> None:
    """The encoder's weights do not decay in the last step."""
    optimizer = context.trainer.optimizer
    set_rates = optimizer._set_rates
    hosted = dict(encoders(context))

    def lose() -> None:
        set_rates()
        for name, groups in optimizer.groups():
            for group in groups if name in hosted and _is_last(context) else ():
                group["weight_decay"] = 0.0

    replace_attribute(context, optimizer, "_set_rates", lose)


@fault(caught_by="replicas", shows_in=lambda site: site.encoder_dp > 1 and site.trains_projectors)
def replica_drifts_in_the_last_step(context: FaultContext) -> None:
    """The second replica of each projector is a hundred-thousandth larger after the last step."""
    grow = grown(context, lambda shard: shard.replicas.rank() == 1)
    around_steps(context, grow, when=lambda: _is_last(context))


@fault(caught_by="replicas", shows_in=lambda site: site.has(tp=2))
def tensor_parallel_copy_drifts_in_the_last_step(context: FaultContext) -> None:
    """Copies on the second tensor-parallel rank are a hundred-thousandth larger after the last step."""

    def grow() -> Callable[[], None]:
        def act() -> None:
            for shard in trained_shards(context.trainer.model, context.trainer.topology):
                if shard.dim is None and shard.tp_group.rank() == 1:
                    shard.parameter.mul_(1 + 1e-5)

        return act

    around_steps(context, grow, when=lambda: _is_last(context))


def projectors(context: FaultContext) -> Iterator[Shard]:
    """Yield the trained parameters of projectors on this rank."""
    for shard in trained_shards(context.trainer.model, context.trainer.topology):
        if shard.name.startswith(f"{shard.module}.projector."):
            yield shard


def around_steps(context: FaultContext, begin: Callable[[], Callable[[], None]], *, when: Callable[[], bool]) -> None:
    """Call `begin` before each optimizer step for which `when` is true, and what it returns after the step."""
    optimizer = context.trainer.optimizer
    step = optimizer.step

    def act() -> None:
        with torch.no_grad():
            finish = begin() if when() else None
            step()
            if finish is not None:
                finish()

    replace_attribute(context, optimizer, "step", act)


def restore_projectors(context: FaultContext) -> Callable[[], Callable[[], None]]:
    """Return a `begin` for `around_steps` that takes the update of projectors back."""

    def begin() -> Callable[[], None]:
        kept = [(shard.parameter, shard.parameter.detach().clone()) for shard in projectors(context)]

        def restore() -> None:
            for parameter, before in kept:
                parameter.copy_(before)

        return restore

    return begin


def grown(context: FaultContext, where: Callable[[Shard], bool]) -> Callable[[], Callable[[], None]]:
    """Return a `begin` for `around_steps` that enlarges projectors by a hundred-thousandth after the step."""

    def begin() -> Callable[[], None]:
        def grow() -> None:
            for shard in filter(where, projectors(context)):
                shard.parameter.mul_(1 + 1e-5)

        return grow

    return begin


def _is_last(context: FaultContext) -> bool:
    return context.trainer.optimizer.num_steps == context.num_steps - 1
