"""Many ranks become one account: slowest rank, totals over totals, worst peaks."""

from __future__ import annotations

from typing import Any

import pytest

from mimo_bench.meters.memory import ExtraMemory
from mimo_bench.meters.memory_watch import Allocator
from mimo_bench.record import Comparing, EvaluationResult, RankCommunication, RankLoading, RankMemory, RankRecord
from mimo_bench.record.merge import (
    imbalance,
    last_step_at,
    merge_communication,
    merge_comparing,
    merge_launch,
    merge_loading,
    merge_memory,
    merge_timing,
    merge_training,
    quartiles,
)

EVALUATION = EvaluationResult(loss=2.5, answer_accuracy=0.5, num_samples=4)


def rank(number: int = 0, **changes: Any) -> RankRecord:
    """A rank that took one step to warm up and four that were timed."""
    fields: dict[str, Any] = {
        "rank": number,
        "mode": "timing",
        "host": "bench-1",
        "device": "cpu",
        "modules": ("vision", "language"),
        "seed_used": 0,
        "started_at": 100.0,
        "first_step_at": 103.0,
        "last_step_at": 110.0,
        "losses": (5.0, 4.0, 3.0, 2.0, 1.0),
        "grad_norms": {"vision": (1.0,) * 5, "language": (2.0,) * 5},
        "tokens": (1000, 10, 20, 30, 40),
        "items": {"vision": (1000, 4, 4, 4, 8)},
        "clock": "wall",
        "step_seconds": (0.5, 0.5, 0.5, 0.5),
        "weights_match_at_start": True,
        "samples_match": True,
        "mismatch": None,
        "evaluation": EVALUATION,
        "memory": None,
    }
    return RankRecord(**fields | changes)


# Timing


def test_each_step_takes_as_long_as_on_its_slowest_rank() -> None:
    ranks = [rank(0, step_seconds=(1.0, 4.0, 2.0, 1.0)), rank(1, step_seconds=(3.0, 1.0, 2.0, 2.0))]
    timing = merge_timing(ranks, global_batch_size=8)
    assert timing.step_seconds == (3.0, 4.0, 2.0, 2.0)
    assert timing.step_seconds_median == 2.5
    # Sorted 2, 2, 3, 4: the quartiles lie 3/4 and 9/4 steps in, at 2 and 3.25.
    assert timing.step_seconds_iqr == 1.25
    assert timing.clock == "wall"


def test_rates_are_totals_over_totals_and_warm_up_does_not_count() -> None:
    # 10 + 20 + 30 + 40 tokens, 20 images and 4 x 8 samples in 1 + 1 + 1 + 2 seconds, on 2 ranks.
    ranks = [rank(number, step_seconds=(1.0, 1.0, 1.0, 2.0)) for number in range(2)]
    timing = merge_timing(ranks, global_batch_size=8)
    assert timing.tokens_per_step == 25.0
    assert (timing.tokens_per_second, timing.tokens_per_second_per_gpu) == (20.0, 10.0)
    assert timing.images_per_second == 4.0
    assert timing.samples_per_second == 6.4


def test_a_slow_step_counts_by_its_time_and_not_as_one_rate_among_others() -> None:
    slow = merge_timing([rank(step_seconds=(7.0, 1.0, 1.0, 1.0))], global_batch_size=8)
    # 100 tokens in 10 seconds; the mean of 10/7, 20, 30 and 40 tokens per second would be 22.9.
    assert slow.tokens_per_second == 10.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((7.0,), (7.0, 7.0)),
        ((1.0, 2.0), (1.25, 1.75)),
        ((4.0, 1.0, 3.0, 2.0), (1.75, 3.25)),
        ((1.0, 2.0, 3.0, 4.0, 100.0), (2.0, 4.0)),
    ],
)
def test_quartiles_are_interpolated_linearly(values: tuple[float, ...], expected: tuple[float, float]) -> None:
    assert quartiles(values) == expected


# Training


def test_ranks_that_agree_give_one_training_and_its_steps_beyond_the_compared() -> None:
    trained = merge_training([rank(0), rank(1)], num_parity_steps=3)
    assert trained.losses == (5.0, 4.0, 3.0, 2.0, 1.0)
    assert trained.grad_norms == {"vision": (1.0,) * 5, "language": (2.0,) * 5}
    assert (trained.num_learning_steps, trained.evaluation) == (2, EVALUATION)
    assert (trained.mismatch, trained.disagreement) == (None, None)


def test_a_layout_that_took_no_step_has_no_learning_steps() -> None:
    stopped = {"losses": (), "grad_norms": {"vision": (), "language": ()}, "tokens": (), "items": {"vision": ()}}
    ranks = [rank(number, mismatch="samples differ", samples_match=False, **stopped) for number in range(2)]
    trained = merge_training(ranks, num_parity_steps=3)
    assert (trained.num_learning_steps, trained.mismatch, trained.samples_match) == (0, "samples differ", False)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"losses": (5.0, 4.0, 3.0, 2.0, 1.0000000000000002)}, "losses"),
        ({"grad_norms": {"vision": (1.0,) * 5, "language": (2.0,) * 4 + (None,)}}, "grad_norms"),
        ({"tokens": (1000, 10, 20, 30, 41)}, "tokens"),
        ({"items": {"vision": (1000, 4, 4, 4, 4)}}, "items"),
        ({"evaluation": None}, "evaluation"),
        ({"mismatch": "weights differ"}, "mismatch"),
    ],
)
def test_a_rank_that_reports_otherwise_is_named(changes: dict[str, Any], what: str) -> None:
    trained = merge_training([rank(0), rank(1), rank(2, **changes)], num_parity_steps=5)
    assert trained.disagreement == f"rank 2 reports other {what} than rank 0"


# Memory


def memory(number: int, modules: tuple[str, ...], allocated: int, reserved: int) -> RankRecord:
    return rank(
        number,
        modules=modules,
        memory=RankMemory(
            device_uuid=f"GPU-{number}",
            peak_allocated_bytes=allocated,
            peak_reserved_bytes=reserved,
            device_used_bytes=1000,
        ),
    )


def test_a_module_needs_what_its_worst_rank_needs_each_peak_by_itself() -> None:
    merged = merge_memory(
        [
            memory(0, ("vision",), 50, 60),
            memory(1, ("vision",), 40, 90),
            memory(2, ("language",), 70, 75),
            memory(3, ("language",), 80, 85),
        ]
    )
    assert merged is not None
    peaks = {name: (part.peak_allocated_bytes, part.peak_reserved_bytes) for name, part in merged.modules.items()}
    assert peaks == {"vision": (50, 90), "language": (80, 85)}
    assert [(part.rank, part.device_uuid, part.peak_allocated_bytes) for part in merged.ranks] == [
        (0, "GPU-0", 50),
        (1, "GPU-1", 40),
        (2, "GPU-2", 70),
        (3, "GPU-3", 80),
    ]


def test_a_colocated_peak_is_the_peak_of_every_module_on_the_rank() -> None:
    merged = merge_memory([memory(0, ("vision", "language"), 50, 60)])
    assert merged is not None
    assert merged.modules["vision"] == merged.modules["language"]


def test_comparing_takes_what_it_takes_on_the_rank_that_takes_most() -> None:
    taken = [Comparing(extra_bytes=extra, largest_tensor_bytes=extra // 2) for extra in (20, 60, 40)]
    ranks = [rank(number, mode="parity", comparing=one) for number, one in enumerate(taken)]
    assert merge_comparing(ranks) == taken[1]
    assert merge_comparing([rank(0), rank(1)]) is None


def test_extra_memory_is_that_of_the_part_that_took_most() -> None:
    now, peak = 100, 0

    def reset() -> None:
        nonlocal peak
        peak = now

    extra = ExtraMemory(Allocator(allocated=lambda: now, peak=lambda: peak, reset_peak=reset))
    for most in (130, 170, 150):
        with extra.watched():
            peak = max(peak, most)
    peak = 900  # not watched
    assert extra.peak == 70


def test_cpu_ranks_have_no_memory() -> None:
    assert merge_memory([rank(0), rank(1)]) is None


# Communication


def told(role: str, collective: str, calls: float, size: float, seconds: float) -> RankCommunication:
    return RankCommunication(
        role=role, collective=collective, calls_per_step=calls, bytes_per_step=size, seconds_per_step=seconds
    )


def test_calls_and_bytes_add_up_over_ranks_and_time_is_that_of_the_rank_that_spends_most() -> None:
    merged = merge_communication(
        [
            rank(0, communication=(told("language.tp", "all_reduce", 8, 64, 0.25),)),
            rank(1, communication=(told("language.tp", "all_reduce", 8, 64, 0.75),)),
            rank(2, communication=(told("language.tp", "all_gather", 2, 16, 0.5),)),
            rank(3, communication=(told("vision.dp", "all_reduce", 1, 4, 1.0),)),
            rank(4),
        ]
    )
    found = [(m.role, m.collective, m.calls_per_step, m.bytes_per_step, m.seconds_per_step) for m in merged]
    assert found == [
        ("language.tp", "all_gather", 2, 16, 0.5),
        ("language.tp", "all_reduce", 16, 128, 0.75),
        ("vision.dp", "all_reduce", 1, 4, 1.0),
    ]


def test_groups_within_a_host_and_across_hosts_stay_apart_over_ranks() -> None:
    within = told("language.dp-cp", "all_reduce", 1, 8, 0.25)
    across = within.model_copy(update={"spans_hosts": True})
    merged = merge_communication([rank(0, communication=(within, across)), rank(1, communication=(within,))])
    assert [(row.spans_hosts, row.bytes_per_step) for row in merged] == [(False, 16), (True, 8)]


# Launches


def test_a_launch_costs_what_its_slowest_rank_costs() -> None:
    ranks = [
        rank(0, started_at=101.0, first_step_at=105.0, first_step_seconds=0.5, phases={"join": 1.0, "build": 2.0}),
        rank(1, started_at=102.0, first_step_at=104.0, first_step_seconds=0.75, phases={"join": 0.5, "build": 2.5}),
    ]
    launch = merge_launch(ranks, asked_at=100.0, previous_last_step_at=99.0)
    assert launch.mode == "timing"
    assert launch.start_seconds == 2.0  # 102 - 100
    assert launch.setup_seconds == 3.0  # 105 - 102
    assert launch.gap_seconds == 6.0  # 105 - 99
    assert launch.first_step_seconds == 0.75
    assert launch.phases == {"join": 1.0, "build": 2.5}


def test_the_first_launch_has_no_gap() -> None:
    assert merge_launch([rank()], asked_at=100.0, previous_last_step_at=None).gap_seconds is None


def test_a_launch_that_took_no_step_was_ready_when_it_started() -> None:
    launch = merge_launch([rank(first_step_at=None)], asked_at=98.0, previous_last_step_at=97.0)
    assert (launch.start_seconds, launch.setup_seconds, launch.gap_seconds) == (2.0, 0.0, 3.0)
    assert launch.first_step_seconds is None


def test_clocks_that_were_set_back_give_no_negative_times() -> None:
    launch = merge_launch([rank(started_at=100.0, first_step_at=99.0)], asked_at=101.0, previous_last_step_at=102.0)
    assert (launch.start_seconds, launch.setup_seconds, launch.gap_seconds) == (0.0, 0.0, 0.0)


def test_the_last_step_is_that_of_the_last_rank() -> None:
    assert last_step_at([rank(0, last_step_at=7.0), rank(1, last_step_at=None), rank(2, last_step_at=9.0)]) == 9.0
    assert last_step_at([rank(0, last_step_at=None)]) is None


# Samples


def test_the_busiest_replica_of_each_micro_batch_counts() -> None:
    # The busiest have 3 and 4 items, the replicas 6 and 4 in all: 7 over a mean of 5.
    ranks = [rank(micro_batch_items={"vision": (3, 3)}), rank(micro_batch_items={"vision": (0, 4)})]
    assert imbalance(ranks) == {"vision": pytest.approx(7 / 5)}


def test_replicas_with_as_many_items_are_even_and_ranks_of_one_replica_change_nothing() -> None:
    even = [rank(micro_batch_items={"vision": (2, 1)})] * 2
    assert imbalance(even) == {"vision": 1.0}
    uneven = [rank(micro_batch_items={"vision": (3, 3)}), rank(micro_batch_items={"vision": (0, 4)})]
    assert imbalance([*uneven, *uneven]) == imbalance(uneven)


def test_a_rank_without_the_encoder_and_a_run_without_items_say_nothing() -> None:
    assert imbalance([rank(micro_batch_items={}), rank(micro_batch_items={"vision": (0, 0)})]) == {}


def test_the_slowest_worker_and_the_longest_wait_are_the_jobs() -> None:
    ranks = [
        rank(loading=RankLoading(num_workers=2, samples_per_second_per_worker=50.0, stall_share=0.25)),
        rank(loading=RankLoading(num_workers=2, samples_per_second_per_worker=None, stall_share=0.5)),
        rank(loading=RankLoading(num_workers=2, samples_per_second_per_worker=40.0, stall_share=0.0)),
    ]
    loading = merge_loading(ranks)
    assert loading is not None
    assert (loading.samples_per_second_per_worker, loading.stall_share) == (40.0, 0.5)
    assert merge_loading([rank(loading=None)]) is None
