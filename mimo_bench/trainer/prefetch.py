"""Batches made in the background while the model trains on those before, in order and resumable at any step.

Threads, not processes: decoding, resizing and tokenizing leave Python's lock, and nothing has to be copied between
processes. What the loader costs is watched as it runs: how fast a worker makes samples, and how long training waits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice


@dataclass(kw_only=True, slots=True)
class LoaderWatch:
    """Cost of loading so far."""

    num_batches: int = 0
    """Batches that workers have finished and training has taken."""
    busy_seconds: float = 0.0
    """Over all workers, the time in which they made those batches."""
    waited_seconds: float = 0.0
    """Time for which training stood still because the next batch was not ready."""


def prefetched[Batch](
    make: Callable[[int], Batch],
    *,
    start: int,
    stop: int | None = None,
    num_workers: int,
    num_ahead: int,
    watch: LoaderWatch,
) -> Generator[Batch]:
    """`make(start)`, `make(start + 1)` and so on up to `stop`, each started before it is needed.

    An error of `make` is raised where its batch is taken. Workers end with the iterator, or when it is closed.

    Args:
        make: a function of the step alone, called in worker threads.
        start: the first step.
        stop: the step before which it ends, so that no batch is made in vain; None for no end.
        num_workers: threads.
        num_ahead: batches that are made ahead of the one in use.
        watch: where times are added up.
    """
    workers = ThreadPoolExecutor(num_workers, thread_name_prefix="loader")
    steps = count(start) if stop is None else iter(range(start, stop))
    pending: deque[Future[tuple[Batch, float]]] = deque()
    try:
        pending.extend(workers.submit(_timed, make, step) for step in islice(steps, num_ahead))
        while pending:
            began = time.perf_counter()
            batch, seconds = pending.popleft().result()
            watch.waited_seconds += time.perf_counter() - began
            watch.busy_seconds += seconds
            watch.num_batches += 1
            # The next one begins before this one is used, so that a worker is never idle while the model trains.
            pending.extend(workers.submit(_timed, make, step) for step in islice(steps, 1))
            yield batch
    finally:
        workers.shutdown(wait=True, cancel_futures=True)


def _timed[Batch](make: Callable[[int], Batch], step: int) -> tuple[Batch, float]:
    began = time.perf_counter()
    batch = make(step)
    return batch, time.perf_counter() - began
