"""Random numbers that depend on a name and a position alone: never on the layout, the order or the device.

Weights and samples are drawn from them. Any shard of a tensor is drawn where it is needed, without the rest, and is
bit-equal on CPU and GPU: integer arithmetic modulo 2**64 and two exactly rounded float operations.
"""

from __future__ import annotations

from typing import Any

import torch

from mimo_bench.util import GOLDEN, LAST_SHIFT, MANTISSA_BITS, MIX, start_of

Words = Any
"""A NumPy array of int64, which wraps around."""

CHUNK = 1 << 22
"""Elements that are mixed at a time on the host, as that takes some times their memory."""


def uniform(key: str, positions: torch.Tensor) -> torch.Tensor:
    """Float32 numbers in [0, 1), one for each int64 position, the same for the same key and position."""
    start = _signed(start_of(key))
    if positions.is_cuda:
        from mimo_bench.models.kernels.rng_triton import draw  # Triton is where GPUs are

        return draw(positions.contiguous(), start)
    state = _mix(_words(positions.flatten()) * _signed(GOLDEN) + start)
    drawn = torch.as_tensor(_shift_right(state, 64 - MANTISSA_BITS))
    return drawn.view(positions.shape).to(torch.float32) * 2.0**-MANTISSA_BITS


def digest(tensor: torch.Tensor) -> str:
    """A hash of a tensor's float32 or int64 values and their positions, the same on every device; 16 hex digits.

    A sum of mixed words, so it needs no particular order of reading; equal tensors have equal digests, and a value
    that changes or moves changes it.
    """
    if tensor.is_cuda:
        from mimo_bench.models.kernels.rng_triton import sum_of_hashes  # Triton is where GPUs are

        return _hexadecimal(int(sum_of_hashes(tensor.detach().contiguous())))
    total, start = 0, 0
    for part in tensor.detach().flatten().split(CHUNK):
        words = part.to(torch.float32).view(torch.int32).to(torch.int64) if part.is_floating_point() else part
        positions = torch.arange(start, start + len(part), device=part.device)
        # Mixed twice, so that two values that swap places do not cancel in the sum.
        total += int(_mix(_mix(_words(positions) * _signed(GOLDEN)) ^ _words(words)).sum())
        start += len(part)
    return _hexadecimal(total)


def _hexadecimal(total: int) -> str:
    return f"{total % (1 << 64):016x}"


def _words(values: torch.Tensor) -> Words:
    """Int64 values to compute with: as an array, as small ones take an array a tenth of a tensor's time."""
    return values.numpy()


def _mix(state: Words) -> Words:
    for shift, factor in MIX:
        state = (state ^ _shift_right(state, shift)) * _signed(factor)
    return state ^ _shift_right(state, LAST_SHIFT)


def _signed(value: int) -> int:
    """Return the signed integer of the same 64 bits."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(value: Words, bits: int) -> Words:
    """Logical shift; that of signed integers keeps the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
