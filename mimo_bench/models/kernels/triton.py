"""Kernels in Triton, which is there where torch has GPUs: this is imported by the first call on one."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 1024
"""Elements of a row that one program of SwiGLU takes."""
_HEADS = 16
"""Heads of a row that one program of the rotation takes."""


@triton.jit  # type: ignore[untyped-decorator]
def _gate(both: tl.tensor, gated: tl.tensor, size: tl.tensor, block: tl.constexpr) -> None:
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    is_inside = column < size
    first = tl.load(both + 2 * row * size + column, mask=is_inside).to(tl.float32)
    second = tl.load(both + (2 * row + 1) * size + column, mask=is_inside).to(tl.float32)
    tl.store(gated + row * size + column, first * tl.sigmoid(first) * second, mask=is_inside)


@triton.jit  # type: ignore[untyped-decorator]
def _ungate(both: tl.tensor, gradient: tl.tensor, of_both: tl.tensor, size: tl.tensor, block: tl.constexpr) -> None:
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    is_inside = column < size
    first = tl.load(both + 2 * row * size + column, mask=is_inside).to(tl.float32)
    second = tl.load(both + (2 * row + 1) * size + column, mask=is_inside).to(tl.float32)
    outer = tl.load(gradient + row * size + column, mask=is_inside).to(tl.float32)
    sigmoid = tl.sigmoid(first)
    of_first = outer * second * sigmoid * (1 + first * (1 - sigmoid))
    tl.store(of_both + 2 * row * size + column, of_first, mask=is_inside)
    tl.store(of_both + (2 * row + 1) * size + column, outer * first * sigmoid, mask=is_inside)


@triton.jit  # type: ignore[untyped-decorator]
def _turn(
    mixed: tl.tensor,
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
    in_mixed = ((row * num_groups * (per_group + 2) + slot) * 2 * half)[:, None] + dim[None, :]
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
        tl.store(mixed + in_mixed, first * cosine + second * sine, mask=is_inside)
        tl.store(mixed + in_mixed + half, second * cosine - first * sine, mask=is_inside)
    else:
        first = tl.load(mixed + in_mixed, mask=is_inside).to(tl.float32)
        second = tl.load(mixed + in_mixed + half, mask=is_inside).to(tl.float32)
        turned_first, turned_second = first * cosine - second * sine, second * cosine + first * sine
        tl.store(query + in_query, turned_first, mask=of_query)
        tl.store(query + in_query + half, turned_second, mask=of_query)
        tl.store(key + in_group, turned_first, mask=of_key)
        tl.store(key + in_group + half, turned_second, mask=of_key)
        tl.store(value + in_group, turned_first, mask=of_value)
        tl.store(value + in_group + half, turned_second, mask=of_value)


def launch_turn(
    mixed: torch.Tensor,
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    turns: torch.Tensor,
    *,
    is_backward: bool,
) -> None:
    """Fill queries [s, b, heads, d] and keys and values [s, b, groups, d] from `mixed`, [s, b, groups, (r + 2) d].

    With `is_backward` fill `mixed` from the three. All are contiguous; `turns` is [2, s, 1, 1, d]: cosines, sines.
    """
    query, _, value = parts
    length, num_samples, num_groups, size = value.shape
    per_group, half = query.shape[2] // num_groups, size // 2
    grid = length * num_samples, triton.cdiv(num_groups * (per_group + 2), _HEADS)
    cosines, sines = turns.unbind(0)
    constants = {"per_group": per_group, "half": half, "half_block": triton.next_power_of_2(half)}
    _turn[grid](
        mixed, *parts, cosines, sines, num_samples, num_groups, **constants, heads=_HEADS, is_backward=is_backward
    )


def launch_gate(both: torch.Tensor, gated: torch.Tensor) -> None:
    """Fill `gated`, [..., f], from `both`, [..., 2 f]; both contiguous."""
    _gate[_grid(gated)](both, gated, gated.shape[-1], block=_BLOCK)


def launch_ungate(both: torch.Tensor, gradient: torch.Tensor, of_both: torch.Tensor) -> None:
    """Fill `of_both`, [..., 2 f], from `both` and the gradient [..., f]; all contiguous."""
    _ungate[_grid(gradient)](both, gradient, of_both, gradient.shape[-1], block=_BLOCK)


def _grid(of: torch.Tensor) -> tuple[int, int]:
    size = of.shape[-1]
    return of.numel() // size, triton.cdiv(size, _BLOCK)
