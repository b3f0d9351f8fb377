"""The process between the command and its ranks: it stays, so that only the first launch pays for the imports.

One job comes in on a line of standard input, its outcome goes out on a line of standard output. The end of the input
means that the command has closed it or is dead: then everything below ends, and this process last.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

from mimo_bench.launch.failure import Failure, exit_failure, root_cause
from mimo_bench.launch.job import Job, Outcome
from mimo_bench.launch.launcher import TEMPORARY
from mimo_bench.launch.local import processes, warm
from mimo_bench.launch.watchdog import Watchdog
from mimo_bench.util import LaunchError


def main() -> None:
    """Serve the command that started this process; the arguments are the modules to preload."""
    # Slurm may send them to every process of a job step; ending is the command's decision. Ranks inherit this.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    jobs, replies = _take_pipes()
    sockets = Path(os.environ.pop(TEMPORARY))
    processes.adopt_orphans()
    waiting: SimpleQueue[Job] = SimpleQueue()
    threading.Thread(target=_listen, args=(jobs, waiting, sockets), daemon=True).start()
    try:
        _serve(waiting, replies, preload=sys.argv[1:], sockets=sockets)
    finally:
        with suppress(LaunchError):
            processes.end_descendants()
        sys.stderr.flush()
        shutil.rmtree(sockets, ignore_errors=True)  # the command does so too, unless it was killed
        os._exit(1)  # the listening thread is still reading, which an orderly exit would trip over


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes for ourselves alone: what a library or a rank prints goes to standard error."""
    jobs, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return os.fdopen(jobs, "rb"), os.fdopen(replies, "wb")


def _listen(jobs: BinaryIO, waiting: SimpleQueue[Job], sockets: Path) -> None:
    try:
        for line in jobs:
            waiting.put(Job.from_json(line))
        processes.end_descendants()
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
        os._exit(0)


def _serve(waiting: SimpleQueue[Job], replies: BinaryIO, *, preload: list[str], sockets: Path) -> None:
    """Job after job; one that cannot be run at all is the last, and the command then gets itself a new starter."""
    try:
        servers = _start_servers(preload, sockets)
        while True:
            job = waiting.get()
            if not servers <= processes.descendants():  # the kernel may have killed one for its memory
                servers = _start_servers(preload, sockets)
            _reply(replies, {"outcome": asdict(run(job, servers=servers))})
    except LaunchError as error:
        _reply(replies, {"error": str(error)})
    except Exception:
        traceback.print_exc()  # the command shows it, with what standard error has just before it


def _start_servers(preload: list[str], sockets: Path) -> Set[int]:
    """Start the fork server, warm, and with it the resource tracker of `multiprocessing`."""
    warm.start(preload, sockets=sockets)
    _import_agent()  # while the fork server imports the same there
    warm.wait()
    return frozenset(processes.descendants())


def run(job: Job, *, servers: Set[int]) -> Outcome:
    """Run one job to its end, of whatever kind; afterwards only the `servers` are left below this process.

    Raises:
        LaunchError: its ranks could not be started.
    """

    def end_ranks() -> None:
        processes.end_descendants(keep=servers)

    oom_kills = processes.oom_kills()
    with Watchdog(job, end_ranks=end_ranks) as watchdog:
        exit_codes = _import_agent()(job)
    end_ranks()
    for rank in range(job.world_size):
        job.files(rank).progress.unlink(missing_ok=True)
    if watchdog.verdict is not None:
        return watchdog.verdict
    return explain(job, exit_codes, oom_killed=oom_kills is not None and processes.oom_kills() != oom_kills)


def explain(job: Job, exit_codes: Mapping[int, int], *, oom_killed: bool) -> Outcome:
    """Return the outcome that the ranks' traces show, or else the exit codes that the agent saw."""
    failures = [failure for rank in range(job.world_size) if (failure := Failure.read(job.files(rank).failure))]
    failures = failures or [exit_failure(code, rank=rank, unix_time=0.0) for rank, code in exit_codes.items()]
    if not failures:
        return Outcome(ended="finished", reason=f"all {job.world_size} ranks finished", rank=None)
    cause = root_cause(failures)
    if cause.signal == "SIGKILL" and oom_killed:
        reason = f"{cause.sentence}: the kernel ran out of memory for this control group"
        return Outcome(ended="oom", reason=reason, rank=cause.rank)
    return Outcome(ended=cause.kind, reason=cause.sentence, rank=cause.rank)


def _import_agent() -> Callable[[Job], Mapping[int, int]]:
    # Not at the top of the file: the fork server has to be on its way before torch is imported here.
    from mimo_bench.launch.local.elastic import run_ranks

    return run_ranks


def _reply(replies: BinaryIO, content: Mapping[str, object]) -> None:
    replies.write(json.dumps(content).encode() + b"\n")
    replies.flush()
