"""Faults of speed, large enough to stand out on a machine that does other things too."""

from __future__ import annotations

from mimo_bench.parity import FaultContext
from mimo_bench.parity.faults import speed

DAWDLE_SECONDS = 0.5


def very_slow_rank(context: FaultContext) -> None:
    """The last rank stands still for half a second before each forward pass."""
    speed.DAWDLE_SECONDS = DAWDLE_SECONDS
    speed.slow_rank(context)
