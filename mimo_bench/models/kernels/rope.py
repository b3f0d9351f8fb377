"""Rotary positions: their frequencies, plain or scaled, and the rotation of queries and keys.

megatron-core computes cosine and sine again in every layer, for every element of every head. In a compiled layer on an
H200 the rotation took twice the time of its memory traffic. Here both are computed once for a micro-batch.
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
"""megatron-core's function, for other models of the process."""
_COS_SIN_NDIM = 5


def install_rope() -> None:
    """Replace the rotation of megatron-core's attention in this process."""
    attention.apply_rotary_pos_emb = rotate
    # megatron-core calls this one if its configuration has `fused_single_qkv_rope`.
    attention.apply_fused_qkv_rotary_pos_emb = rotate_fused_qkv
    attention.HAVE_FUSED_QKV_ROPE = True


def cache_cos_sin(angles: RotaryEmbedding, *, dtype: torch.dtype) -> None:
    """Make `angles` return cosines and sines, [2, s, 1, 1, head size] in `dtype`, instead of angles."""
    radians = angles.forward

    def cosines_and_sines(*length: Any, **options: Any) -> torch.Tensor:
        found: torch.Tensor = radians(*length, **options)
        return torch.stack([found.cos(), found.sin()]).to(dtype)

    angles.forward = cosines_and_sines


def rotate(heads: torch.Tensor, cos_sin: torch.Tensor, config: TransformerConfig, **options: Any) -> torch.Tensor:
    """Return queries or keys [s, b, heads, d] rotated by their position; dim i and dim i + d / 2 are a pair.

    `cos_sin` comes from `cache_cos_sin`; another model of the process may pass angles, [s, 1, 1, d], instead.

    Su et al., "RoFormer", arXiv 2104.09864, with the pairs of LLaMA.
    """
    if cos_sin.dim() != _COS_SIN_NDIM:
        rotated: torch.Tensor = _of_angles(heads, cos_sin, config, **options)
        return rotated
    assert not config.rotary_interleaved, "pairs of neighbouring dims are not built"
    return _rotated(heads, cos_sin)


def _rotated(heads: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    cosines, sines = cos_sin.unbind(0)
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat([-second, first], dim=-1) * sines


def rotate_fused_qkv(
    mixed_qkv: torch.Tensor, cos_sin: torch.Tensor, _: torch.Tensor, sizes: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split queries, keys and values and rotate queries and keys, in one kernel.

    Args:
        mixed_qkv: [s, b, groups, (r + 2) d]: of each group r queries, a key and a value.
        cos_sin: [2, s, 1, 1, d], of queries and keys alike.
        sizes: r d, d and d.

    Returns:
        Queries [s, b, groups * r, d], keys and values [s, b, groups, d].
    """
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _SplitAndRotate.apply(
        mixed_qkv, cos_sin, sizes[0] // sizes[1]
    )  # type: ignore[no-untyped-call]
    return parts


class _SplitAndRotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mixed_qkv: torch.Tensor, cos_sin: torch.Tensor, per_group: int) -> Any:
        ctx.save_for_backward(cos_sin)
        return split_qkv_and_rotate(mixed_qkv, cos_sin, per_group)

    @staticmethod
    def backward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        (cos_sin,) = ctx.saved_tensors
        return split_qkv_and_rotate_backward(query, key, value, cos_sin), None, None


@torch.library.custom_op("mimo_bench::split_qkv_and_rotate", mutates_args=())
def split_qkv_and_rotate(
    mixed_qkv: torch.Tensor, cos_sin: torch.Tensor, per_group: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rotated queries, rotated keys, and values of `mixed_qkv`."""
    parts = _empty_parts(mixed_qkv, per_group)
    if mixed_qkv.is_cuda:
        from mimo_bench.models.kernels.triton import launch_rotation

        launch_rotation(mixed_qkv.contiguous(), parts, cos_sin, is_backward=False)
        return parts
    size = parts[1].shape[-1]
    query, key, value = mixed_qkv.float().split([per_group * size, size, size], dim=-1)
    rotated = (_rotated(query.reshape(parts[0].shape), cos_sin.float()), _rotated(key, cos_sin.float()), value)
    for part, result in zip(parts, rotated, strict=True):
        part.copy_(result)
    return parts


@split_qkv_and_rotate.register_fake
def _(
    mixed_qkv: torch.Tensor, cos_sin: torch.Tensor, per_group: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _empty_parts(mixed_qkv, per_group)


@torch.library.custom_op("mimo_bench::split_qkv_and_rotate_backward", mutates_args=())
def split_qkv_and_rotate_backward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cos_sin: torch.Tensor
) -> torch.Tensor:
    """Return the gradient of `mixed_qkv` from the gradients of its three parts."""
    mixed_qkv = _empty_mixed_qkv(query, key)
    if query.is_cuda:
        from mimo_bench.models.kernels.triton import launch_rotation

        launch_rotation(
            mixed_qkv, (query.contiguous(), key.contiguous(), value.contiguous()), cos_sin, is_backward=True
        )
        return mixed_qkv
    # The backward of a rotation is the opposite rotation.
    back = cos_sin.float() * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1)
    size, per_group = key.shape[-1], query.shape[2] // key.shape[2]
    of_query = _rotated(query.float(), back).reshape(*key.shape[:3], per_group * size)
    mixed_qkv.copy_(torch.cat([of_query, _rotated(key.float(), back), value.float()], dim=-1))
    return mixed_qkv


@split_qkv_and_rotate_backward.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    return _empty_mixed_qkv(query, key)


def _empty_parts(mixed_qkv: torch.Tensor, per_group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    length, num_samples, num_groups, width = mixed_qkv.shape
    size = width // (per_group + 2)
    group = length, num_samples, num_groups, size
    return (
        mixed_qkv.new_empty(length, num_samples, num_groups * per_group, size),
        mixed_qkv.new_empty(group),
        mixed_qkv.new_empty(group),
    )


def _empty_mixed_qkv(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    length, num_samples, num_groups, size = key.shape
    return query.new_empty(length, num_samples, num_groups, (query.shape[2] // num_groups + 2) * size)


def inverse_frequencies(shape: LanguageShape, *, device: torch.device) -> torch.Tensor:
    """Return radians per position for each pair of a head's dims, float32 [head size / 2]."""
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
    """Return frequencies scaled as in LLaMA 3.1, by the formula of `transformers`.

    A pair with at least `high_freq_factor` rotations in the original context keeps its frequency. A pair with at most
    `low_freq_factor` rotations is slowed down by `factor`. Pairs between the two are interpolated.
    """
    rotations = scaling.original_max_position_embeddings * plain / (2 * math.pi)
    share = (rotations - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    share = share.clamp(0.0, 1.0)
    return share * plain + (1 - share) * plain / scaling.factor
