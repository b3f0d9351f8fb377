"""Seconds of processors that commands take, all processes below them included: what a busy machine stretches least."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a command took."""

    seconds: float
    """Of processors, in user and system mode."""
    peak_bytes: int
    """Resident memory of its largest process."""


def cost_of(*arguments: str) -> Cost:
    """Run this Python with `arguments` to its end, byte-code as an installation has it, output thrown away.

    Every process below is counted that its parent waits for, as the launcher's are: starter, fork server and ranks.

    Raises:
        CalledProcessError: it failed.
    """
    ignored = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    environment = {name: value for name, value in os.environ.items() if name not in ignored}
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(seconds=used.ru_utime + used.ru_stime, peak_bytes=used.ru_maxrss * 1024)


def least_of(num: int, *arguments: str) -> Cost:
    """The cheapest of `num` runs; the first of them also writes what byte-code is missing."""
    return min((cost_of(*arguments) for _ in range(num)), key=lambda cost: cost.seconds)
