"""Parts of a step, by rank and by module: compute, communication that nothing hides, waiting for peers, idleness.

From the account that comm mode closes for every rank; nothing here without one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from statistics import fmean

from mimo_bench.record import Account, LayoutRecord, ModuleGrid, RankAccount

RANK_PARTS = ("compute", "exposed communication", "wait", "idle")
MODULE_PARTS = ("compute", "other modules", "exposed communication", "wait", "idle")
"""What a step consists of, in the order in which it is drawn."""

LOOKS = {"compute": 0, "other modules": 4, "exposed communication": 1, "wait": 2, "idle": 3}
"""Which of the six colours a part has."""


def of_rank(rank: RankAccount) -> tuple[float, ...]:
    """Seconds of each of `RANK_PARTS`; idle time spent waiting inside a call is separate from the rest."""
    idle = max(0.0, rank.idle_seconds - rank.wait_seconds)
    return rank.compute_seconds, rank.exposed_communication_seconds, rank.wait_seconds, idle


def of_module(account: Account, module: str, among: Container[int] | None = None) -> tuple[float, ...] | None:
    """Seconds of each of `MODULE_PARTS`, mean over the ranks that host the module; None if the account knows none.

    With `among`, over those of its ranks alone: one pipeline stage, say.
    """
    hosts = [rank for rank in account.ranks if module in rank.modules and (among is None or rank.rank in among)]
    if not hosts:
        return None
    compute, *rest = (fmean(seconds) for seconds in zip(*map(of_rank, hosts), strict=True))
    own = fmean(rank.compute_seconds_by_module.get(module, rank.compute_seconds) for rank in hosts)
    return (min(own, compute), max(0.0, compute - own), *rest)


def stages(grid: ModuleGrid) -> list[tuple[int, ...]]:
    """The ranks of each pipeline stage, in order."""
    size = len(grid.ranks) // grid.pp
    ranks = sorted(grid.ranks)
    return [tuple(ranks[stage * size : (stage + 1) * size]) for stage in range(grid.pp)]


def longest_step(layouts: Iterable[LayoutRecord]) -> float:
    """The longest step of any rank of any account, in seconds; it sets the scale that all are drawn on."""
    accounts = [layout.account for layout in layouts if layout.account is not None]
    return max((rank.step_seconds for account in accounts for rank in account.ranks), default=0.0)
