"""The frequencies of rotary positions, plain or scaled."""

from __future__ import annotations

import math

import torch

from mimo_bench.model import LanguageShape
from mimo_bench.model.shape import LinearRope, Llama3Rope


def inverse_frequencies(shape: LanguageShape, *, device: torch.device) -> torch.Tensor:
    """Radians per position of each pair of a head's dims; float32 [head size / 2]."""
    exponents = torch.arange(0, shape.head_size, 2, dtype=torch.float32, device=device) / shape.head_size
    plain = 1.0 / shape.rotary_base**exponents
    match shape.rotary_scaling:
        case None:
            return plain
        case LinearRope(factor=factor):
            return plain / factor
        case Llama3Rope() as scaling:
            return _llama3(plain, scaling)


def _llama3(plain: torch.Tensor, scaling: Llama3Rope) -> torch.Tensor:
    """LLaMA 3.1's scaling, as `transformers` computes it.

    A pair that turns at least `high_freq_factor` times within the original context stays, one that turns at most
    `low_freq_factor` times slows down by `factor`, those between are mixed by how often they turn.
    """
    turns = scaling.original_max_position_embeddings * plain / (2 * math.pi)
    share = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    share = share.clamp(0.0, 1.0)
    return share * plain + (1 - share) * plain / scaling.factor
