"""Collectives, links, and the account of where a step goes."""

from __future__ import annotations

from mimo_bench.record.schema.base import Count, Entry, Finite, Seconds


class Communication(Entry):
    """One collective on one group role, per step; times are those of the rank that spends most in it."""

    role: str
    collective: str
    group_size: Count = 0
    """Ranks of the group."""
    spans_hosts: bool = False
    """Whether data goes between hosts: a message by its two ends, a collective if its group is on more than one."""
    calls_per_step: Finite
    """Over all ranks: a collective of a group of four counts four times."""
    bytes_per_step: Finite
    """Of the tensors put in, over all ranks."""
    seconds_per_step: Seconds | None = None
    """On the rank that spends most in it, waiting for late peers included."""
    transfer_seconds: Seconds | None = None
    """Of these, what the rank of the group that waited least spent, call by call."""
    wait_seconds: Seconds | None = None
    """The rest: waiting for peers that came later."""
    exposed_seconds: Seconds | None = None
    """Of these, the time in which the rank computed nothing; the rest was hidden behind computation."""
    bus_bytes_per_second: Finite | None = None
    """What each link carried during the transfer, by the convention of NCCL's tests and the size of the group."""


class LinkSpeed(Entry):
    """One collective among ranks of this machine when nothing else goes on (`linkspeed --record`)."""

    collective: str
    num_ranks: Count
    num_bytes: Count
    """That each rank put in."""
    seconds: Seconds
    """Of one call, on the slowest rank."""
    bus_bytes_per_second: Finite | None
    """By the convention of NCCL's tests; null for what has none."""


class RankCommunication(Entry):
    """One collective on one group role as one rank saw it, per step."""

    role: str
    collective: str
    group_size: Count = 0
    spans_hosts: bool = False
    calls_per_step: Finite
    bytes_per_step: Finite
    """Of the tensors that this rank put in."""
    seconds_per_step: Seconds
    """On the device, waiting for late peers included; on CPU ranks by the wall clock, while blocked in it."""
    transfer_seconds: Seconds | None = None
    exposed_seconds: Seconds | None = None
    bus_bytes_per_second: Finite | None = None


class RankAccount(Entry):
    """Where a rank's step goes, mean over the steps that were looked at in comm mode."""

    num_steps: Count
    step_seconds: Seconds
    """By the clock of the timed steps, which knows nothing of the parts below."""
    compute_seconds: Seconds
    """Time in which anything was computed."""
    exposed_communication_seconds: Seconds
    """Time of transfers in which nothing was computed."""
    idle_seconds: Seconds
    """Time with neither; waiting for a peer inside a call is idleness."""
    wait_seconds: Seconds
    """Of the idle time, what was spent waiting inside a call."""
    compute_seconds_by_module: dict[str, Seconds] = {}


class RankAccountOf(RankAccount):
    """The same, with the rank it belongs to."""

    rank: int
    host: str
    device: str
    modules: tuple[str, ...]


class Account(Entry):
    """Where every rank's step goes; compute, exposed communication and idle add up to the step within 1 %."""

    ranks: tuple[RankAccountOf, ...]
