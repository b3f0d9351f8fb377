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
    """Number of calls over all ranks: a collective of a group of four counts four times."""
    bytes_per_step: Finite
    """Size of the input tensors, over all ranks."""
    seconds_per_step: Seconds | None = None
    """Time on the rank that spends most in it, waiting for late peers included."""
    transfer_seconds: Seconds | None = None
    """Part of seconds_per_step: call by call, the time of the rank in the group that waited least."""
    wait_seconds: Seconds | None = None
    """Rest of seconds_per_step: waiting for peers that came later."""
    exposed_seconds: Seconds | None = None
    """Part of seconds_per_step in which the rank computed nothing; the rest overlapped with computation."""
    bus_bytes_per_second: Finite | None = None
    """Bus bandwidth during the transfer, by the convention of NCCL's tests for the size of the group."""


class LinkSpeed(Entry):
    """One collective among ranks of this machine without other load (`linkspeed --record`)."""

    collective: str
    num_ranks: Count
    num_bytes: Count
    """Input of each rank."""
    seconds: Seconds
    """Time of one call, on the slowest rank."""
    bus_bytes_per_second: Finite | None
    """Bus bandwidth by the convention of NCCL's tests; null for a collective without one."""


class RankCommunication(Entry):
    """One collective on one group role as one rank saw it, per step."""

    role: str
    collective: str
    group_size: Count = 0
    spans_hosts: bool = False
    calls_per_step: Finite
    bytes_per_step: Finite
    """Size of the input tensors of this rank."""
    seconds_per_step: Seconds
    """Time on the device, waiting for late peers included; on CPU ranks wall time blocked in the call."""
    transfer_seconds: Seconds | None = None
    exposed_seconds: Seconds | None = None
    bus_bytes_per_second: Finite | None = None


class RankAccount(Entry):
    """Time budget of one rank's step, mean over the steps watched in comm mode."""

    num_steps: Count
    step_seconds: Seconds
    """Step time by the clock of the timed steps, independent of the parts below."""
    compute_seconds: Seconds
    """Time in which the rank computed."""
    exposed_communication_seconds: Seconds
    """Time of transfers in which the rank did not compute."""
    idle_seconds: Seconds
    """Time with neither; waiting for a peer inside a call is idle time."""
    wait_seconds: Seconds
    """Part of the idle time spent waiting inside a call."""
    compute_seconds_by_module: dict[str, Seconds] = {}


class RankAccountOf(RankAccount):
    """Time budget with the rank that it belongs to."""

    rank: int
    host: str
    device: str
    modules: tuple[str, ...]


class Account(Entry):
    """Time budget of every rank; compute, exposed communication and idle add up to the step within 1 %."""

    ranks: tuple[RankAccountOf, ...]
