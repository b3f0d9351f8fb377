"""The cost of instruments from paired blocks, worked out by hand; and both commands on CPU ranks."""

from __future__ import annotations

import math

import pytest

from mimo_bench.bench.linkspeed import SIZES, describe_links, measure_links
from mimo_bench.bench.overhead import measure_overhead, overhead_of
from mimo_bench.record import LinkSpeed
from tests.ranks.trainer_job import scenario


def test_what_drifts_along_falls_out_of_the_comparison() -> None:
    # Every block is a second slower than the one before, and instruments cost nothing.
    found = overhead_of("timing", [(10.0, 11.0, 12.0, 13.0), (14.0, 15.0, 16.0, 17.0)], num_steps=2)
    assert (found.share, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.bare_seconds == (10 + 13 + 14 + 17) / 4 / 2


def test_the_interval_is_students_over_the_turns() -> None:
    # 1 % and 3 %: mean 2 %, deviation 1.414 %, over the root of 2: 1 %; t of 1 degree of freedom at 97.5 % is 12.706.
    found = overhead_of("comm", [(1.0, 1.01, 1.01, 1.0), (1.0, 1.03, 1.03, 1.0)], num_steps=1)
    assert found.share == pytest.approx(0.02)
    assert found.high - found.share == pytest.approx(0.12706, rel=1e-4)


def test_one_turn_says_nothing_about_the_spread() -> None:
    assert overhead_of("comm", [(1.0, 1.01, 1.01, 1.0)], num_steps=1).high == math.inf


@pytest.mark.usefixtures("warm_commands")
def test_every_mode_is_measured_on_real_ranks() -> None:
    disjoint = scenario({"colocated": ({}, {}), "disjoint": ({}, {"rank_offset": 1})})
    found = measure_overhead(disjoint, "disjoint", device_kind="cpu", num_turns=2, num_steps=1)
    assert [one.mode for one in found] == ["timing", "comm"]
    assert all(one.bare_seconds > 0 and one.low <= one.share <= one.high for one in found)


@pytest.mark.usefixtures("warm_commands")
def test_links_are_measured_by_collective_and_size() -> None:
    speeds = measure_links(num_ranks=2, device_kind="cpu")
    collectives = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send")
    assert {speed.collective for speed in speeds} == set(collectives)
    assert {speed.num_bytes for speed in speeds} == set(SIZES["cpu"])
    assert all(speed.seconds > 0 and speed.bus_bytes_per_second for speed in speeds)


def test_a_rate_that_is_not_known_is_a_dash() -> None:
    speed = LinkSpeed(collective="barrier", num_ranks=2, num_bytes=0, seconds=1e-6, bus_bytes_per_second=None)
    assert list(describe_links([speed]))[1].split() == ["barrier", "0", "1.0", "-"]
