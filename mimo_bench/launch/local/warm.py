"""The fork server's side: tied to the starter, with everything imported that ranks would otherwise import each.

`multiprocessing` keeps silent about a preload that cannot be imported, so what went wrong is kept in a variable; a
probe, forked like a rank, reads it and tells the starter.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import multiprocessing.forkserver
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mimo_bench.launch.local import processes
from mimo_bench.util import LaunchError

STARTER = "MIMO_BENCH_STARTER_PID"
PRELOAD = "MIMO_BENCH_PRELOAD"

fork_server: int | None = None
"""Process id of the fork server, in it and in what it forked."""
problem: str | None = None
"""Why the fork server could not import what it should."""


def begin() -> None:
    """Tie the fork server to its starter, then import; called in the fork server."""
    global fork_server, problem
    processes.die_with(int(os.environ.pop(STARTER)))
    fork_server = os.getpid()
    for name in json.loads(os.environ.pop(PRELOAD)):
        try:
            importlib.import_module(name)
        except Exception as error:
            problem = f"ranks cannot import {name}: {type(error).__name__}: {error}"
            return
    # Modules stay: no collection in a rank need walk through them, which takes it a third of a second and touches, and
    # so copies, every page that it shares with the fork server.
    gc.freeze()


def start(preload: Sequence[str], *, sockets: Path) -> None:
    """Start the fork server and return at once, while it imports; called in the starter's main thread.

    It listens in the folder `sockets`. The kernel ties it to the thread that started it, which must therefore outlive
    it.
    """
    os.environ |= {STARTER: str(os.getpid()), PRELOAD: json.dumps(list(preload))}
    # `multiprocessing` would make a folder that stays behind unless this process ends in good order. Ranks inherit it.
    process: Any = multiprocessing.current_process()
    process._config["tempdir"] = str(sockets)
    multiprocessing.set_forkserver_preload(["mimo_bench.launch.local.forkserver"])
    multiprocessing.forkserver.ensure_running()


def wait() -> None:
    """Return when the fork server is ready to fork ranks; called in the starter.

    Raises:
        LaunchError: it could not import everything.
        RuntimeError: it died of it.
    """
    context = multiprocessing.get_context("forkserver")
    receiving, sending = context.Pipe(duplex=False)
    probe = context.Process(target=_report, args=(sending,))
    try:
        probe.start()
        sending.close()
        found = receiving.recv()
    except (EOFError, OSError):
        raise RuntimeError("the fork server died while it imported what ranks need") from None
    probe.join()
    if found is not None:
        raise LaunchError(found)


def _report(sending: Connection) -> None:
    sending.send(problem)
