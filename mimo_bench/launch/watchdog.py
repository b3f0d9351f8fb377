"""Ends a launch in which a rank makes no progress, and says where it was seen last. No torch."""

from __future__ import annotations

import linecache
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mimo_bench.launch import progress
from mimo_bench.launch.job import Job, Outcome
from mimo_bench.util import LaunchError

POLL_SECONDS = 0.1
DUMP_SECONDS = 2.0
"""How long a rank gets to print its tracebacks before it is killed."""
TEARDOWN_SECONDS = 30.0
"""How long the elastic agent gets to notice that its ranks are dead."""

_HOME = Path(__file__).parents[2]
"""Folder that holds this package."""

NEWEST_FRAME = re.compile(r"^Current thread 0x\w+.*\n  File \"(.+)\", line (\d+) in (\S+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Newest Python frame of a rank."""

    file: str
    line: int
    function: str

    @property
    def is_in_a_collective(self) -> bool:
        """True if the rank waits for others: in torch's own Python, or for a message, which is waited for in C."""
        return "/torch/distributed/" in self.file or ".wait()" in linecache.getline(self.file, self.line)

    def __str__(self) -> str:
        # The folder of installed packages is as long as the rest, and says nothing.
        file = self.file.rpartition("/site-packages/")[2].removeprefix(f"{_HOME}/")
        return f"{file}, line {self.line} in {self.function}"


class Watchdog:
    """Watches the ranks of one launch from a thread; `verdict` holds the outcome once it had to step in."""

    def __init__(self, job: Job, *, end_ranks: Callable[[], None]) -> None:
        self.verdict: Outcome | None = None
        self._job = job
        self._end_ranks = end_ranks
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        ages = _Ages(self._job)
        while not self._over.wait(POLL_SECONDS):
            if max(ages.seconds().values(), default=0.0) > self._job.hang_seconds:
                # The first that stands still keeps the others waiting: they are behind too, though not by as much.
                behind = [rank for rank, age in ages.seconds().items() if age > 0.5 * self._job.hang_seconds]
                self._step_in(behind)
                return

    def _step_in(self, behind: Sequence[int]) -> None:
        seen = _ask_where(self._job)
        self.verdict = _explain(behind, seen, hang_seconds=self._job.hang_seconds)
        with suppress(LaunchError):  # a rank that a driver holds; the agent will not come back either
            self._end_ranks()
        if not self._over.wait(TEARDOWN_SECONDS):
            print(f"{self.verdict.reason}; the elastic agent never came back", file=sys.stderr, flush=True)
            os._exit(1)  # ranks and fork server are tied to this process


class _Ages:
    """Time since each rank's last sign, by our own clock; a rank that has ended has no age."""

    def __init__(self, job: Job) -> None:
        self._files = [job.files(rank).progress for rank in range(job.world_size)]
        self._last: list[tuple[int | None, float]] = [(None, time.monotonic())] * job.world_size
        self._ended: set[int] = set()

    def seconds(self) -> dict[int, float]:
        now = time.monotonic()
        for rank, file in enumerate(self._files):
            signs, _ = self._last[rank]
            if (current := progress.signs(file)) != signs:
                self._last[rank] = (current, now)
                if current == 0:
                    self._ended.add(rank)
        return {rank: now - since for rank, (_, since) in enumerate(self._last) if rank not in self._ended}


def _ask_where(job: Job) -> dict[int, Place]:
    """Have every rank print its tracebacks into its log; return the place of each that does."""
    sizes = {}
    for rank in range(job.world_size):
        files = job.files(rank)
        if (pid := progress.process_id(files.progress)) is not None:
            sizes[rank] = files.log.stat().st_size
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
    seen: dict[int, Place] = {}
    deadline = time.monotonic() + DUMP_SECONDS
    while len(seen) < len(sizes) and time.monotonic() < deadline:
        time.sleep(0.05)
        for rank, size in sizes.items():
            printed = job.files(rank).log.read_bytes()[size:].decode(errors="replace")
            if match := NEWEST_FRAME.search(printed):
                seen[rank] = Place(file=match[1], line=int(match[2]), function=match[3])
    return seen


def _explain(behind: Sequence[int], seen: dict[int, Place], *, hang_seconds: float) -> Outcome:
    """Name the ranks that stand still on their own account; the others wait for them in a collective."""
    waiting = [rank for rank in behind if rank in seen and seen[rank].is_in_a_collective]
    stuck = [rank for rank in behind if rank not in waiting] or list(behind)
    reason = f"{_ranks(stuck)} made no progress for {hang_seconds:g} s"
    if place := seen.get(stuck[0]):
        reason += f"; {f'rank {stuck[0]} ' if len(stuck) > 1 else ''}last seen in {place}"
    if 0 < len(waiting) < len(behind):
        reason += f"; {_ranks(waiting)} waited in a collective"
    return Outcome(ended="timeout", reason=f"{reason} (see rank{stuck[0]}.log)", rank=stuck[0])


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
