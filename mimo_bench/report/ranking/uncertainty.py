"""How well a window of steps tells how fast a layout is, and whether it tells two layouts apart.

Arithmetic only.

The mean step time of one window is taken to follow Student's t. Steps that resemble their neighbours say less than
independent ones: as many count as n (1 - r) / (1 + r), with r their correlation at lag one (Bayley and Hammersley,
1946).
Simulated windows of 8 to 50 steps hold the truth in 95 % of the cases where steps are independent, and in 89 to 93 %
where r is 0.3. What differs from one launch to the next is not in the steps of one launch, and so not in these numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, variance

from scipy.special import stdtrit

from mimo_bench.record import Interval, Timing

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean step time, with how far it may be off."""

    seconds: float
    error_share: float
    """Standard error, as a share of the mean."""
    num_free: int
    """Degrees of freedom of the error."""


def rate_interval(timing: Timing) -> Interval | None:
    """Where `tokens_per_second_per_gpu` lies with 95 % confidence; None of fewer than three or too noisy steps."""
    mean = mean_step(timing.step_seconds)
    if mean is None:
        return None
    half = _quantile(CONFIDENCE, mean.num_free) * mean.error_share
    # A rate falls as the step grows; beyond 1 the interval of the step would hold zero.
    if half >= 1.0:
        return None
    rate = timing.tokens_per_second_per_gpu
    return Interval(low=rate / (1.0 + half), high=rate / (1.0 - half))


def are_tied(best: Timing, other: Timing, *, num_comparisons: int = 1) -> bool:
    """Whether the steps leave open which of two layouts is faster per allocated GPU.

    Welch's t on the logarithms of both rates. With several layouts held against one best, the 5 % for being wrong are
    shared out among them (Bonferroni), so that they hold for all together. Fewer than three steps tell nothing apart.
    """
    first, second = mean_step(best.step_seconds), mean_step(other.step_seconds)
    if first is None or second is None:
        return True
    distance = abs(math.log(best.tokens_per_second_per_gpu / other.tokens_per_second_per_gpu))
    parts = (first.error_share**2, second.error_share**2)
    if not sum(parts):
        return distance == 0.0
    num_free = sum(parts) ** 2 / (parts[0] ** 2 / first.num_free + parts[1] ** 2 / second.num_free)
    confidence = 1.0 - (1.0 - CONFIDENCE) / max(1, num_comparisons)
    return distance <= _quantile(confidence, num_free) * math.sqrt(sum(parts))


def mean_step(step_seconds: tuple[float, ...]) -> Mean | None:
    """The mean of a window of steps and its error; None of fewer than three, which say nothing of their spread."""
    if len(step_seconds) < 3 or not (mean := fmean(step_seconds)):
        return None
    correlation = max(0.0, _lag_one(step_seconds, mean))
    num_independent = max(2.0, len(step_seconds) * (1.0 - correlation) / (1.0 + correlation))
    error = math.sqrt(variance(step_seconds, mean) / num_independent)
    return Mean(seconds=mean, error_share=error / mean, num_free=len(step_seconds) - 1)


def _lag_one(values: tuple[float, ...], mean: float) -> float:
    """Correlation of each value with the next; zero where all are equal."""
    away = [value - mean for value in values]
    total = math.fsum(each * each for each in away)
    return math.fsum(a * b for a, b in pairwise(away)) / total if total else 0.0


def _quantile(confidence: float, num_free: float) -> float:
    """How many standard errors to either side hold `confidence`."""
    return float(stdtrit(num_free, 0.5 + confidence / 2.0))
