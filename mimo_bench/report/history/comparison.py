"""What a test says of a number among others: is it noise, and if not, how large is the change?

Arithmetic only. All works on logarithms, so a change is a ratio and both directions
weigh the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

LEAST_EFFECT = 0.03
"""A change of less than this share of the time is not worth a person's morning, however sure it is."""

ENOUGH_LAUNCHES = 4
"""Launches on either side from which ranks decide: 4 against 4 can reach p = 0.029, 5 against 5 p = 0.008."""

ENOUGH_NIGHTS = 8
"""Nights from which their own spread decides about one more."""

FALSE_DISCOVERIES = 0.05
"""Share of the changes called in one night that may be noise (Benjamini and Hochberg, 1995)."""

CONSISTENCY = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""

MAD_EFFICIENCY = 0.37
"""How much of a sample a median absolute deviation uses; its estimate has that many fewer degrees of freedom."""

LEAST_SPREAD = 0.002
"""Equal nights are luck: no machine repeats itself better than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A change, how surely it is one, and by what test."""

    ratio: float
    """New over old."""
    p: float
    """Probability of a difference at least as large, in either direction, where there is none."""
    method: str
    spread: float | None = None
    """Of one more night around the old level, as a share; None where only launches were compared."""

    @property
    def is_large(self) -> bool:
        """Whether it is worth telling."""
        return abs(math.log(self.ratio)) >= math.log1p(LEAST_EFFECT)


@lru_cache(maxsize=4096)  # the first nights of a series are compared again with every later one
def by_launches(old: tuple[float, ...], new: tuple[float, ...]) -> Finding:
    """Exact two-sided Mann-Whitney test of launch medians; the ratio is that of their medians."""
    # Only now: scipy.stats costs half a second.
    from scipy.stats import PermutationMethod, mannwhitneyu

    has_ties = len({*old, *new}) < len(old) + len(new)
    # With ties the exact distribution is that of the permutations themselves: all of them where they are few.
    p = (
        mannwhitneyu(old, new, alternative="two-sided", method=PermutationMethod(n_resamples=20_000)).pvalue
        if has_ties
        else mannwhitneyu(old, new, alternative="two-sided", method="exact").pvalue
    )
    return Finding(
        ratio=median(new) / median(old),
        p=float(p),
        method=f"Mann-Whitney, {len(new)} launches against {len(old)}",
    )


@lru_cache(maxsize=4096)
def by_band(old: tuple[float, ...], new: float) -> Finding:
    """One number against the spread of earlier ones: median and median absolute deviation, Student's t on few of them.

    An outlier among the earlier ones neither moves the level nor widens the band.
    """
    from scipy.special import stdtr

    logs = [math.log(value) for value in old]
    level = median(logs)
    spread = max(CONSISTENCY * median(abs(value - level) for value in logs), LEAST_SPREAD)
    # The level is itself a median of n, with variance pi / 2n of one night's.
    one_more = spread * math.sqrt(1.0 + math.pi / (2.0 * len(logs)))
    num_free = max(2.0, MAD_EFFICIENCY * (len(logs) - 1))
    distance = math.log(new) - level
    return Finding(
        ratio=math.exp(distance),
        p=float(2.0 * stdtr(num_free, -abs(distance) / one_more)),
        method=f"band of {len(logs)} nights",
        spread=one_more,
    )


def discoveries(ps: Sequence[float], *, share: float = FALSE_DISCOVERIES) -> list[bool]:
    """Which of several tests to believe, so that at most `share` of those believed are noise (Benjamini-Hochberg)."""
    ordered = sorted(range(len(ps)), key=lambda index: ps[index])
    num_believed = max(
        (place for place, index in enumerate(ordered, 1) if ps[index] <= share * place / len(ps)), default=0
    )
    believed = set(ordered[:num_believed])
    return [index in believed for index in range(len(ps))]
