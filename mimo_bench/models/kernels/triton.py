"""Triton kernels; imported by the first call on a GPU, as torch for CPUs comes without Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 1024
"""Elements of a row for one program of SwiGLU."""
_HEADS = 16
"""Heads of a row for one program of the rotation."""


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu(gate_up: tl.tensor, gated: tl.tensor, size: tl.tensor, block: tl.constexpr) -> None:
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    is_inside = column < size
    first = tl.load(gate_up + 2 * row * size + column, mask=is_inside).to(tl.float32)
    second = tl.load(gate_up + (2 * row + 1) * size + column, mask=is_inside).to(tl.float32)
    tl.store(gated + row * size + column, first * tl.sigmoid(first) * second, mask=is_inside)


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu_backward(
    gate_up: tl.tensor, gradient: tl.tensor, of_gate_up: tl.tensor, size: tl.tensor, block: tl.constexpr
) -> None:
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    is_inside = column < size
    first = tl.load(gate_up + 2 * row * size + column, mask=is_inside).to(tl.float32)
    second = tl.load(gate_up + (2 * row + 1) * size + column, mask=is_inside).to(tl.float32)
    outer = tl.load(gradient + row * size + column, mask=is_inside).to(tl.float32)
    sigmoid = tl.sigmoid(first)
    of_first = outer * second * sigmoid * (1 + first * (1 - sigmoid))
    tl.store(of_gate_up + 2 * row * size + column, of_first, mask=is_inside)
    tl.store(of_gate_up + (2 * row + 1) * size + column, outer * first * sigmoid, mask=is_inside)


@triton.jit  # type: ignore[untyped-decorator]
def _rotate(
    mixed_qkv: tl.tensor,
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    cosines: tl.tensor,
    sines: tl.tensor,
    num_samples: tl.tensor,
    num_groups: tl.tensor,
    per_group: tl.constexpr,
    half: tl.constexpr,
    half_block: tl.constexpr,
    heads: tl.constexpr,
    is_backward: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1) * heads + tl.arange(0, heads)
    dim = tl.arange(0, half_block)
    group, part = slot // (per_group + 2), slot % (per_group + 2)
    is_inside = (slot < num_groups * (per_group + 2))[:, None] & (dim < half)[None, :]
    is_query, is_key, is_value = part < per_group, part == per_group, part > per_group
    in_mixed_qkv = ((row * num_groups * (per_group + 2) + slot) * 2 * half)[:, None] + dim[None, :]
    in_query = ((row * num_groups * per_group + group * per_group + part) * 2 * half)[:, None] + dim[None, :]
    in_group = ((row * num_groups + group) * 2 * half)[:, None] + dim[None, :]
    of_query, of_key = is_inside & is_query[:, None], is_inside & is_key[:, None]
    of_value = is_inside & is_value[:, None]
    angle = row // num_samples * 2 * half + dim
    cosine = tl.load(cosines + angle, mask=dim < half).to(tl.float32)[None, :]
    sine = tl.load(sines + angle, mask=dim < half).to(tl.float32)[None, :]
    cosine = tl.where(is_value[:, None], 1.0, cosine)
    sine = tl.where(is_value[:, None], 0.0, sine)
    if is_backward:
        first = tl.load(query + in_query, mask=of_query, other=0.0).to(tl.float32)
        second = tl.load(query + in_query + half, mask=of_query, other=0.0).to(tl.float32)
        first += tl.load(key + in_group, mask=of_key, other=0.0).to(tl.float32)
        second += tl.load(key + in_group + half, mask=of_key, other=0.0).to(tl.float32)
        first += tl.load(value + in_group, mask=of_value, other=0.0).to(tl.float32)
        second += tl.load(value + in_group + half, mask=of_value, other=0.0).to(tl.float32)
        tl.store(mixed_qkv + in_mixed_qkv, first * cosine + second * sine, mask=is_inside)
        tl.store(mixed_qkv + in_mixed_qkv + half, second * cosine - first * sine, mask=is_inside)
    else:
        first = tl.load(mixed_qkv + in_mixed_qkv, mask=is_inside).to(tl.float32)
        second = tl.load(mixed_qkv + in_mixed_qkv + half, mask=is_inside).to(tl.float32)
        rotated_first, rotated_second = first * cosine - second * sine, second * cosine + first * sine
        tl.store(query + in_query, rotated_first, mask=of_query)
        tl.store(query + in_query + half, rotated_second, mask=of_query)
        tl.store(key + in_group, rotated_first, mask=of_key)
        tl.store(key + in_group + half, rotated_second, mask=of_key)
        tl.store(value + in_group, rotated_first, mask=of_value)
        tl.store(value + in_group + half, rotated_second, mask=of_value)


def launch_rotation(
    mixed_qkv: torch.Tensor,
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    cos_sin: torch.Tensor,
    *,
    is_backward: bool,
) -> None:
    """Fill queries [s, b, heads, d] and keys and values [s, b, groups, d] from `mixed_qkv`, [s, b, groups, (r + 2) d].

    With `is_backward` fill `mixed_qkv` from the three. All are contiguous; `cos_sin` is [2, s, 1, 1, d].
    """
    query, _, value = parts
    length, num_samples, num_groups, size = value.shape
    per_group, half = query.shape[2] // num_groups, size // 2
    grid = length * num_samples, triton.cdiv(num_groups * (per_group + 2), _HEADS)
    cosines, sines = cos_sin.unbind(0)
    constants = {"per_group": per_group, "half": half, "half_block": triton.next_power_of_2(half)}
    _rotate[grid](
        mixed_qkv, *parts, cosines, sines, num_samples, num_groups, **constants, heads=_HEADS, is_backward=is_backward
    )


def launch_swiglu(gate_up: torch.Tensor, gated: torch.Tensor) -> None:
    """Fill `gated`, [..., f], from `gate_up`, [..., 2 f]; both contiguous."""
    _swiglu[_grid(gated)](gate_up, gated, gated.shape[-1], block=_BLOCK)


def launch_swiglu_backward(gate_up: torch.Tensor, gradient: torch.Tensor, of_gate_up: torch.Tensor) -> None:
    """Fill `of_gate_up`, [..., 2 f], from `gate_up` and the gradient [..., f]; all contiguous."""
    _swiglu_backward[_grid(gradient)](gate_up, gradient, of_gate_up, gradient.shape[-1], block=_BLOCK)


def _grid(of: torch.Tensor) -> tuple[int, int]:
    size = of.shape[-1]
    return of.numel() // size, triton.cdiv(size, _BLOCK)
