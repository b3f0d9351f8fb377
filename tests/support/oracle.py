"""The referee beyond one pass: other configurations, and AdamW's updates of its parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import PreTrainedModel

from mimo_bench.models.llava.referee import to_transformers
from mimo_bench.parity.probes import referee
from mimo_bench.parity.probes.referee import (
    NOT_SCORED,
    Pass,
    Samples,
    Tensors,
    deviation,
    forward,
    module_norms,
    module_of,
    run_referee,
)
from mimo_bench.scenario.training import Training

__all__ = [
    "NOT_SCORED",
    "Pass",
    "Samples",
    "Tensors",
    "Trained",
    "build_referee",
    "deviation",
    "run_referee",
    "to_transformers",
    "train",
    "train_referee",
    "update_errors",
    "zero_gradients",
]

ZERO_SHARE = 1e-6
"""Share of its module's gradient norm below which a gradient, in float64, ought to be zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """Losses and updates of optimizer steps."""

    losses: list[float]
    """Losses of every step, before its update."""
    updates: Tensors
    """Change of every parameter, by the names of `transformers`."""


def zero_gradients(found: Pass) -> set[str]:
    """The parameters whose gradient ought to be zero."""
    norms = module_norms(found.gradients)
    return {name for name, gradient in found.gradients.items() if gradient.norm() < ZERO_SHARE * norms[module_of(name)]}


def build_referee(
    config: Path,
    weights: Tensors,
    *,
    dtype: torch.dtype = torch.float64,
    vision: Mapping[str, Any] = MappingProxyType({}),
    text: Mapping[str, Any] = MappingProxyType({}),
) -> PreTrainedModel:
    """The referee that a config.json describes.

    Args:
        config: the file.
        weights: by the names of `transformers`.
        dtype: what it computes in.
        vision: fields of the vision configuration to set differently, where a test wants another model.
        text: the same of the language model's.
    """
    fields = json.loads(config.read_text(encoding="utf-8"))
    fields["vision_config"] |= vision
    fields["text_config"] |= text
    return referee.build_referee(fields, weights, dtype=dtype)


def train_referee(
    model: PreTrainedModel, trained: Iterable[str], batches: Iterable[Samples], training: Training
) -> Trained:
    """Optimizer steps on the `trained` parameters of a model; each takes all samples of a batch at once."""
    known = dict(model.named_parameters())
    return train(
        {name: known[name] for name in trained}, lambda samples: forward(model, samples).loss, batches, training
    )


def train[Batch](
    parameters: Mapping[str, torch.nn.Parameter],
    loss_of: Callable[[Batch], torch.Tensor],
    batches: Iterable[Batch],
    training: Training,
) -> Trained:
    """Steps of torch's own AdamW, clipped by torch's own global norm.

    Everything is decayed, norms and biases too: so does our trainer.
    """
    optimizer = torch.optim.AdamW(
        parameters.values(),
        weight_decay=training.weight_decay,
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
    )
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    losses = []
    for batch in batches:
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), training.clip_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return Trained(
        losses=losses,
        updates={name: parameter.detach() - before[name] for name, parameter in parameters.items()},
    )


def update_errors(ours: Tensors, referee: Trained, *, uncompared: Container[str]) -> dict[str, float]:
    """Return the relative error of each parameter's update: the norm of the difference over the referee's norm.

    Nothing is compared of parameters whose true gradient is zero: Adam makes steps of what rounding leaves.
    """
    assert set(ours) == set(referee.updates), set(ours) ^ set(referee.updates)
    return {
        name: float((ours[name] - expected).norm() / expected.norm())
        for name, expected in referee.updates.items()
        if name not in uncompared
    }
