"""Change points: the nights on which a series changed its level.

The levels minimise the sum of absolute distances of logarithms, with a penalty for each new level. A single outlier
never pays for a level of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from mimo_bench.report.history.comparison import CONSISTENCY, MIN_EFFECT, MIN_SPREAD

MIN_NIGHTS = 5
"""Nights that a level must last to be one."""

PENALTY = 2.0
"""Penalty of a new level, in spreads of one night times the logarithm of the number of nights.

docs/simulated-history.md shows that noise alone then has almost no change points.
"""


def change_points(values: Sequence[float]) -> list[int]:
    """Return the indices at which a new level begins, in order; levels differ by at least `MIN_EFFECT`."""
    if len(values) < 2 * MIN_NIGHTS:
        return []
    logs = np.log(np.asarray(values, dtype=float))
    found = _partition(_distances(logs), penalty=PENALTY * _spread(logs) * math.log(len(logs)))
    while (small := _first_small(logs, found)) is not None:
        found.remove(small)
    return found


def _spread(logs: NDArray[np.float64]) -> float:
    """Return the standard deviation of one night, from neighbouring nights: changes of level hardly count."""
    steps = np.abs(np.diff(logs))
    return max(CONSISTENCY * float(np.median(steps)) / math.sqrt(2.0), MIN_SPREAD)


def _distances(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [start, stop]: summed distance of nights from start up to stop from their median; inf if too few."""
    num = len(logs)
    distances = np.full((num + 1, num + 1), math.inf)
    for start in range(num - MIN_NIGHTS + 1):
        for stop in range(start + MIN_NIGHTS, num + 1):
            part = np.sort(logs[start:stop])
            # The upper half minus the lower half is the distance from the median, which itself drops out.
            half = len(part) // 2
            distances[start, stop] = part[-half:].sum() - part[:half].sum()
    return distances


# Not by ruptures 1.1.10: its Pelt prunes as if a level could be of any length, and gives about one noisy series in 600
# more levels than are optimal. Its Dynp is exact, and takes 17 times as long for a year of nights.
def _partition(distances: NDArray[np.float64], *, penalty: float) -> list[int]:
    """Return the starts of the optimal levels but the first (optimal partitioning, Jackson et al. 2005)."""
    num = len(distances) - 1
    cost = np.full(num + 1, math.inf)
    cost[0], last = -penalty, [0] * (num + 1)
    for stop in range(1, num + 1):
        candidates = cost[:stop] + distances[:stop, stop] + penalty
        last[stop] = int(np.argmin(candidates))
        cost[stop] = candidates[last[stop]]
    starts, stop = [], num
    while (stop := last[stop]) > 0:
        starts.append(stop)
    return starts[::-1]


def _first_small(logs: NDArray[np.float64], cuts: list[int]) -> int | None:
    """Return the first change that is smaller than `MIN_EFFECT`."""
    parts = [logs[start:stop] for start, stop in pairwise([0, *cuts, len(logs)])]
    for cut, (before, after) in zip(cuts, pairwise(parts), strict=True):
        if abs(median(after) - median(before)) < math.log1p(MIN_EFFECT):
            return cut
    return None
