"""Where a series of nights changed its level.

Arithmetic only.

The levels that together lie nearest to all nights, in absolute distance of logarithms, each new level at a price. An
absolute distance lets an outlier stay an outlier: a single night never buys a level of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from mimo_bench.report.history.comparison import CONSISTENCY, LEAST_EFFECT, LEAST_SPREAD

LEAST_NIGHTS = 5
"""Nights that a level must last to be one."""

PRICE = 2.0
"""What a new level costs, in spreads of one night times the logarithm of the number of nights; `simulation.py` shows
that noise alone then has next to none."""


def change_points(values: Sequence[float]) -> list[int]:
    """Indices at which a new level begins, in order; levels differ by at least `LEAST_EFFECT`."""
    if len(values) < 2 * LEAST_NIGHTS:
        return []
    logs = np.log(np.asarray(values, dtype=float))
    found = _cheapest(_distances(logs), price=PRICE * _spread(logs) * math.log(len(logs)))
    while (dull := _dullest(logs, found)) is not None:
        found.remove(dull)
    return found


def _spread(logs: NDArray[np.float64]) -> float:
    """Of one night, from neighbouring nights, so that changes of level hardly count."""
    steps = np.abs(np.diff(logs))
    return max(CONSISTENCY * float(np.median(steps)) / math.sqrt(2.0), LEAST_SPREAD)


def _distances(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """[start, stop]: how far the nights from start up to stop lie from their median, summed; infinite where too few."""
    num = len(logs)
    distances = np.full((num + 1, num + 1), math.inf)
    for start in range(num - LEAST_NIGHTS + 1):
        for stop in range(start + LEAST_NIGHTS, num + 1):
            part = np.sort(logs[start:stop])
            # The upper half minus the lower half is the distance from the median, which itself drops out.
            half = len(part) // 2
            distances[start, stop] = part[-half:].sum() - part[:half].sum()
    return distances


def _cheapest(distances: NDArray[np.float64], *, price: float) -> list[int]:
    """The starts of the levels, but for the first, that are cheapest over all (optimal partitioning)."""
    num = len(distances) - 1
    cost = np.full(num + 1, math.inf)
    cost[0], last = -price, [0] * (num + 1)
    for stop in range(1, num + 1):
        candidates = cost[:stop] + distances[:stop, stop] + price
        last[stop] = int(np.argmin(candidates))
        cost[stop] = candidates[last[stop]]
    starts, stop = [], num
    while (stop := last[stop]) > 0:
        starts.append(stop)
    return starts[::-1]


def _dullest(logs: NDArray[np.float64], cuts: list[int]) -> int | None:
    """The first cut between levels that are too near to each other to be told apart by people."""
    parts = [logs[start:stop] for start, stop in pairwise([0, *cuts, len(logs)])]
    for cut, (before, after) in zip(cuts, pairwise(parts), strict=True):
        if abs(median(after) - median(before)) < math.log1p(LEAST_EFFECT):
            return cut
    return None
