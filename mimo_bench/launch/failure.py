"""Failures of ranks, and the first cause of several. No torch, no processes.

When one rank dies its peers fail too, within milliseconds and with messages about a lost connection. What counts is the
rank that took the others with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from signal import Signals
from typing import Literal

from mimo_bench.util import write_atomically

LOST_CONNECTION = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "socket closed",
    "remote process exited",
    "ncclremoteerror",
    "failed to recv, got 0 bytes",
    "connection was likely closed",
    "heartbeat monitor",
)
"""Messages of gloo, NCCL and the store about a lost peer, in lower case."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")
"""Messages of libraries that have no exception class for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why one rank did not finish: an exception, a signal or an early exit."""

    rank: int
    kind: Literal["crashed", "oom"]
    type: str | None
    """The exception's; None where the rank ended without one."""
    message: str
    unix_time: float
    signal: str | None = None

    @classmethod
    def of(cls, error: BaseException, *, rank: int, unix_time: float) -> Failure:
        """Return the failure of an exception; both of torch's out-of-memory errors are known by name."""
        names = {kind.__name__ for kind in type(error).__mro__}
        message = str(error)
        is_said = any(hint in message.lower() for hint in OUT_OF_MEMORY)
        kind: Literal["crashed", "oom"] = "oom" if is_said or names & {"OutOfMemoryError", "MemoryError"} else "crashed"
        return cls(rank=rank, kind=kind, type=type(error).__name__, message=message, unix_time=unix_time)

    @property
    def sentence(self) -> str:
        """The failure in words."""
        if self.type is None:
            return f"rank {self.rank} {self.message}"
        first_line = self.message.strip().partition("\n")[0]
        said = f"{self.type}: {first_line}" if first_line else self.type
        return f"rank {self.rank} raised {said} (see rank{self.rank}.log)"

    def write(self, path: Path) -> None:
        """Write the failure for the starter; readers never see half a file."""
        write_atomically(path, json.dumps(asdict(self)).encode(), synced=False)

    @classmethod
    def read(cls, path: Path) -> Failure | None:
        """Return the failure that `write` left at `path`; None if there is none."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None


def root_cause(failures: Sequence[Failure]) -> Failure:
    """Return the failure that caused the others: the likeliest kind first, then the earliest."""
    return min(failures, key=lambda failure: (_order(failure), failure.unix_time))


def _order(failure: Failure) -> int:
    if failure.signal not in (None, "SIGABRT"):
        return 0  # our own processes send no signal that is written down
    if any(hint in failure.message.lower() for hint in LOST_CONNECTION):
        return 2
    # Libraries abort() when a peer has failed, so that SIGABRT waits in line with the exceptions.
    return 1


def exit_failure(exit_code: int, *, rank: int, unix_time: float) -> Failure:
    """Return the failure of a rank that ended without an exception; `exit_code` is negative for a signal."""
    if exit_code >= 0:
        message, name = f"exited with status {exit_code} and no exception (see rank{rank}.log)", None
    else:
        name = _signal_name(-exit_code)
        message = f"was killed by {name}"
    return Failure(rank=rank, kind="crashed", type=None, message=message, unix_time=unix_time, signal=name)


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"
