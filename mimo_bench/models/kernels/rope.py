"""Rotary positions: their frequencies, plain or scaled, and the rotation of queries and keys.

megatron-core has every layer compute the cosine and the sine of every angle again, for every element of every head: in
a compiled layer on an H200 that took the rotation twice as long as its memory traffic. Here each is computed once
for a micro-batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.transformer import attention
from megatron.core.transformer.transformer_config import TransformerConfig

from mimo_bench.models.llama.shape import LanguageShape, LinearRope, Llama3Rope

_of_angles = attention.apply_rotary_pos_emb
"""megatron-core's own, for models that it was made for."""


_TURNS_NDIM = 5


def install_rope() -> None:
    """Let megatron-core's attention rotate by cosines and sines that are ready, in this process."""
    attention.apply_rotary_pos_emb = rotate
    # What it takes where its configuration asks for `fused_single_qkv_rope`.
    attention.apply_fused_qkv_rotary_pos_emb = rotate_at_once
    attention.HAVE_FUSED_QKV_ROPE = True


def turn(angles: RotaryEmbedding, *, dtype: torch.dtype) -> None:
    """Let `angles` give [2, s, 1, 1, head size] in `dtype` for a length s, cosines and sines of what it gave before."""
    radians = angles.forward

    def cosines_and_sines(*length: Any, **options: Any) -> torch.Tensor:
        found: torch.Tensor = radians(*length, **options)
        return torch.stack([found.cos(), found.sin()]).to(dtype)

    angles.forward = cosines_and_sines


def rotate(heads: torch.Tensor, turns: torch.Tensor, config: TransformerConfig, **options: Any) -> torch.Tensor:
    """Queries or keys [s, b, heads, d] turned by their position; a pair is a dim and the one half a head further on.

    `turns` is what `turn` makes; another model of the same process may still bring angles, [s, 1, 1, d].

    Su et al., "RoFormer", arXiv 2104.09864, with pairs as LLaMA has them.
    """
    if turns.dim() != _TURNS_NDIM:
        turned: torch.Tensor = _of_angles(heads, turns, config, **options)
        return turned
    assert not config.rotary_interleaved, "pairs of neighbouring dims are not built"
    return _turned(heads, turns)


def _turned(heads: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    cosines, sines = turns.unbind(0)
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat([-second, first], dim=-1) * sines


def rotate_at_once(
    mixed: torch.Tensor, turns: torch.Tensor, _: torch.Tensor, sizes: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same of queries and keys, and values as they are, in one kernel that also takes them apart.

    Args:
        mixed: [s, b, groups, (r + 2) d]: of each group r queries, a key and a value.
        turns: [2, s, 1, 1, d], of queries and keys alike.
        sizes: r d, d and d.

    Returns:
        Queries [s, b, groups * r, d], keys and values [s, b, groups, d].
    """
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _Turn.apply(mixed, turns, sizes[0] // sizes[1])  # type: ignore[no-untyped-call]
    return parts


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mixed: torch.Tensor, turns: torch.Tensor, per_group: int) -> Any:
        ctx.save_for_backward(turns)
        return turn_apart(mixed, turns, per_group)

    @staticmethod
    def backward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        (turns,) = ctx.saved_tensors
        return turn_together(query, key, value, turns), None, None


@torch.library.custom_op("mimo_bench::turn_apart", mutates_args=())
def turn_apart(
    mixed: torch.Tensor, turns: torch.Tensor, per_group: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries and keys, turned, and values of `mixed`."""
    parts = _empty_parts(mixed, per_group)
    if mixed.is_cuda:
        from mimo_bench.models.kernels.triton import launch_turn

        launch_turn(mixed.contiguous(), parts, turns, is_backward=False)
        return parts
    size = parts[1].shape[-1]
    query, key, value = mixed.float().split([per_group * size, size, size], dim=-1)
    turned = (_turned(query.reshape(parts[0].shape), turns.float()), _turned(key, turns.float()), value)
    for part, result in zip(parts, turned, strict=True):
        part.copy_(result)
    return parts


@turn_apart.register_fake
def _(mixed: torch.Tensor, turns: torch.Tensor, per_group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _empty_parts(mixed, per_group)


@torch.library.custom_op("mimo_bench::turn_together", mutates_args=())
def turn_together(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """The gradient of `mixed` from those of its three parts."""
    mixed = _empty_mixed(query, key)
    if query.is_cuda:
        from mimo_bench.models.kernels.triton import launch_turn

        launch_turn(mixed, (query.contiguous(), key.contiguous(), value.contiguous()), turns, is_backward=True)
        return mixed
    # A rotation's gradient is turned back.
    back = turns.float() * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1)
    size, per_group = key.shape[-1], query.shape[2] // key.shape[2]
    of_query = _turned(query.float(), back).reshape(*key.shape[:3], per_group * size)
    mixed.copy_(torch.cat([of_query, _turned(key.float(), back), value.float()], dim=-1))
    return mixed


@turn_together.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    return _empty_mixed(query, key)


def _empty_parts(mixed: torch.Tensor, per_group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    length, num_samples, num_groups, width = mixed.shape
    size = width // (per_group + 2)
    group = length, num_samples, num_groups, size
    return (
        mixed.new_empty(length, num_samples, num_groups * per_group, size),
        mixed.new_empty(group),
        mixed.new_empty(group),
    )


def _empty_mixed(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    length, num_samples, num_groups, size = key.shape
    return query.new_empty(length, num_samples, num_groups, (query.shape[2] // num_groups + 2) * size)


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
