"""LLaVA with an adapter behind its projector: two small layers that add to what the projector returns."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.mimo.model.base import MimoModel

from mimo_bench.models import ModelShape
from mimo_bench.trainer import build_model


def adapted_projector(shape: ModelShape, **build: Any) -> MimoModel:
    """Return this rank's part of the model; weights are drawn by name afterwards."""
    model = build_model(shape, **build)
    for module in model.modality_submodules.values():
        for projector in module.input_projections:
            like = next(projector.parameters())
            width = shape.language.hidden_size
            projector.adapter = torch.nn.Sequential(
                torch.nn.Linear(width, 8), torch.nn.Tanh(), torch.nn.Linear(8, width)
            ).to(device=like.device, dtype=like.dtype)
            projector.register_forward_hook(_add_adapter)
    return model


def _add_adapter(projector: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    adapted: torch.Tensor = output + projector.adapter(output)
    return adapted
