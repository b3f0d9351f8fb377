"""Entries for the tests of freezing and learning rates: take steps, and write what a test looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mimo_bench.models.kernels.rng import digest
from mimo_bench.trainer.model import hosted_modules, unwrap
from mimo_bench.trainer.trainer import Trainer
from mimo_bench.trainer.weights import shards
from tests.ranks.trainer_entries import build, leave


def train_two_steps(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Leave by parameter whether it moved and has a gradient; and how much gradients and optimizer hold."""
    trainer = build(arguments)
    features: list[bool] = []
    _watch_encoders(trainer, features)
    before = {shard.name: digest(shard.parameter) for shard in shards(trainer.model, trainer.topology)}
    results = [trainer.train_step(trainer.loader.global_batch("train", step)).result() for step in range(2)]
    held = list(shards(trainer.model, trainer.topology))
    gradients = [shard.parameter.main_grad for shard in held if hasattr(shard.parameter, "main_grad")]
    leave(
        arguments,
        rank,
        {
            "moved": [shard.name for shard in held if digest(shard.parameter) != before[shard.name]],
            "has_gradient": [shard.name for shard in held if hasattr(shard.parameter, "main_grad")],
            "in_optimizer": sum(map(_num_state_elements, _optimizers(trainer))),
            "in_buffers": sum(
                buffer.grad_data.numel() for _, module in hosted_modules(trainer.model) for buffer in module.buffers
            ),
            "trained": sum(shard.parameter.numel() for shard in held if shard.parameter.requires_grad),
            "grad_norms": [result.grad_norms for result in results],
            "clipped_norm": float(torch.stack([each.norm() for each in gradients]).norm()) if gradients else 0.0,
            "features_need_gradient": features,
            "losses": [result.loss for result in results],
        },
    )


def leave_rates(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Leave the rate that every parameter group of each module was updated with, step by step."""
    trainer = build(arguments)
    rates = []
    for step in range(3):
        trainer.train_step(trainer.loader.global_batch("train", step))
        infos = trainer.optimizer.module_infos.items()
        rates.append(
            {
                name: sorted({group["lr"] for group in info.optimizer.param_groups})
                for name, info in infos
                if info.optimizer
            }
        )
    leave(arguments, rank, rates)


def _watch_encoders(trainer: Trainer, seen: list[bool]) -> None:
    for name, module in hosted_modules(trainer.model):
        inner: Any = unwrap(module)
        for encoder in inner.encoders.values() if name != "language" else ():
            encoder.register_forward_hook(lambda _, __, output: seen.append(output.requires_grad))


def _optimizers(trainer: Trainer) -> list[Any]:
    return [info.optimizer for info in trainer.optimizer.module_infos.values() if info.optimizer is not None]


def _num_state_elements(optimizer: Any) -> int:
    """Elements of the first moments that a module's optimizer keeps on this rank."""
    inner = [each.optimizer for each in getattr(optimizer, "chained_optimizers", [optimizer]) if each.optimizer]
    return sum(state["exp_avg"].numel() for each in inner for state in each.state.values())
