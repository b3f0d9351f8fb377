"""Faults that tests plant in addition to those of the package."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from mimo_bench.layout.layout import LANGUAGE
from mimo_bench.parity import FaultContext, replace_attribute
from mimo_bench.parity.faults.collectives import survey
from mimo_bench.trainer.model import hosted_modules
from mimo_bench.trainer.weights import drawn, shards


def quarter_encoder_gradient(context: FaultContext) -> None:
    """The encoder's gradient is a quarter of what it should be."""
    for name, module in hosted_modules(context.trainer.model):
        if name != LANGUAGE:
            module.scale_gradients = partial(_quarter, module.scale_gradients)


def _quarter(scale: Any, by: Any) -> None:
    scale(by * 0.25)


def expert_gradients_not_reduced(context: FaultContext) -> None:
    """Ranks that hold the same expert each keep the gradient that their own positions gave it."""
    language = dict(hosted_modules(context.trainer.model)).get(LANGUAGE)
    for group in () if language is None else language.expert_parallel_bucket_groups:
        group.start_grad_sync = group.finish_grad_sync = lambda *_, **__: None


def expert_gradients_swapped(context: FaultContext) -> None:
    """Swap the gradients of two experts of one layer, on every rank that holds them."""
    trainer = context.trainer
    finish = trainer.model.config.finalize_model_grads_func

    def swap(*args: Any, **kwargs: Any) -> None:
        finish(*args, **kwargs)
        held: dict[str, Any] = {shard.name: shard.parameter for shard in shards(trainer.model, trainer.topology)}
        layer = "language.decoder.layers.1.mlp.experts"
        for part in ("linear_fc1", "linear_fc2"):
            one, other = (held.get(f"{layer}.{expert}.{part}.weight") for expert in (2, 3))
            if one is not None and other is not None:
                kept = one.main_grad.clone()
                one.main_grad.copy_(other.main_grad)
                other.main_grad.copy_(kept)

    trainer.model.config.finalize_model_grads_func = swap


def experts_numbered_by_rank(context: FaultContext) -> None:
    """Every rank starts its experts from the weights of the first ones, as their numbers on the rank would say."""
    with torch.no_grad():
        for shard in shards(context.trainer.model, context.trainer.topology):
            if shard.has_expert_replicas and (match := _EXPERT.search(shard.name)):
                ours = int(match[1]) % (_NUM_EXPERTS // context.layout.language.ep)
                name = f"{shard.name[: match.start(1)]}{ours}{shard.name[match.end(1) :]}"
                shard.parameter.copy_(drawn(replace(shard, name=name), seed=context.trainer.config.seed))


_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_NUM_EXPERTS = 4


def unwatched_call(context: FaultContext, path: str) -> None:
    """Every step ends with a call that no mutant is made of, under the survey."""
    optimizer = context.trainer.optimizer
    step = optimizer.step

    def gather_too() -> None:
        step()
        number = torch.zeros(1)
        parts = [torch.zeros(1) for _ in range(context.layout.world_size)] if context.rank == 0 else None
        torch.distributed.gather(number, parts, dst=0)

    replace_attribute(context, optimizer, "step", gather_too)
    survey(context, path)
