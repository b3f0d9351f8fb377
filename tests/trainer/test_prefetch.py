"""Batches made in the background come in order, from any step on, and say what they cost."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from itertools import islice

import pytest

from mimo_bench.trainer.prefetch import LoaderWatch, prefetched


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("num_ahead", [1, 4])
@pytest.mark.parametrize("start", [0, 5])
def test_batches_come_in_order_from_any_step_on(start: int, num_workers: int, num_ahead: int) -> None:
    def late_if_even(step: int) -> int:
        time.sleep(0.002 * (step % 2 == 0))
        return step

    made = prefetched(late_if_even, start=start, num_workers=num_workers, num_ahead=num_ahead, watch=LoaderWatch())
    with closing(made):
        assert list(islice(made, 8)) == list(range(start, start + 8))


def test_batches_end_before_the_step_that_is_named_and_none_is_made_of_later_ones() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return step

    ahead = {"num_workers": 2, "num_ahead": 4}
    assert list(prefetched(make, start=3, stop=9, watch=LoaderWatch(), **ahead)) == list(range(3, 9))
    assert sorted(made) == list(range(3, 9))
    assert list(prefetched(make, start=9, stop=9, watch=LoaderWatch(), **ahead)) == []


def test_batches_are_made_while_the_one_before_is_in_use() -> None:
    started = threading.Event()

    def make(step: int) -> int:
        if step == 1:
            started.set()
        return step

    with closing(prefetched(make, start=0, num_workers=1, num_ahead=1, watch=LoaderWatch())) as made:
        next(made)
        assert started.wait(10)


def test_a_loader_that_keeps_up_costs_no_waiting_and_one_that_does_not_is_waited_for() -> None:
    quick, slow = LoaderWatch(), LoaderWatch()
    with closing(prefetched(lambda step: step, start=0, num_workers=1, num_ahead=2, watch=quick)) as made:
        for _ in islice(made, 5):
            time.sleep(0.02)
    with closing(prefetched(lambda _: time.sleep(0.02), start=0, num_workers=1, num_ahead=2, watch=slow)) as made:
        for _ in islice(made, 5):
            pass
    assert quick.num_batches == slow.num_batches == 5
    assert slow.busy_seconds >= 5 * 0.02
    assert slow.waited_seconds > quick.waited_seconds


def test_an_error_comes_where_its_batch_is_taken_and_workers_end() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("sample 17 is broken")
        return step

    made = prefetched(make, start=0, num_workers=2, num_ahead=4, watch=LoaderWatch())
    assert list(islice(made, 2)) == [0, 1]
    with pytest.raises(ValueError, match="sample 17 is broken"):
        next(made)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
