"""The arithmetic of `rng.py` as kernels in Triton; the first tensor on a GPU imports this module.

Operation by operation, a device reads and writes eight bytes an element some thirty times; here it reads each once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Constants of `rng.py`. Kernels see a module's values only if they are of this type.
_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_FIRST = tl.constexpr(0xBF58476D1CE4E5B9)
_SECOND = tl.constexpr(0x94D049BB133111EB)
_LOST_BITS = tl.constexpr(64 - 24)
_UNIT = tl.constexpr(2.0**-24)

_BLOCK = 4096
"""Elements that one program takes."""


@triton.jit  # type: ignore[untyped-decorator]
def _mix(state: tl.tensor) -> tl.tensor:
    # Unsigned, so that a shift to the right brings zeros in.
    state = (state ^ (state >> 30)) * _FIRST
    state = (state ^ (state >> 27)) * _SECOND
    return state ^ (state >> 31)


@triton.jit  # type: ignore[untyped-decorator]
def _sum_hashes(values: tl.tensor, sums: tl.tensor, size: tl.tensor, block: tl.constexpr) -> None:
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    is_inside = place < size
    value = tl.load(values + place, mask=is_inside, other=0)
    if value.dtype.is_floating():
        value = value.to(tl.float32).to(tl.int32, bitcast=True)
    word = value.to(tl.int64).to(tl.uint64, bitcast=True)
    hashed = _mix(_mix(place.to(tl.uint64, bitcast=True) * _GOLDEN) ^ word)
    hashed = tl.where(is_inside, hashed, 0)
    tl.store(sums + tl.program_id(0), tl.sum(hashed.to(tl.int64, bitcast=True), axis=0))


@triton.jit(do_not_specialize=["start"])  # type: ignore[untyped-decorator]
def _draw(positions: tl.tensor, drawn: tl.tensor, start: tl.tensor, size: tl.tensor, block: tl.constexpr) -> None:
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    is_inside = place < size
    position = tl.load(positions + place, mask=is_inside, other=0).to(tl.uint64, bitcast=True)
    state = _mix(position * _GOLDEN + start.to(tl.int64).to(tl.uint64, bitcast=True))
    # Multiplied, as a division is not rounded exactly everywhere.
    tl.store(drawn + place, (state >> _LOST_BITS).to(tl.float32) * _UNIT, mask=is_inside)


def sum_of_hashes(values: torch.Tensor) -> torch.Tensor:
    """The sum of all hashed elements and their positions, modulo 2**64, as an int64 scalar on their device.

    Args:
        values: contiguous, of any shape; floating point, which is taken as float32, or int64.
    """
    num_programs = triton.cdiv(values.numel(), _BLOCK)
    sums = torch.empty(num_programs, dtype=torch.int64, device=values.device)
    if num_programs:
        # A thread of a loader has the first GPU for its own, whichever the rank's is.
        with torch.cuda.device_of(values):
            _sum_hashes[(num_programs,)](values, sums, values.numel(), block=_BLOCK)
    return sums.sum()


def draw(positions: torch.Tensor, start: int) -> torch.Tensor:
    """Float32 numbers in [0, 1) of the shape of `positions`, contiguous and int64; `start` has 64 bits and a sign."""
    drawn = torch.empty(positions.shape, dtype=torch.float32, device=positions.device)
    if num_programs := triton.cdiv(positions.numel(), _BLOCK):
        with torch.cuda.device_of(positions):
            _draw[(num_programs,)](positions, drawn, start, positions.numel(), block=_BLOCK)
    return drawn
