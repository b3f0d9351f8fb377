"""Samples with several images, or none, train alike over every kind of bridge, and faults of it are caught."""

from __future__ import annotations

import pytest

from mimo_bench.bench.attempt import LaunchResult
from mimo_bench.launch import Launcher
from mimo_bench.parity.faults.catalogue import known_faults
from mimo_bench.scenario.scenario import Scenario
from tests.ranks.gate import Gate

SCENARIO = Scenario.model_validate(
    {
        "question": "Do samples without images, and with several, train alike?",
        "model": "llava-tiny",
        "data": {
            "provider": "synthetic",
            "items_per_sample": {"vision": [0, 2, 1, 1]},
            "text_only_share": 0.6,
            "length_skew": 2.0,
        },
        "global_batch_size": 16,
        "global_micro_batch_size": 4,
        "seq_length": 64,
        "baseline": "one-rank",
        "steps": {"parity": 2, "warmup": 1, "timed": 4},
        "layout": [
            {"name": "one-rank", "vision": {}, "language": {}},
            {"name": "colocated-fan-in", "vision": {"dp": 2}, "language": {"tp": 2}},
            {"name": "colocated-fan-out", "vision": {"tp": 2}, "language": {"dp": 2}},
            {"name": "disjoint-fan-in", "vision": {"dp": 2}, "language": {"rank_offset": 2}},
            {"name": "disjoint-fan-out", "vision": {"pp": 2}, "language": {"dp": 2, "rank_offset": 2}},
            {
                "name": "overlapped",
                "vision": {"dp": 2},
                "language": {"dp": 2},
                "settings": {"distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True},
            },
        ],
    }
)


@pytest.fixture(scope="module")
def gate(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(launcher, SCENARIO, tmp_path_factory.mktemp("uneven"))


@pytest.mark.parametrize("layout", ["colocated-fan-in", "colocated-fan-out", "disjoint-fan-in", "disjoint-fan-out"])
def test_uneven_samples_train_alike_over_every_kind_of_bridge(gate: Gate, layout: str) -> None:
    account = gate.judge(layout)
    assert (account.status, account.reason.split(":")[0]) == ("passed", "2 steps agree")


@pytest.mark.parametrize(
    ("fault", "layout", "check", "words"),
    [
        ("uneven-rows-split-evenly", "disjoint-fan-in", "gradients", "of the gradients of vision differ"),
        ("uneven-rows-split-evenly", "disjoint-fan-out", "gradients", "gradients of"),
        ("uneven-rows-split-evenly", "colocated-fan-in", "gradients", "of the gradients of vision differ"),
        ("uneven-rows-split-evenly", "colocated-fan-out", "gradients", "gradients of"),
        ("shards-overlap", "overlapped", "static", "samples differ from the baseline's"),
    ],
)
def test_a_fault_of_uneven_samples_is_caught(gate: Gate, fault: str, layout: str, check: str, words: str) -> None:
    account = gate.judge(layout, known_faults()[fault])
    assert account.parity is not None
    assert account.parity.failed_check == check
    assert words in account.reason


@pytest.fixture(scope="module")
def overlapped(gate: Gate) -> LaunchResult:
    return gate.attempts.run(SCENARIO.case("overlapped"), "timing", fault=None)


def test_with_overlap_every_replica_fires_its_hooks_in_text_only_micro_batches(overlapped: LaunchResult) -> None:
    assert overlapped.outcome.ended == "finished"


def test_numbers_of_images_that_come_up_first_in_the_window_are_rehearsed_by_all_ranks(
    overlapped: LaunchResult,
) -> None:
    assert [len(rank.warmup_seconds) for rank in overlapped.ranks] == [1, 1]
    assert [rank.num_rehearsed for rank in overlapped.ranks] == [2, 2]
    assert [len(rank.step_seconds) for rank in overlapped.ranks] == [4, 4]
