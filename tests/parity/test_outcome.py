"""What moments and updates say about the optimizer, in words: by hand-made differences of a few parameters."""

from __future__ import annotations

import pytest

from mimo_bench.parity.compare import by_own_bounds, worst_moment, worst_update
from mimo_bench.parity.diagnose import explain_late, explain_outcome
from mimo_bench.parity.tolerance import ParameterLimits, parameter_bounds
from mimo_bench.record import Difference, OptimizerDifferences, ParameterDifference
from tests.parity.test_gradients import scaled

NAMES = ("vision.a", "vision.b", "language.c")


def alike(**scales: float) -> tuple[ParameterDifference, ...]:
    """Three tensors of norm 1, each the given multiple of the baseline's, or equal to it."""
    return tuple(scaled(name, norm=1.0, scale=scales.get(name.split(".")[0], 1.0)) for name in NAMES)


def outcome(
    *,
    first: tuple[ParameterDifference, ...] | None = None,
    second: tuple[ParameterDifference, ...] | None = None,
    updates: tuple[ParameterDifference, ...] | None = None,
) -> OptimizerDifferences:
    """Differences that vanish where none are given."""
    return OptimizerDifferences(
        first_moments=first or alike(), second_moments=second or alike(), updates=updates or alike()
    )


def reason(found: OptimizerDifferences) -> str | None:
    return explain_outcome(found, moment_bound=1e-4, update_bound=1e-3, along_bound=1e-4)


def test_equal_moments_and_updates_need_no_words() -> None:
    assert reason(outcome()) is None
    assert reason(outcome(first=alike(vision=1.00009), updates=alike(vision=1.0009))) is None


def test_moments_that_are_off_by_a_factor_and_its_square_are_clipped_by_another_norm() -> None:
    found = outcome(first=alike(vision=0.5), second=alike(vision=0.25), updates=alike(vision=0.99))
    assert reason(found) == (
        "first moments of vision.* are about 0.5 x the baseline's and second moments about 0.25 x, its square: "
        "gradients of another scale after the first step's, as by another clipping"
    )
    worst = worst_moment(found)
    assert worst is not None
    assert (worst.module, worst.rel) == ("vision", 0.75)


def test_a_second_moment_alone_is_said_to_be_alone() -> None:
    found = outcome(second=alike(language=0.4), updates=alike(language=1.05))
    assert reason(found) == "second moments of language.* are about 0.4 x the baseline's, and first moments agree"


def test_an_update_of_twice_the_length_has_its_factor_and_only_the_module_that_is_off_most_is_named() -> None:
    found = outcome(updates=alike(vision=2.0, language=1.01))
    assert reason(found) == "updates of vision.* are about 2 x the baseline's"
    worst = worst_update(found)
    assert worst is not None
    assert (worst.module, worst.rel) == ("vision", 1.0)


@pytest.mark.parametrize(("share", "fails"), [(0.9, True), (0.0001, False)])
def test_a_small_error_along_the_weights_is_another_decay_and_one_in_any_direction_is_rounding(
    share: float, fails: bool
) -> None:
    # 5e-4 is within the bound of 1e-3 for an update, and beyond the tenth of it that may point along the weights.
    off = scaled("vision.a", norm=1.0, scale=1.0, rest=5e-4).model_copy(update={"along_weights_share": share})
    words = (
        "updates of vision.* differ along the weights themselves, most vision.a by 0.00047 of its update: "
        "another weight decay"
    )
    assert reason(outcome(updates=(off, *alike()[1:]))) == (words if fails else None)


def test_updates_that_differ_in_any_other_way_are_counted_and_the_worst_is_named() -> None:
    off = scaled("vision.a", norm=1.0, scale=0.97, rest=0.04)
    assert reason(outcome(updates=(off, *alike()[1:]))) == (
        "updates of 1 of 2 parameters of vision differ, most vision.a by 0.05 of its norm"
    )


def test_a_moment_that_is_not_finite_fails() -> None:
    broken = scaled("vision.a", norm=1.0, scale=1.0).model_copy(update={"error_norm": None})
    assert reason(outcome(first=(broken, *alike()[1:]))) == (
        "first moments of 1 of 2 parameters of vision differ, most vision.a beyond all numbers"
    )


def test_a_frozen_parameter_that_moved_is_named() -> None:
    moved = scaled("vision.b", norm=0.0, scale=1.0, rest=0.01)
    still = scaled("vision.a", norm=0.0, scale=1.0)
    found = OptimizerDifferences(first_moments=(), second_moments=(), updates=(still, moved))
    assert reason(found) == "1 parameters of vision moved that are frozen, first vision.b"
    frozen = OptimizerDifferences(first_moments=(), second_moments=(), updates=(still,))
    assert reason(frozen) is None


def test_an_update_is_not_judged_more_finely_than_its_weights_are_kept() -> None:
    off = scaled("vision.a", norm=1.0, scale=1.0, rest=5e-3)
    assert reason(outcome(updates=(off,))) is not None
    coarse = off.model_copy(update={"resolution_norm": 4.5e-3})
    assert reason(outcome(updates=(coarse,))) is None
    assert reason(outcome(updates=(coarse.model_copy(update={"resolution_norm": 3.5e-3}),))) is not None


def test_weights_without_a_gradient_that_move_are_named_though_every_compared_element_agrees() -> None:
    moved = alike()[0].model_copy(update={"untouched_error": 0.5})
    assert reason(outcome(updates=(moved, *alike()[1:]))) == (
        "weights without any gradient moved otherwise than by their decay in 1 parameters of vision, most vision.a by "
        "0.5 of the longest way of AdamW"
    )


def test_a_weight_that_moved_further_than_adam_can_is_named() -> None:
    far, near = (alike()[2].model_copy(update={"longest_way": way}) for way in (1.5, 1.0005))
    assert reason(outcome(updates=(*alike()[:2], far))) == (
        "weights in 1 parameters of language moved further than AdamW can at these rates, most language.c 1.5 x as far"
    )
    assert reason(outcome(updates=(*alike()[:2], near))) is None


def test_a_parameter_is_judged_by_its_own_bound_and_by_the_factor_where_rounding_hides_the_norm() -> None:
    # Rounding moves both a third of their norm, at right angles: the factor stays 1.
    noisy = [scaled(name, norm=1.0, scale=1.0, rest=0.3) for name in ("vision.a", "vision.b")]
    bounds = parameter_bounds([noisy], ParameterLimits(floor=0.05, ceiling=0.4))
    assert bounds == {"norm": {}, "factor": {"vision.a": 0.05, "vision.b": 0.05}}
    judged = by_own_bounds([noisy[0], scaled("vision.b", norm=1.0, scale=0.4, rest=0.3)], bounds)
    assert [one.is_wrong for one in judged] == [True, False]
    assert judged[0].worst == Difference(module="vision", parameter="vision.b", rel=0.6, bound=0.05)
    assert explain_late(judged, what="updates by 9 steps") == (
        "updates by 9 steps of 1 of 2 parameters of vision differ, most vision.b by 0.6 of its norm, bound 0.05"
    )


def test_a_frozen_or_flipped_parameter_says_so() -> None:
    bounds = parameter_bounds([alike()], ParameterLimits(floor=0.05, ceiling=0.4))
    frozen = scaled("vision.a", norm=1.0, scale=0.0)
    flipped = [scaled(name, norm=1.0, scale=-1.0) for name in NAMES[:2]]
    assert explain_late(by_own_bounds([frozen, *alike()[1:]], bounds), what="updates") == (
        "updates of 1 of 2 parameters of vision differ, most vision.a by 1 of its norm, bound 0.05, which is zero"
    )
    assert explain_late(by_own_bounds([*flipped, alike()[2]], bounds), what="gradients") == (
        "gradients of vision.* are about -1 x the baseline's"
    )
