"""What a rank does around the steps that are timed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any, cast

import pytest

from mimo_bench.bench.ranks.log import RankLog
from mimo_bench.meters.clock import WallClock


class Cycle:
    """Garbage that only the collector can free."""

    def __init__(self) -> None:
        """It refers to itself."""
        self.itself = self


class WatchingClock(WallClock):
    """A clock that looks whether what was left before is still there."""

    def __init__(self, left: weakref.ref[Cycle]) -> None:
        """Nothing was marked yet."""
        super().__init__()
        self.left, self.alive = left, list[bool]()

    def mark(self) -> None:
        """A step ends, or the window begins."""
        self.alive.append(self.left() is not None)
        super().mark()


@pytest.fixture
def no_chance_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_chance_collection")
def test_what_warm_up_left_is_collected_before_the_timed_window_and_not_in_a_step() -> None:
    left = weakref.ref(Cycle())
    assert left() is not None
    clock = WatchingClock(left)
    RankLog(clock).train(cast("Any", None), [], clock=clock)
    assert clock.alive == [False]
