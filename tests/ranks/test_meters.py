"""Comm mode on real ranks: planted slowness shows where it belongs, and the account of every rank closes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mimo_bench.bench.attempt import Attempts
from mimo_bench.launch import Launcher
from mimo_bench.predict import items_by_step, predict_communication
from mimo_bench.predict.identities import ACCOUNT_TOLERANCE
from mimo_bench.record import RankRecord
from mimo_bench.record.merge import merge_account, merge_communication
from tests.ranks.trainer_job import scenario

SCENARIO = scenario(
    {"colocated": ({}, {}), "disjoint": ({}, {"tp": 2, "rank_offset": 1})}, steps={"warmup": 1, "timed": 2}
)
NUM_MICRO_BATCHES = 2
DAWDLE_SECONDS = 0.5
"""As in `slow_faults`, which only ranks import."""
LOST_SECONDS = NUM_MICRO_BATCHES * DAWDLE_SECONDS
"""By the slow rank in each step."""
VISION, PEER, SLOW = range(3)

Watched = Callable[[str | None], tuple[RankRecord, ...]]


@pytest.fixture(scope="module")
def watched(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """The ranks of the disjoint layout in comm mode, with a fault or without, run once each."""
    known: dict[str | None, tuple[RankRecord, ...]] = {}

    def watch(fault: str | None) -> tuple[RankRecord, ...]:
        if fault not in known:
            place = tmp_path_factory.mktemp("comm")
            attempts = Attempts(launcher, scenario=SCENARIO, directory=place, device_kind="cpu", hang_seconds=60.0)
            attempt = attempts.run(SCENARIO.case("disjoint"), "comm", fault=fault)
            assert attempt.finished, attempt.outcome
            known[fault] = attempt.ranks
        return known[fault]

    return watch


FAULTS = [None, "tests.ranks.slow_faults:very_slow_rank", "mimo_bench.parity.faults.speed:bridge_bytes_doubled"]


@pytest.mark.parametrize("fault", FAULTS)
def test_compute_exposed_communication_and_idle_make_up_every_ranks_step(watched: Watched, fault: str | None) -> None:
    account = merge_account(watched(fault))
    assert account is not None
    assert [rank.rank for rank in account.ranks] == [VISION, PEER, SLOW]
    for rank in account.ranks:
        parts = rank.compute_seconds + rank.exposed_communication_seconds + rank.idle_seconds
        assert parts == pytest.approx(rank.step_seconds, rel=ACCOUNT_TOLERANCE)
        assert rank.compute_seconds > 0
        assert rank.wait_seconds <= rank.idle_seconds
        assert set(rank.compute_seconds_by_module) == set(rank.modules)
    assert all(record.unmeasured == {} for record in watched(fault))


def test_a_slow_rank_shows_as_its_peers_waiting_and_idle_and_not_as_transfer(watched: Watched) -> None:
    ranks = watched(FAULTS[1])
    for rank in (VISION, PEER):
        account = ranks[rank].account
        assert account is not None
        assert account.wait_seconds >= 0.9 * LOST_SECONDS
        assert account.idle_seconds >= account.wait_seconds
        assert account.exposed_communication_seconds < LOST_SECONDS / 2
    tensor_parallel = [row for row in ranks[PEER].communication if row.role == "language.tp"]
    transfers = [row.transfer_seconds for row in tensor_parallel if row.transfer_seconds is not None]
    assert sum(row.seconds_per_step for row in tensor_parallel) >= 0.9 * LOST_SECONDS
    assert sum(transfers) < LOST_SECONDS / 2
    # The late rank waits for no other.
    late = ranks[SLOW].account
    assert late is not None
    assert late.wait_seconds < LOST_SECONDS / 2


def test_doubled_bytes_of_the_bridge_show_in_its_role_and_in_no_other(watched: Watched) -> None:
    clean, doubled = (
        {
            (row.role, row.collective): (row.calls_per_step, row.bytes_per_step)
            for row in merge_communication(watched(fault))
        }
        for fault in (None, FAULTS[2])
    )
    assert clean.keys() == doubled.keys()
    bridge = {key for key in clean if key[0] == "bridge.vision->language"}
    assert {collective for _, collective in bridge} == {"broadcast", "recv", "send"}
    for key, (calls, num_bytes) in clean.items():
        times = 2 if key in bridge else 1
        assert doubled[key] == (times * calls, times * num_bytes), key


def test_a_record_of_comm_mode_holds_the_calls_and_bytes_that_shapes_give(watched: Watched) -> None:
    counted = {
        (row.role, row.collective): (row.calls_per_step, row.bytes_per_step)
        for row in merge_communication(watched(None))
    }
    predicted = predict_communication(SCENARIO, "disjoint", items=items_by_step(SCENARIO))
    assert counted == {(row.role, row.collective): (row.num_calls, row.num_bytes) for row in predicted.rows}


def test_what_is_sent_over_the_bridge_is_what_shapes_say(watched: Watched) -> None:
    sent = {
        rank.rank: sum(
            row.bytes_per_step for row in rank.communication if (row.role[:7], row.collective) == ("bridge.", "send")
        )
        for rank in watched(None)
    }
    # 2 micro-batches of 2 images of 16 tokens of width 64 in fp32.
    one_way = NUM_MICRO_BATCHES * 2 * 16 * 64 * 4
    assert sent == {VISION: one_way, PEER: one_way, SLOW: 0}
