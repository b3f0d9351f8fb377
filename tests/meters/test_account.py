"""Calls split into transfer and wait, intervals, and the account of a rank's step: worked out by hand."""

from __future__ import annotations

import pytest

from mimo_bench.meters.communication.account import Observed, close_account, summarise
from mimo_bench.meters.communication.calls import (
    BATCH,
    Call,
    Part,
    Signature,
    bus_bytes,
    transfer_seconds,
    transfer_spans,
)
from mimo_bench.meters.communication.intervals import Interval, subtract, total, union, within

PAIR = (0, 1)


def call(collective: str, *spans: Interval, ranks: tuple[int, ...] = PAIR, num_bytes: int = 8) -> Call:
    """A collective of `language.tp`."""
    part = Part(collective=collective, num_bytes=num_bytes)
    return Call(role="language.tp", collective=collective, ranks=ranks, parts=(part,), spans=spans)


def message(source: int, destination: int, seconds: float, *, own: int) -> Call:
    """A message as its sender or receiver saw it."""
    kind = "send" if own == source else "recv"
    return Call(
        role="bridge.vision->language",
        collective=kind,
        ranks=(0, 1, 2),
        parts=(Part(collective=kind, num_bytes=8),),
        spans=((0.0, seconds),),
        messages=((source, destination),),
    )


def transfers(*by_rank: list[Call], rank: int) -> list[float | None]:
    return transfer_seconds([[Signature.of(one) for one in calls] for calls in by_rank], rank)


# Intervals


def test_a_union_covers_once_what_several_cover() -> None:
    assert union([(3, 4), (0, 2), (1, 2.5), (4, 5), (7, 7)]) == [(0, 2.5), (3, 5)]


def test_what_is_subtracted_is_gone_and_nothing_else() -> None:
    assert subtract([(0, 10), (20, 30)], [(2, 3), (5, 22), (29, 40)]) == [(0, 2), (3, 5), (22, 29)]
    assert subtract([(0, 1), (2, 3), (4, 5)], [(0.5, 4.5)]) == [(0, 0.5), (4.5, 5)]
    assert subtract([], [(0, 1)]) == []
    assert subtract([(0, 1)], []) == [(0, 1)]


def test_a_window_cuts_off_what_reaches_over_it() -> None:
    assert within([(0, 2), (3, 4), (5, 9)], (1, 6)) == [(1, 2), (3, 4), (5, 6)]


# Transfer and wait


def test_a_collective_transfers_as_long_as_the_rank_that_waits_least() -> None:
    first, second = [call("all_reduce", (0, 5)), call("all_reduce", (6, 7))], [
        call("all_reduce", (4, 5)), call("all_reduce", (5.5, 7)),
    ]  # fmt: skip
    assert transfers(first, second, rank=0) == [1, 1]
    assert transfers(first, second, rank=1) == [1, 1]


def test_collectives_of_other_kinds_and_groups_are_not_mixed_up() -> None:
    first = [call("all_gather", (0, 3)), call("all_reduce", (3, 9)), call("all_reduce", (9, 10), ranks=(0, 2))]
    second = [call("all_gather", (0, 2)), call("all_reduce", (3, 7))]
    third = [call("all_reduce", (0, 0.5), ranks=(0, 2))]
    assert transfers(first, second, third, rank=0) == [2, 4, 0.5]


def test_a_message_has_two_ends_that_are_numbered_between_them() -> None:
    sender = [message(0, 1, 1.0, own=0), message(0, 2, 2.0, own=0), message(0, 1, 3.0, own=0)]
    near, far = [message(0, 1, 4.0, own=1), message(0, 1, 0.5, own=1)], [message(0, 2, 9.0, own=2)]
    assert transfers(sender, near, far, rank=0) == [1.0, 2.0, 0.5]
    assert transfers(sender, near, far, rank=1) == [1.0, 0.5]
    assert transfers(sender, near, far, rank=2) == [2.0]


def test_a_batch_ends_with_its_last_message() -> None:
    batch = Call(
        role="bridge.vision->language",
        collective=BATCH,
        ranks=(0, 1, 2),
        parts=(Part(collective="send", num_bytes=8), Part(collective="recv", num_bytes=4)),
        spans=((0.0, 6.0),),
        messages=((0, 1), (2, 0)),
    )
    assert transfers([batch], [message(0, 1, 2.0, own=1)], [message(2, 0, 5.0, own=2)], rank=0) == [5.0]


def test_a_call_whose_peers_are_silent_is_not_split() -> None:
    assert transfers([call("all_reduce", (0, 5))], [], rank=0) == [None]
    assert transfers([message(0, 1, 1.0, own=0)], [], rank=0) == [None]


def test_a_call_that_nobody_timed_on_one_rank_is_unknown_and_one_without_any_kernel_took_no_time() -> None:
    assert transfers([call("all_reduce", (0, 5))], [call("all_reduce")], rank=0) == [None]
    assert transfers([call("all_reduce")], [call("all_reduce")], rank=0) == [0.0]


def test_the_transfer_is_the_last_part_of_a_call() -> None:
    # Blocked for 1 s in the call and for 4 s in the wait for it.
    assert transfer_spans(call("all_reduce", (0, 1), (5, 9)), 4.5) == [(0.5, 1), (5, 9)]
    assert transfer_spans(call("all_reduce", (0, 1), (5, 9)), 3) == [(6, 9)]
    assert transfer_spans(call("all_reduce", (0, 1)), 0) == []


@pytest.mark.parametrize(
    ("collective", "expected"),
    # Of 4 ranks: each puts 12 bytes in.
    [("all_reduce", 18.0), ("all_gather", 36.0), ("reduce_scatter", 9.0), ("broadcast", 12.0), ("send", 12.0)],
)
def test_a_link_carries_what_the_convention_says(collective: str, expected: float) -> None:
    assert bus_bytes(collective, num_bytes=12, num_ranks=4) == expected


def test_a_barrier_and_a_group_of_one_have_no_bandwidth() -> None:
    assert bus_bytes("barrier", num_bytes=0, num_ranks=4) is None
    assert bus_bytes("all_reduce", num_bytes=12, num_ranks=1) is None


# The account


def test_compute_exposed_transfer_and_idle_make_up_the_step() -> None:
    # Two steps of 10 s. Computing 0-4 and 8-12; a call 3-9 that transfers for 3 s: 6-9, of which 6-8 are exposed.
    # Idle: 4-6, waiting, and 12-20.
    observed = Observed(
        window=(0, 20), compute={"vision": [(0, 2)], "language": [(1, 4), (8, 12)]}, calls=[call("all_reduce", (3, 9))]
    )
    account = close_account(observed, [3.0], step_seconds=(10.0, 10.0))
    assert account.compute_seconds == 4.0
    assert account.exposed_communication_seconds == 1.0
    assert account.idle_seconds == 5.0
    assert account.wait_seconds == 1.0
    assert account.compute_seconds_by_module == {"vision": 1.0, "language": 3.5}
    assert account.step_seconds == 10.0


def test_a_call_that_cannot_be_split_counts_as_transfer() -> None:
    observed = Observed(window=(0, 10), compute={None: [(0, 4)]}, calls=[call("all_reduce", (4, 9))])
    account = close_account(observed, [None], step_seconds=(10.0,))
    assert (account.exposed_communication_seconds, account.wait_seconds, account.idle_seconds) == (5.0, 0.0, 1.0)


def test_what_lies_beyond_the_window_is_nobodys() -> None:
    observed = Observed(window=(1, 2), compute={None: [(0, 1.25), (1.75, 9)]}, calls=[])
    assert close_account(observed, [], step_seconds=(1.0,)).compute_seconds == 0.5


# Totals


def test_time_is_split_and_bandwidth_comes_from_the_transfer() -> None:
    calls = [call("all_reduce", (0, 3), num_bytes=100), call("all_reduce", (5, 6), num_bytes=300)]
    (row,) = summarise(calls, [1.0, 1.0], num_steps=2, compute={None: [(2, 5.5)]})
    assert (row.calls_per_step, row.bytes_per_step, row.seconds_per_step) == (1.0, 200.0, 2.0)
    # Exposed: 0-2 and 5.5-6. The bus of two ranks carries each byte of an all-reduce once.
    assert (row.transfer_seconds, row.exposed_seconds, row.bus_bytes_per_second) == (1.0, 1.25, 200.0)


def test_one_call_that_cannot_be_split_leaves_the_row_unsplit() -> None:
    (row,) = summarise([call("all_reduce", (0, 3))] * 2, [1.0, None], num_steps=1)
    assert (row.transfer_seconds, row.exposed_seconds, row.bus_bytes_per_second) == (None, None, None)


def test_a_group_of_one_talks_to_nobody() -> None:
    assert summarise([call("all_reduce", (0, 1), ranks=(3,))], [1.0], num_steps=1) == ()


def test_groups_within_a_host_and_across_are_kept_apart() -> None:
    calls = [call("all_reduce", (0, 1)), call("all_reduce", (0, 1), ranks=(1, 2))]
    rows = summarise(calls, [1.0, 1.0], num_steps=1, ranks_per_host=2)
    assert [row.spans_hosts for row in rows] == [False, True]
    assert total([(0, 1), (2, 4)]) == 3


def test_a_message_between_ranks_of_one_host_does_not_span_hosts_because_its_group_does() -> None:
    # Ranks 0 and 1 on one host, 2 on another, all in one group.
    calls = [message(0, 1, 1.0, own=0), message(0, 2, 1.0, own=0)]
    rows = summarise(calls, [1.0, 1.0], num_steps=1, ranks_per_host=2)
    assert [(row.spans_hosts, row.calls_per_step, row.bytes_per_step) for row in rows] == [(False, 1, 8), (True, 1, 8)]


def test_a_batch_of_messages_spans_hosts_if_one_of_them_does() -> None:
    batch = Call(
        role="bridge.vision->language",
        collective=BATCH,
        ranks=(0, 1, 2),
        parts=(Part(collective="send", num_bytes=8), Part(collective="send", num_bytes=4)),
        spans=((0.0, 6.0),),
        messages=((0, 1), (0, 2)),
    )
    rows = summarise([batch], [5.0], num_steps=1, ranks_per_host=2)
    assert [(row.collective, row.spans_hosts, row.bytes_per_step, row.seconds_per_step) for row in rows] == [
        (BATCH, True, 0, 6.0),
        ("send", False, 8, 0.0),
        ("send", True, 4, 0.0),
    ]
