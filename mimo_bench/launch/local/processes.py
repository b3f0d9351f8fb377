"""Linux process trees: who dies with whom, who is still there. No torch."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path

from mimo_bench.util import LaunchError

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

OOM_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def die_with(parent: int) -> None:
    """Have the kernel kill this process as soon as `parent` ends, whatever ends it; or end at once if it has."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel knew of our wish
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none is ever lost sight of."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants() -> set[int]:
    """The processes below this one, zombies included."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    pending = [os.getpid()]
    while pending:
        below = children.get(pending.pop(), [])
        found.update(below)
        pending.extend(below)
    return found


def end_descendants(*, keep: Set[int] = frozenset(), seconds: float = 10.0) -> None:
    """Kill every process below this one but those to `keep`, and wait until they are gone.

    Raises:
        LaunchError: some outlived SIGKILL for this many `seconds`; a driver holds them.
    """
    deadline = time.monotonic() + seconds
    while doomed := descendants() - keep:
        for pid in doomed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):  # not ours to reap while its own parent lives
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            raise LaunchError(f"processes {sorted(doomed)} do not die by SIGKILL; a device driver may hold them")
        time.sleep(0.005)


def oom_kills() -> int | None:
    """Return the number of processes of this control group that the kernel killed for memory; None if unknown."""
    for path in _memory_event_files():
        with suppress(OSError):
            if match := OOM_KILLS.search(path.read_text()):
                return int(match[1])
    return None


def _memory_event_files() -> Iterator[Path]:
    root = Path("/sys/fs/cgroup")
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            inside = group.lstrip("/")
            if not controllers:  # version 2
                yield from (root / inside / "memory.events", root / "memory.events")
            elif "memory" in controllers.split(","):
                yield from (root / "memory" / inside / "memory.oom_control", root / "memory" / "memory.oom_control")


def _processes() -> Iterator[tuple[int, int]]:
    """Every process with its parent."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it ended meanwhile
                stat = (entry / "stat").read_text(errors="replace")
                yield int(entry.name), int(stat.rpartition(")")[2].split()[1])


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")
