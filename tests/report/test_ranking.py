"""The ranking: who leads, what the steps leave open, and why in words."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from mimo_bench.record import Communication, LayoutRecord, Memory, ModuleTiming, RankMemoryOf
from mimo_bench.report.ranking import rank_layouts
from mimo_bench.report.ranking.findings import findings
from mimo_bench.report.ranking.uncertainty import are_tied, of_window, rate_interval
from tests.support import golden

GIB = 1024**3


def timed(name: str, *steps: float, world_size: int = 4, **update: object) -> LayoutRecord:
    timing = golden.timing(steps, world_size=world_size)
    return (
        golden.record()
        .layouts[1]
        .model_copy(update={"name": name, "timing": timing, "world_size": world_size, **update})
    )


def memory(*peaks: float) -> Memory:
    ranks = (
        RankMemoryOf(
            rank=rank,
            modules=("vision",),
            device_uuid=f"GPU-{rank}",
            peak_allocated_bytes=int(peak * GIB),
            peak_reserved_bytes=int(peak * GIB),
            device_used_bytes=int(peak * GIB),
        )
        for rank, peak in enumerate(peaks)
    )
    return Memory(modules={}, ranks=tuple(ranks))


def with_idle(layout: LayoutRecord, **shares: float) -> LayoutRecord:
    assert layout.timing is not None
    modules = {name: ModuleTiming(compute_seconds=0.1, idle_share=share) for name, share in shares.items()}
    return layout.model_copy(update={"timing": layout.timing.model_copy(update={"modules": modules})})


QUICK = timed("quick", 0.100, 0.101, 0.099, 0.1005)
SLOW = timed("slow", 0.2, 0.202, 0.198, 0.201)
AS_QUICK = timed("as-quick", 0.1004, 0.1012, 0.0995, 0.1006)


# Places


def test_the_first_is_the_one_that_makes_most_of_each_gpu() -> None:
    # 640 tokens in 0.1 s on four ranks are 1,600 each; in 0.15 s on one rank 4,267.
    lone = timed("lone", 0.150, 0.151, 0.149, world_size=1)
    ranking = rank_layouts([QUICK, lone])
    assert [place.name for place in ranking] == ["lone", "quick"]
    assert ranking[0].tokens_per_second_per_gpu == pytest.approx(640 / 0.15)


def test_only_what_passed_and_was_timed_has_a_place() -> None:
    failed = QUICK.model_copy(update={"status": "parity_failed"})
    untimed = QUICK.model_copy(update={"timing": None})
    assert rank_layouts([failed, untimed]) == ()
    assert [place.name for place in rank_layouts([failed, SLOW])] == ["slow"]


def test_layouts_that_the_steps_do_not_tell_apart_are_tied() -> None:
    best, second, last = rank_layouts([SLOW, AS_QUICK, QUICK])
    assert (best.tied_with_best, second.tied_with_best, last.tied_with_best) == (None, True, False)
    assert "tied with as-quick" in best.reason
    assert "tied with quick" in second.reason
    assert "50.0 % below quick" in last.reason


def test_a_clear_winner_says_by_how_much() -> None:
    assert "100.0 % above slow" in rank_layouts([SLOW, QUICK])[0].reason


def test_more_than_twice_as_fast_is_said_as_a_multiple() -> None:
    # 640 tokens on one rank: in 100 ms, and in 390 ms.
    quick, slow = (
        QUICK.model_copy(update={"name": name, "timing": golden.timing((seconds,) * 4, world_size=1)})
        for name, seconds in (("quick", 0.1), ("slow", 0.39))
    )
    assert "; 3.9 x as fast as slow" in rank_layouts([slow, quick])[0].reason


def test_many_ties_are_counted_and_not_all_named() -> None:
    many = [AS_QUICK.model_copy(update={"name": f"l{index}"}) for index in range(9)]
    assert "tied with l0, l1, l2 and 6 more" in rank_layouts([QUICK, *many])[0].reason


def test_the_reason_says_what_the_place_costs_in_memory() -> None:
    rich = QUICK.model_copy(update={"memory": memory(30.0, 44.0)})
    lean = SLOW.model_copy(update={"memory": memory(12.0, 10.5)})
    first, second = rank_layouts([rich, lean])
    assert first.peak_allocated_bytes == 44 * GIB
    assert "44.0 GiB on its fullest GPU" in first.reason
    assert "12.0 GiB on its fullest GPU, 32.0 GiB less" in second.reason


def test_unknown_memory_is_not_spoken_of() -> None:
    assert "GiB" not in rank_layouts([QUICK])[0].reason
    assert rank_layouts([QUICK])[0].peak_allocated_bytes is None


# Uncertainty


def test_the_interval_of_a_rate_is_that_of_students_t() -> None:
    # 90, 110, 90, 110 ms: mean 100, deviation 11.547, neighbours opposed, so all four count: error 5.7735.
    # t for 95 % and three degrees of freedom is 3.1824: the step lies within 18.374 ms of 100.
    timing = golden.timing((0.09, 0.11, 0.09, 0.11), world_size=2)
    interval = rate_interval(timing)
    assert interval is not None
    assert interval.low == pytest.approx(640 / 2 / 0.118374, rel=1e-5)
    assert interval.high == pytest.approx(640 / 2 / 0.081626, rel=1e-5)


def test_steps_that_follow_each_other_count_for_fewer() -> None:
    mixed, drifting = of_window((1.0, 3.0, 2.0, 4.0, 1.5, 3.5)), of_window((1.0, 1.5, 2.0, 3.0, 3.5, 4.0))
    assert mixed is not None
    assert drifting is not None
    assert drifting.error_share > mixed.error_share


@pytest.mark.parametrize("steps", [(0.1,), (0.1, 0.2)])
def test_fewer_than_three_steps_have_no_interval_and_tell_nothing_apart(steps: tuple[float, ...]) -> None:
    few = golden.timing(steps, world_size=1)
    assert rate_interval(few) is None
    assert are_tied(few, golden.timing((9.0, 9.0, 9.0), world_size=1)) is None


def test_too_few_steps_are_an_outcome_and_no_tie() -> None:
    best, other = rank_layouts([timed("one", 0.1, 0.2), timed("two", 9.0, 9.0)])
    assert (best.tied_with_best, other.tied_with_best) == (None, None)
    assert "too few steps to tell it from two" in best.reason
    assert "98.3 % below one, with too few or too noisy steps to tell" in other.reason


def test_no_place_is_tied_if_a_better_one_is_not() -> None:
    # 0.12 s is told from 0.1 s; 0.13 s on average with steps from 0.05 s to 0.26 s is not.
    second, third = timed("second", 0.120, 0.121, 0.119, 0.1205), timed("third", 0.05, 0.26, 0.09, 0.12)
    places = {place.name: place for place in rank_layouts([third, second, QUICK])}
    assert list(places) == ["quick", "second", "third"]
    assert [place.tied_with_best for place in places.values()] == [None, False, None]
    assert "with too few or too noisy steps to tell" in places["third"].reason
    assert third.timing is not None
    assert are_tied(golden.timing((0.100, 0.101, 0.099, 0.1005), world_size=4), third.timing)


def with_launches(layout: LayoutRecord, *medians: float) -> LayoutRecord:
    assert layout.timing is not None
    return layout.model_copy(update={"timing": layout.timing.model_copy(update={"launch_medians": medians})})


def test_all_launches_make_one_estimate() -> None:
    # The first launch takes 0.1 s a step, the median of three 0.2 s: 640 tokens in 0.2 s on four ranks are 800 each.
    (place,) = rank_layouts([with_launches(QUICK, 0.1, 0.2, 0.21)])
    assert place.tokens_per_second_per_gpu == pytest.approx(800.0)


def test_the_interval_of_two_launches_comes_from_their_spread() -> None:
    # 100 and 101 ms: deviation 0.70711 ms, error of their middle 0.5 ms. t for 95 % and one degree is 12.706: 6.353 ms.
    layout = with_launches(QUICK, 0.100, 0.101)
    assert layout.timing is not None
    interval = rate_interval(layout.timing)
    assert interval is not None
    assert interval.low == pytest.approx(640 / 4 / (0.1005 + 0.006353), rel=1e-4)
    assert interval.high == pytest.approx(640 / 4 / (0.1005 - 0.006353), rel=1e-4)


def test_launches_that_differ_more_than_their_steps_leave_two_layouts_tied() -> None:
    slower = timed("slower", 0.110, 0.111, 0.109, 0.1105)
    assert [place.tied_with_best for place in rank_layouts([QUICK, slower])] == [None, False]
    unsteady = [with_launches(QUICK, 0.1, 0.12, 0.09), with_launches(slower, 0.11, 0.09, 0.12)]
    assert [place.tied_with_best for place in rank_layouts(unsteady)] == [None, True]


def test_steps_too_noisy_for_an_interval_have_none() -> None:
    assert rate_interval(golden.timing((0.001, 0.001, 1.0), world_size=1)) is None


def test_steps_without_any_noise_differ_where_they_differ() -> None:
    still, other = (golden.timing((each,) * 4, world_size=1) for each in (0.5, 0.500001))
    assert are_tied(still, still)
    assert not are_tied(still, other)


def test_of_ten_equal_layouts_the_steps_seldom_single_one_out() -> None:
    # 5 % are promised for all nine comparisons together; that the best of ten is picked by its luck adds a few.
    random_steps = random.Random(0)
    wrong = 0
    for _ in range(100):
        windows = [tuple(random_steps.gauss(1.0, 0.02) for _ in range(10)) for _ in range(10)]
        ranked = rank_layouts([timed(f"l{index}", *steps) for index, steps in enumerate(windows)])
        wrong += any(place.tied_with_best is False for place in ranked)
    assert wrong <= 15


def test_intervals_hold_the_true_rate_as_often_as_they_say() -> None:
    random_steps = random.Random(1)
    windows = [tuple(random_steps.gauss(1.0, 0.02) for _ in range(8)) for _ in range(300)]
    intervals = [rate_interval(golden.timing(steps, world_size=1)) for steps in windows]
    held = fmean(interval is not None and interval.low <= 640.0 <= interval.high for interval in intervals)
    assert 0.92 <= held <= 0.99


# Reasons


def test_an_idle_encoder_is_named_with_a_remedy() -> None:
    (said,) = findings(with_idle(QUICK, vision=0.61, language=0.05))
    assert said == "vision ranks idle 61 %: give them fewer ranks or colocate"
    assert said in rank_layouts([with_idle(QUICK, vision=0.61, language=0.05)])[0].reason


def test_idle_language_ranks_have_another_remedy() -> None:
    (said,) = findings(with_idle(QUICK, vision=0.02, language=0.4))
    assert said.startswith("language ranks idle 40 %: give the encoder more ranks")


def test_colocated_modules_idle_together() -> None:
    alone = with_idle(QUICK, vision=0.3, language=0.3).model_copy(update={"placement": "colocated"})
    (said,) = findings(alone)
    assert said == "ranks idle 30 %: larger micro-batches or compile_layers keep them busier"


@pytest.mark.parametrize("chosen", ["compile_layers", "sequence_parallel"])
def test_nothing_is_recommended_that_is_chosen_already_or_refused_with_what_is(chosen: str) -> None:
    part = Communication(
        role="language.tp", collective="all_reduce", calls_per_step=1.0, bytes_per_step=1.0, exposed_seconds=0.032
    )
    layout = with_idle(QUICK, vision=0.3, language=0.3).model_copy(
        update={"placement": "colocated", "settings": {chosen: True}, "communication": (part,)}
    )
    idle, exposed = findings(layout)
    assert idle == "ranks idle 30 %: larger micro-batches keep them busier"
    assert exposed.endswith("a lower tp" if chosen == "sequence_parallel" else "a lower tp, or sequence_parallel")


def test_communication_that_nothing_hides_is_named_by_its_group() -> None:
    def part(role: str, exposed_seconds: float | None) -> Communication:
        return Communication(
            role=role, collective="all_reduce", calls_per_step=1.0, bytes_per_step=1.0, exposed_seconds=exposed_seconds
        )

    parts = (part("language.tp", 0.032), part("vision.dp", 0.001), part("bridge.vision->language", None))
    (said,) = findings(QUICK.model_copy(update={"communication": parts}))
    assert said.startswith("language.tp communicates 32 % of the step with nothing to hide it: a lower tp")


def test_what_was_not_measured_is_not_spoken_of() -> None:
    assert findings(QUICK) == ()
    assert findings(with_idle(QUICK, vision=0.1, language=0.1)) == ()
