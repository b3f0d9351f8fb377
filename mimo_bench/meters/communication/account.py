"""Account of a rank's step: computing, transferring without computation, or idle. No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mimo_bench.meters.communication.calls import BATCH, Call, bus_bytes, transfer_spans
from mimo_bench.meters.communication.intervals import Interval, Intervals, subtract, total, union, within
from mimo_bench.record import RankAccount, RankCommunication


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """All that a rank did in a window of whole steps; times in seconds on one clock."""

    window: Interval
    compute: Mapping[str | None, Sequence[Interval]]
    """When something was computed, by the module it belonged to; None for what belongs to none."""
    calls: Sequence[Call]


def close_account(
    observed: Observed, transfers: Sequence[float | None], *, step_seconds: Sequence[float]
) -> RankAccount:
    """The rank's account per step.

    A call's transfer is its last part. What is left of the step when computation and transfer are taken out is idle,
    so waiting for a peer is idleness of this rank and no cost of communication.

    Args:
        observed: what the rank did.
        transfers: seconds of transfer of each of its calls; all of a call counts where that is not known.
        step_seconds: of the steps of the window, by another clock than the intervals'.
    """
    window, num_steps = observed.window, len(step_seconds)
    compute = union(within(_all(observed.compute), window))
    transferring = union(
        within(
            (
                span
                for call, transfer in zip(observed.calls, transfers, strict=True)
                for span in transfer_spans(call, call.seconds if transfer is None else transfer)
            ),
            window,
        )
    )
    blocked = union(within((span for call in observed.calls for span in call.spans), window))
    exposed = subtract(transferring, compute)
    idle = subtract(subtract([window], compute), transferring)
    return RankAccount(
        num_steps=num_steps,
        step_seconds=sum(step_seconds) / num_steps,
        compute_seconds=total(compute) / num_steps,
        exposed_communication_seconds=total(exposed) / num_steps,
        idle_seconds=total(idle) / num_steps,
        wait_seconds=total(subtract(subtract(blocked, transferring), compute)) / num_steps,
        compute_seconds_by_module={
            module: total(union(within(spans, window))) / num_steps
            for module, spans in observed.compute.items()
            if module is not None
        },
    )


def summarise(
    calls: Sequence[Call],
    transfers: Sequence[float | None] | None,
    *,
    num_steps: int,
    ranks_per_host: int | None = None,
    compute: Mapping[str | None, Sequence[Interval]] | None = None,
) -> tuple[RankCommunication, ...]:
    """One rank's calls as totals per step, by group role, collective and whether data goes between hosts.

    Messages that were launched together appear as themselves, with calls and bytes, and once as a batch, with time.

    Args:
        calls: of this rank.
        transfers: seconds of transfer of each; None where nothing was compared with the other ranks.
        num_steps: over how many steps.
        ranks_per_host: tells what goes between hosts from what does not; None for one host.
        compute: when something was computed; None where that was not observed.
    """
    rows: dict[tuple[str, str, bool], _Row] = defaultdict(_Row)
    computing = None if compute is None else union(_all(compute))
    for index, call in enumerate(calls):
        if len(call.ranks) == 1:
            continue  # a group of one sends nothing
        # A message goes between its two ends, wherever the rest of its group is.
        ends = call.messages if len(call.messages) == len(call.parts) else (call.ranks,) * len(call.parts)
        for part, ranks in zip(call.parts, ends, strict=True):
            row = rows[call.role, part.collective, _span_hosts(ranks, ranks_per_host)]
            row.num_calls += 1
            row.num_bytes += part.num_bytes
            row.group_size = len(call.ranks)
        across = any(_span_hosts(ranks, ranks_per_host) for ranks in call.messages or (call.ranks,))
        row = rows[call.role, call.collective, across]
        row.num_calls += call.collective == BATCH
        row.group_size = len(call.ranks)
        row.add_time(call, transfers[index] if transfers is not None else None, computing)
    return tuple(
        row.entry(role, collective, across, num_steps) for (role, collective, across), row in sorted(rows.items())
    )


def join(counted: Sequence[RankCommunication], timed: Sequence[RankCommunication]) -> tuple[RankCommunication, ...]:
    """Rows with calls and bytes of `counted` and times of `timed`; a row that only one has stays as it is.

    Compiled code calls its collectives without Python, so a row of which more calls were timed than counted is taken
    from those.
    """
    times = {_key(row): row for row in timed}
    joined = [row if (other := times.pop(_key(row), None)) is None else _joined(row, other) for row in counted]
    return tuple(sorted([*joined, *times.values()], key=_key))


def _joined(counted: RankCommunication, timed: RankCommunication) -> RankCommunication:
    if timed.calls_per_step > counted.calls_per_step:
        return timed
    return timed.model_copy(update={"calls_per_step": counted.calls_per_step, "bytes_per_step": counted.bytes_per_step})


def with_exposure(
    rows: Sequence[RankCommunication], traced: Sequence[RankCommunication]
) -> tuple[RankCommunication, ...]:
    """Rows with the exposed time that the traced steps showed, at most the row's own time."""
    exposed = {_key(row): row.exposed_seconds for row in traced}
    return tuple(
        row
        if (seconds := exposed.get(_key(row))) is None
        else row.model_copy(update={"exposed_seconds": min(seconds, row.seconds_per_step)})
        for row in rows
    )


def _key(row: RankCommunication) -> tuple[str, str, bool]:
    return row.role, row.collective, row.spans_hosts


@dataclass(slots=True)
class _Row:
    """Sums of one row while it grows."""

    num_calls: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    transfer: float | None = 0.0
    exposed: float | None = 0.0
    bus_bytes: float = 0.0
    group_size: int = 0

    def add_time(self, call: Call, transfer: float | None, computing: Intervals | None) -> None:
        self.seconds += call.seconds
        self.transfer = None if self.transfer is None or transfer is None else self.transfer + transfer
        if computing is None or self.exposed is None:
            self.exposed = None
        else:
            self.exposed += total(subtract(union(call.spans), computing))
        # A batch is timed as one and carries what its larger direction carries.
        sent = sum(part.num_bytes for part in call.parts if part.collective != "recv")
        came = sum(part.num_bytes for part in call.parts if part.collective == "recv")
        kind = "send" if call.messages else call.collective
        self.bus_bytes += bus_bytes(kind, num_bytes=max(sent, came), num_ranks=len(call.ranks)) or 0.0

    def entry(self, role: str, collective: str, across: bool, num_steps: int) -> RankCommunication:
        is_timed = self.seconds > 0.0
        transfer = self.transfer if is_timed else None
        return RankCommunication(
            role=role,
            collective=collective,
            group_size=self.group_size,
            spans_hosts=across,
            calls_per_step=self.num_calls / num_steps,
            bytes_per_step=self.num_bytes / num_steps,
            seconds_per_step=self.seconds / num_steps,
            transfer_seconds=None if transfer is None else transfer / num_steps,
            exposed_seconds=None if self.exposed is None or not is_timed else self.exposed / num_steps,
            bus_bytes_per_second=self.bus_bytes / transfer if transfer and self.bus_bytes else None,
        )


def _span_hosts(ranks: Sequence[int], ranks_per_host: int | None) -> bool:
    return ranks_per_host is not None and len({rank // ranks_per_host for rank in ranks}) > 1


def _all(spans: Mapping[str | None, Sequence[Interval]]) -> Intervals:
    return [span for some in spans.values() for span in some]
