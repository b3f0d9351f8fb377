"""Signs of progress: a rank that trains gives them, the watchdog counts them.

A rank's progress file holds its process id on the first line and then one byte for each sign, so its size is all that
the watchdog has to look at, and no clock of a file system is trusted. Once the rank has ended the file is empty.
"""

from __future__ import annotations

import os
from pathlib import Path

from mimo_bench.util import write_atomically

VARIABLE = "MIMO_BENCH_PROGRESS_FILE"


def beat() -> None:
    """Tell the watchdog that this rank is getting on; outside a launch it does nothing. Costs one small write."""
    if (path := os.environ.get(VARIABLE)) is not None:
        with Path(path).open("ab", buffering=0) as file:
            file.write(b".")


def begin(path: Path) -> None:
    """The first sign of this process; from here on `beat` writes to `path`."""
    # Never seen empty, which would mean the end.
    write_atomically(path, f"{os.getpid()}\n".encode(), synced=False)
    os.environ[VARIABLE] = str(path)


def end(path: Path) -> None:
    """Say that the rank has ended, whether or not it ever began; no sign will follow."""
    path.write_bytes(b"")


def signs(path: Path) -> int | None:
    """A number that grows with every sign; None while the rank has not begun, 0 when it has ended."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def process_id(path: Path) -> int | None:
    """The process that gives the signs; None before and after."""
    try:
        first, newline, _ = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    return int(first) if newline else None
