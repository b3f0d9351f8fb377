"""From values to places on paper: linear and logarithmic scales with round ticks.

`plots.py` draws with them. Arithmetic only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Scale(Protocol):
    """Puts a value on an axis."""

    def __call__(self, value: float) -> float:
        """The place of `value`, in the drawing's units."""

    @property
    def ticks(self) -> Sequence[tuple[float, str]]:
        """Places that carry a number, and the number as it is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """Equal distances for equal differences."""

    low: float
    high: float
    start: float
    stop: float
    num_ticks: int = 6
    whole: bool = False
    """Ticks on whole numbers only, for values that are counts."""

    @classmethod
    def over(cls, values: Iterable[float], *, start: float, stop: float) -> Linear:
        """Return a scale that holds all `values` with a little room; equal values are in its middle."""
        known = list(values) or [0.0, 1.0]
        low, high = min(known), max(known)
        room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
        return cls(low=low - room, high=high + room, start=start, stop=stop)

    @classmethod
    def from_zero(cls, values: Iterable[float], *, start: float, stop: float, num_ticks: int = 4) -> Linear:
        """A scale from zero to the largest of `values`, so that lengths compare."""
        return cls(low=0.0, high=max(values, default=0.0) * 1.04 or 1.0, start=start, stop=stop, num_ticks=num_ticks)

    def __call__(self, value: float) -> float:
        """The place of `value`."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Multiples of 1, 2 or 5 times a power of ten."""
        step = _round_step((self.high - self.low) / self.num_ticks)
        if self.whole:
            step = max(1.0, step)
        decimals = max(0, -math.floor(math.log10(step)))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [(self(index * step), f"{index * step:,.{decimals}f}") for index in range(first, last + 1)]


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, ... that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1.0 - 1e-9))


@dataclass(frozen=True, kw_only=True, slots=True)
class Decades:
    """Equal distances for equal ratios, and a place of its own for exactly zero, which a logarithm does not have."""

    low: int
    """Exponent of the lowest decade that is drawn."""
    high: int
    start: float
    stop: float
    zero: float
    """Where zero stands, beyond `start`."""

    @classmethod
    def over(cls, values: Iterable[float], *, start: float, stop: float, zero: float) -> Decades:
        """Whole decades that hold all positive `values`."""
        exponents = [math.log10(value) for value in values if value > 0.0] or [-1.0, 0.0]
        low, high = math.floor(min(exponents)), math.ceil(max(exponents))
        return cls(low=low, high=max(high, low + 1), start=start, stop=stop, zero=zero)

    def __call__(self, value: float) -> float:
        """The place of `value`, zero at `zero`."""
        if value <= 0.0:
            return self.zero
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Powers of ten, and zero."""
        stride = max(1, math.ceil((self.high - self.low) / 8))
        decades = range(self.high, self.low - 1, -stride)
        return [(self.zero, "0"), *((self(10.0**exponent), f"1e{exponent}") for exponent in decades)]
