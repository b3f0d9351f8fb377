"""Statistical tests of one number against others: is it noise, and if not, how large is the change?

All work on logarithms: a change is a ratio, and both directions weigh the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

MIN_EFFECT = 0.03
"""Smallest change that is called, as a share, however significant it is."""

MIN_LAUNCHES = 4
"""Launches on either side from which ranks decide: 4 against 4 can reach p = 0.029, 5 against 5 p = 0.008."""

MIN_REFERENCE_NIGHTS = 8
"""Nights from which their own spread decides about one more."""

FALSE_DISCOVERIES = 0.05
"""Share of the changes called in one night that may be noise (Benjamini and Hochberg, 1995)."""

CONSISTENCY = 1.4826
"""Ratio of standard deviation to median absolute deviation of a normal distribution."""

MAD_EFFICIENCY = 0.37
"""Efficiency of the median absolute deviation: its estimate has that many fewer degrees of freedom."""

MIN_SPREAD = 0.002
"""Smallest spread of nights that is believed; fewer than a handful of equal nights are chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A change, its p-value and the test."""

    ratio: float
    """New over old."""
    p: float
    """Probability of a difference at least as large, in either direction, if there is none."""
    method: str
    spread: float | None = None
    """Spread of one more night around the old level, as a share; None if only launches were compared."""

    @property
    def is_large(self) -> bool:
        """Return whether the change is at least `MIN_EFFECT`."""
        return abs(math.log(self.ratio)) >= math.log1p(MIN_EFFECT)


@lru_cache(maxsize=4096)  # the first nights of a series are compared again with every later one
def by_launches(old: tuple[float, ...], new: tuple[float, ...]) -> Finding:
    """Return the exact two-sided Mann-Whitney test of launch medians; the ratio is that of their medians."""
    # Imported here because scipy.stats takes half a second.
    from scipy.stats import PermutationMethod, mannwhitneyu

    has_ties = len({*old, *new}) < len(old) + len(new)
    # With ties the exact distribution is that of the permutations themselves; if there are few, all are taken.
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
    """Return a robust t-test of one number against earlier ones: median, median absolute deviation, Student's t.

    An outlier among the earlier ones neither moves the level nor widens the band.
    """
    from scipy.special import stdtr

    logs = [math.log(value) for value in old]
    level = median(logs)
    spread = max(CONSISTENCY * median(abs(value - level) for value in logs), MIN_SPREAD)
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
    """Return which of several tests to believe, so that at most `share` of those believed are noise."""
    if not ps:
        return []
    from scipy.stats import false_discovery_control

    # p-values of few launches are fractions such as 2/70 and may equal the bound: rounding must not decide.
    return [bool(adjusted <= share * (1.0 + 1e-9)) for adjusted in false_discovery_control(ps)]
