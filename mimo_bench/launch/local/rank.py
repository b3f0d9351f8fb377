"""Supervisor of a rank, and the rank itself.

The elastic agent starts one *supervisor* for each rank. It forks the rank proper, which calls the job's entry, and
waits: the process that dies is never the one that reports it. A rank may also end without any teardown. Signals,
exceptions and their times are exact, where the agent reports one failure of many.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from mimo_bench.launch import progress
from mimo_bench.launch.failure import Failure, exit_failure
from mimo_bench.launch.job import Job, RankFiles
from mimo_bench.launch.local import processes, warm

LAST_WORDS_SECONDS = 0.1
"""How long a supervisor waits for the death of its rank once a peer has failed."""


def supervise(job: Job) -> None:
    """Run one rank in a process of its own and see it through; the function that the elastic agent runs.

    Raises:
        SystemExit: the rank failed; its failure file says how.
    """
    assert warm.fork_server is not None, "ranks are forked by a warm fork server"
    processes.die_with(warm.fork_server)
    rank = int(os.environ["RANK"])
    files = job.files(rank)
    supervisor = os.getpid()
    if (pid := os.fork()) == 0:
        _be_rank(job, rank, supervisor=supervisor)
    exit_code = _wait_for(pid)
    ended_at = time.time()
    progress.end(files.progress)
    if exit_code != 0:
        if not files.failure.exists():
            exit_failure(exit_code, rank=rank, unix_time=ended_at).write(files.failure)
        raise SystemExit(1)


class _PeerFailed(Exception):  # noqa: N818  # a signal, not an error of this process
    """The agent ends this supervisor because it saw another rank fail."""


def _wait_for(rank_process: int) -> int:
    """Return the exit code of the rank's process.

    Raises:
        SystemExit: another rank failed, and this one still runs; it dies with this supervisor.
    """

    def stop_waiting(*_: object) -> None:
        raise _PeerFailed

    signal.signal(signal.SIGTERM, stop_waiting)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(rank_process, 0)[1])
    except _PeerFailed:
        # Peers notice a lost connection before the kernel reports the death behind it: it may be this rank's own.
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while time.monotonic() < deadline:
            ended, status = os.waitpid(rank_process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        raise SystemExit(1) from None


def _be_rank(job: Job, rank: int, *, supervisor: int) -> NoReturn:
    """Call the entry and end; everything this process held ends with it, so nothing is torn down first."""
    exit_code = 1
    try:
        processes.die_with(supervisor)
        files = job.files(rank)
        _prepare(job, files)
        exit_code = _call_entry(job, rank, files)
    finally:
        _flush()
        os._exit(exit_code)


def _prepare(job: Job, files: RankFiles) -> None:
    """Everything printed goes to the log, from C too; a signal has the tracebacks of all threads printed."""
    log = os.open(files.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # neither is replaced in a fresh process
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    os.environ.update(job.environment)
    progress.begin(files.progress)


def _call_entry(job: Job, rank: int, files: RankFiles) -> int:
    """The exit code of the rank; a failure is written down before the peers can notice it."""
    try:
        _find(job.entry)(dict(job.arguments), rank=rank, world_size=job.world_size)
    except BaseException as error:
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return 0
        Failure.of(error, rank=rank, unix_time=time.time()).write(files.failure)
        traceback.print_exc()
        return 1
    return 0


def _find(entry: str) -> Callable[..., Any]:
    module, _, function = entry.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise type(error)(f"no entry {entry}: {error}") from error
    return found


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)
