"""Counter-based random numbers: state and first number of a named stream, without torch.

`models/kernels/rng.py` draws whole tensors by the same rule; what is said of samples before any rank runs, such as
how many images they have, needs one number at a time.
"""

from __future__ import annotations

import hashlib

# The finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
GOLDEN = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
LAST_SHIFT = 31
MANTISSA_BITS = 24

_WORD = 1 << 64


def start_of(key: str) -> int:
    """The state at position 0 of the numbers called `key`, below 2**64."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def first_of(key: str) -> float:
    """The number in [0, 1) at position 0 of those called `key`."""
    state = start_of(key)
    for shift, factor in MIX:
        state = (state ^ state >> shift) * factor % _WORD
    return float((state ^ state >> LAST_SHIFT) >> 64 - MANTISSA_BITS) * 2.0**-MANTISSA_BITS
