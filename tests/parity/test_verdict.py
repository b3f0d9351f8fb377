"""The gate passes equal trainings, fails every other one, and says why either way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mimo_bench.layout.settings import Precision
from mimo_bench.parity.tolerance import (
    CEILINGS,
    FLOORS,
    LATE_LIMITS,
    PARITY_CEILING,
    PARITY_FLOOR,
    band,
    noise_of,
    parameter_bounds,
)
from mimo_bench.parity.verdict import (
    ParityChecks,
    TimedBounds,
    judge,
    judge_as_timed,
    judge_baseline,
    judge_baseline_as_timed,
    judge_noise,
)
from mimo_bench.record import EvaluationResult, OptimizerDifferences, ParameterDifference, Tolerance, VariantName
from mimo_bench.record.merge import Trained
from mimo_bench.util.diff import relative


def exact(module: str) -> ParameterDifference:
    """A gradient that equals the baseline's."""
    return ParameterDifference(
        parameter=f"{module}.weight",
        module=module,
        norm=2.0,
        baseline_norm=2.0,
        error_norm=0.0,
        scale=1.0,
        unscaled_error_norm=0.0,
    )


CHECKS = ParityChecks(num_steps=3, min_answer_accuracy=None)

BASELINE = Trained(
    losses=(4.0, 3.0, 2.0),
    grad_norms={"vision": (0.5, 0.25, 0.125), "language": (2.0, 1.0, 0.5)},
    num_learning_steps=0,
    evaluation=EvaluationResult(loss=2.5, answer_accuracy=0.75, num_samples=8, scored_tokens=40),
    held_out=EvaluationResult(loss=2.5, answer_accuracy=0.75, num_samples=8, scored_tokens=40),
    weights_match_at_start=True,
    samples_match=True,
    mismatch=None,
    disagreement=None,
    gradients=(exact("vision"), exact("language")),
    optimizer=OptimizerDifferences(
        first_moments=(exact("vision"), exact("language")),
        second_moments=(exact("vision"), exact("language")),
        updates=(exact("vision"), exact("language")),
    ),
)


def with_norms(module: str, *norms: float | None) -> Trained:
    """The baseline's training, but for the gradient norms of one module."""
    return replace(BASELINE, grad_norms={**BASELINE.grad_norms, module: norms})


# A layout


def test_equal_trainings_pass_and_the_reason_says_how_closely_they_agree() -> None:
    parity = judge(BASELINE, BASELINE, CHECKS)
    assert parity.verdict == "passed"
    assert parity.reason == (
        "3 steps agree: loss to 0.0e+00, gradient norm of every module to 0.0e+00, each of 2 gradients to 0.0e+00"
    )
    assert (parity.loss_rel_max, parity.grad_norm_rel) == (0.0, {"vision": 0.0, "language": 0.0})
    assert (parity.weights_match_at_start, parity.samples_match) == (True, True)
    assert (parity.first_divergence_step, parity.tolerance) == (None, PARITY_FLOOR)


def test_rounding_passes_and_is_recorded_at_its_worst() -> None:
    # 2e-6 of 2.0 in the last loss, 5e-5 of 0.25 in the second gradient norm of vision.
    trained = replace(with_norms("vision", 0.5, 0.2500125, 0.125), losses=(4.0, 3.0, 2.000004))
    parity = judge(trained, BASELINE, CHECKS)
    assert parity.verdict == "passed"
    assert parity.loss_rel_max == pytest.approx(2e-6)
    assert parity.grad_norm_rel == {"vision": pytest.approx(5e-5), "language": 0.0}


def test_a_drift_to_one_side_is_recorded_beside_the_spread() -> None:
    # Of losses 4, 3, 2: +2e-6, +1e-6 and 0 of themselves, or the last of the three below instead of above.
    norms = {"vision": (0.5, 0.25, 0.125 * (1 - 3e-5)), "language": BASELINE.grad_norms["language"]}
    one_side = judge(replace(BASELINE, losses=(4.000008, 3.000003, 2.0), grad_norms=norms), BASELINE, CHECKS)
    assert one_side.verdict == "passed"
    assert one_side.loss_rel_mean == pytest.approx(1e-6)
    assert one_side.grad_norm_rel_mean == {"vision": pytest.approx(-1e-5), "language": 0.0}
    both_sides = judge(replace(BASELINE, losses=(4.000008, 3.0, 1.999996)), BASELINE, CHECKS)
    assert both_sides.loss_rel_max == pytest.approx(2e-6)
    assert both_sides.loss_rel_mean == pytest.approx(0.0, abs=1e-12)
    assert judge(replace(BASELINE, losses=(4.0, 3.0, None)), BASELINE, CHECKS).loss_rel_mean is None


def test_a_layout_whose_gradients_were_not_compared_fails() -> None:
    parity = judge(replace(BASELINE, gradients=None), BASELINE, CHECKS)
    assert (parity.verdict, parity.reason) == ("failed", "no gradient was compared")


def test_a_layout_whose_moments_were_not_compared_fails() -> None:
    parity = judge(replace(BASELINE, optimizer=None), BASELINE, CHECKS)
    assert (parity.failed_check, parity.reason) == ("optimizer", "no moment and no update was compared")


def test_an_update_that_is_off_fails_though_gradients_norms_and_losses_agree() -> None:
    assert BASELINE.optimizer is not None
    wrong = exact("vision").model_copy(update={"error_norm": 0.01, "scale": 0.999, "unscaled_error_norm": 0.0098})
    updates = BASELINE.optimizer.model_copy(update={"updates": (wrong, exact("language"))})
    parity = judge(replace(BASELINE, optimizer=updates), BASELINE, CHECKS)
    assert (parity.verdict, parity.failed_check) == ("failed", "optimizer")
    assert parity.worst_weight is not None
    assert (parity.worst_weight.parameter, parity.worst_weight.rel) == ("vision.weight", 0.005)
    assert parity.worst_moment is not None
    assert parity.worst_moment.rel == 0.0


def test_one_wrong_gradient_fails_though_no_norm_and_no_loss_shows_it() -> None:
    wrong = exact("vision").model_copy(update={"error_norm": 0.5, "scale": 0.97, "unscaled_error_norm": 0.49})
    parity = judge(replace(BASELINE, gradients=(wrong, exact("language"))), BASELINE, CHECKS)
    assert parity.verdict == "failed"
    assert parity.reason == "1 of the gradients of vision differ, most vision.weight by 0.25 of its norm"
    assert parity.worst_gradient is not None
    assert (parity.worst_gradient.parameter, parity.worst_gradient.rel) == ("vision.weight", 0.25)


def test_a_doubled_vision_gradient_fails_though_no_loss_shows_it() -> None:
    parity = judge(with_norms("vision", 1.0, 0.5, 0.25), BASELINE, CHECKS)
    assert parity.verdict == "failed"
    assert parity.reason == "from step 0 on: the gradient norm of vision is 2 x the baseline's"
    assert (parity.loss_rel_max, parity.grad_norm_rel) == (0.0, {"vision": 1.0, "language": 0.0})
    assert parity.first_divergence_step == 0


def test_a_loss_off_by_3e_4_fails_from_the_step_it_shows_in() -> None:
    parity = judge(replace(BASELINE, losses=(4.0, 3.0009, 2.0)), BASELINE, CHECKS)
    assert parity.verdict == "failed"
    assert parity.reason == "from step 1 on: the loss is 3.000900 instead of 3.000000"
    assert parity.loss_rel_max == pytest.approx(3e-4)
    assert parity.first_divergence_step == 1


def test_all_that_differs_in_the_first_wrong_step_is_named() -> None:
    trained = replace(with_norms("language", 0.5, 1.0, 0.5), losses=(5.0, 3.0, 2.0))
    assert judge(trained, BASELINE, CHECKS).reason == (
        "from step 0 on: the gradient norm of language is 0.25 x the baseline's "
        "and the loss is 5.000000 instead of 4.000000"
    )


def test_the_bounds_themselves_pass_and_what_lies_just_beyond_fails() -> None:
    # Judged against 1.0, so that an error is its bound to the last bit.
    baseline = replace(BASELINE, losses=(1.0, 0.5, 0.25), grad_norms={"vision": (1.0, 1.0, 1.0)})
    checks = replace(CHECKS, num_steps=1)
    for excess, verdict in ((0.999, "passed"), (1.001, "failed")):
        loss = replace(baseline, losses=(1.0 + PARITY_FLOOR.loss_rel * excess, 0.5, 0.25))
        norm = replace(baseline, grad_norms={"vision": (1.0 + PARITY_FLOOR.grad_norm_rel * excess, 1.0, 1.0)})
        assert judge(loss, baseline, checks).verdict == verdict
        assert judge(norm, baseline, checks).verdict == verdict


def test_a_loss_that_is_not_finite_fails() -> None:
    parity = judge(replace(BASELINE, losses=(4.0, 3.0, None)), BASELINE, CHECKS)
    assert (parity.verdict, parity.reason) == ("failed", "the loss of step 2 is not finite")
    assert parity.loss_rel_max is None


def test_a_loss_that_is_not_finite_after_the_compared_steps_fails_too() -> None:
    trained = replace(BASELINE, losses=(*BASELINE.losses, None), num_learning_steps=1)
    assert judge(trained, BASELINE, CHECKS).reason == "the loss of step 3 is not finite"


def test_a_gradient_norm_that_is_not_finite_fails() -> None:
    parity = judge(with_norms("vision", 0.5, None, 0.125), BASELINE, CHECKS)
    assert (parity.verdict, parity.reason) == ("failed", "the gradient norm of vision in step 1 is not finite")
    assert parity.grad_norm_rel == {"vision": None, "language": 0.0}


IDLE = 'vision never got a gradient; if no sample has an item for it, add "vision" to training.freeze'


def test_a_module_without_any_gradient_fails_by_name() -> None:
    parity = judge(with_norms("vision", 0.0, 0.0, 0.0), BASELINE, CHECKS)
    assert (parity.verdict, parity.reason) == ("failed", IDLE)


def test_a_gradient_where_the_baseline_has_none_fails() -> None:
    baseline = with_norms("vision", 0.0, 0.25, 0.125)
    parity = judge(BASELINE, baseline, CHECKS)
    assert parity.verdict == "failed"
    assert parity.reason == "from step 0 on: the gradient norm of vision is 0.5 instead of 0"


def test_ranks_that_disagree_fail_whatever_they_say() -> None:
    parity = judge(replace(BASELINE, disagreement="rank 1 reports other losses than rank 0"), BASELINE, CHECKS)
    assert (parity.verdict, parity.reason) == ("failed", "rank 1 reports other losses than rank 0")


@pytest.mark.parametrize(("weights", "samples"), [(False, True), (True, False), (False, False)])
def test_a_mismatch_before_the_first_step_fails_and_says_of_what(weights: bool, samples: bool) -> None:
    trained = replace(
        BASELINE,
        losses=(),
        grad_norms={"vision": (), "language": ()},
        evaluation=None,
        weights_match_at_start=weights,
        samples_match=samples,
        mismatch="2 parameters start from other weights",
    )
    parity = judge(trained, BASELINE, CHECKS)
    assert parity.verdict == "failed"
    assert parity.reason == "before the first step: 2 parameters start from other weights"
    assert (parity.weights_match_at_start, parity.samples_match) == (weights, samples)


# Held-out samples


def test_too_few_right_answers_fail_and_exactly_enough_pass() -> None:
    checks = replace(CHECKS, min_answer_accuracy=0.75)
    assert judge(BASELINE, BASELINE, checks).verdict == "passed"
    parity = judge(BASELINE, BASELINE, replace(checks, min_answer_accuracy=0.8))
    assert (parity.verdict, parity.reason) == ("failed", "answers right on held-out samples: 75.0%, required 80.0%")


@pytest.mark.parametrize(
    "evaluation", [None, EvaluationResult(loss=2.5, answer_accuracy=None, num_samples=0)], ids=["none", "unknown"]
)
def test_an_unknown_share_of_right_answers_is_not_enough(evaluation: EvaluationResult | None) -> None:
    parity = judge(replace(BASELINE, evaluation=evaluation), BASELINE, replace(CHECKS, min_answer_accuracy=0.0))
    assert parity.verdict == "failed"
    assert parity.reason == "answers right on held-out samples: unknown, required 0.0%"


def held_out(**changes: object) -> Trained:
    """The baseline's training with other held-out results after its parity steps."""
    assert BASELINE.held_out is not None
    return replace(BASELINE, held_out=BASELINE.held_out.model_copy(update=changes))


@pytest.mark.parametrize("num_learning_steps", [0, 300])
def test_another_held_out_loss_after_the_parity_steps_fails_also_if_further_steps_were_learnt(
    num_learning_steps: int,
) -> None:
    trained = replace(held_out(loss=2.501), num_learning_steps=num_learning_steps)
    parity = judge(trained, BASELINE, CHECKS)
    assert (parity.failed_check, parity.reason) == (
        "evaluation",
        "the held-out loss is 2.501000 instead of 2.500000, while 3 steps of training agree",
    )


def test_after_learning_steps_the_reason_says_that_the_last_evaluation_is_not_compared() -> None:
    learnt = replace(
        BASELINE,
        num_learning_steps=300,
        evaluation=EvaluationResult(loss=0.5, answer_accuracy=0.9, num_samples=8, scored_tokens=40),
    )
    parity = judge(learnt, BASELINE, CHECKS)
    assert parity.verdict == "passed"
    assert "held-out samples are compared before the learning steps" in parity.reason


def test_right_answers_are_compared_by_number_and_a_tie_may_fall_to_either_side() -> None:
    tolerance = PARITY_FLOOR.model_copy(update={"right_tokens": 1})
    # 30 of 40 are right in the baseline.
    assert judge(held_out(answer_accuracy=29 / 40), BASELINE, CHECKS, tolerance).verdict == "passed"
    parity = judge(held_out(answer_accuracy=28 / 40), BASELINE, CHECKS, tolerance)
    assert (parity.failed_check, parity.reason) == (
        "evaluation",
        "28 of 40 held-out answer tokens are right instead of 30, while their loss agrees",
    )


def test_another_number_of_scored_tokens_fails() -> None:
    parity = judge(held_out(scored_tokens=39), BASELINE, CHECKS)
    assert (parity.failed_check, parity.reason) == (
        "evaluation",
        "39 held-out answer tokens are scored instead of 40",
    )


# Counts, settings of the optimizer, and the last parity step

COUNTED = replace(BASELINE, counted={"answer tokens": (5, 6, 7), "items of vision": (8, 8, 8)})


def test_a_count_that_is_not_the_baselines_fails_by_step_and_thing() -> None:
    wrong = replace(COUNTED, counted={"answer tokens": (5, 6, 7), "items of vision": (8, 16, 8)})
    parity = judge(wrong, COUNTED, CHECKS)
    assert (parity.failed_check, parity.reason) == ("counts", "step 1 counts 16 items of vision instead of 8")
    assert judge(COUNTED, COUNTED, CHECKS).verdict == "passed"
    loader = "step 0 reports 10 answer tokens, and loaders read 5"
    assert judge(replace(COUNTED, counts=loader), COUNTED, CHECKS).reason == loader
    assert judge_baseline(replace(COUNTED, counts=loader), CHECKS).failed_check == "counts"


def test_a_setting_of_the_optimizer_is_the_reason_before_what_it_did_to_the_weights() -> None:
    setting = "rank 1: lr of vision is 0.001001 instead of 0.001 in step 2"
    parity = judge(replace(BASELINE, groups=setting), BASELINE, CHECKS)
    assert (parity.failed_check, parity.reason) == ("optimizer", setting)
    both = judge(replace(off(0.5), groups=setting), BASELINE, CHECKS)
    assert both.reason.startswith(f"{setting}; updates of")
    assert judge_baseline(replace(BASELINE, groups=setting), CHECKS).failed_check == "optimizer"


def test_an_update_by_all_steps_beyond_its_own_bound_fails_though_losses_agree() -> None:
    stopped = exact("vision").model_copy(update={"norm": 1.2, "error_norm": 0.8, "scale": 0.6})
    bounds = parameter_bounds([(exact("vision"), exact("language"))], LATE_LIMITS)
    parity = judge(replace(BASELINE, late_updates=(stopped, exact("language"))), BASELINE, CHECKS, PARITY_FLOOR, bounds)
    assert (parity.failed_check, parity.reason) == (
        "optimizer",
        "updates by 3 steps of vision.* are about 0.6 x the baseline's",
    )
    assert parity.worst_late_update is not None
    assert parity.worst_late_update.rel == pytest.approx(0.4)
    assert parity.worst_late_update.bound == 2e-3


# The baseline


def test_a_sound_baseline_says_how_far_its_loss_went() -> None:
    parity = judge_baseline(BASELINE, CHECKS)
    assert parity.verdict == "baseline"
    assert parity.reason == "every layout is compared with this one; its loss went from 4.0000 to 2.0000"
    assert (parity.weights_match_at_start, parity.samples_match) == (True, True)


UNFIT: dict[str, tuple[Trained, str]] = {
    "repeats a batch in vain": (
        replace(BASELINE, repeated_loss=4.0),
        "the loss of its first batch stays from 4.000000 to 4.000000 by training on it; raise learning_rate",
    ),
    "falls by rounding": (
        replace(BASELINE, repeated_loss=4.0 * (1 - 9e-6)),
        "the loss of its first batch stays from 4.000000 to 3.999964 by training on it; raise learning_rate",
    ),
    "overshoots": (
        replace(BASELINE, repeated_loss=4.5),
        "the loss of its first batch rose from 4.000000 to 4.500000 by training on it; lower learning_rate",
    ),
    "moves by rounding": (
        replace(BASELINE, movement={"language": 900.0, "vision": 2.0}),
        "its updates of vision are 2 x the rounding of the weights, 16 x needed, so errors of updates would be lost",
    ),
    "not finite": (replace(BASELINE, losses=(None, 3.0, 2.0)), "the loss of step 0 is not finite"),
    "no gradient": (with_norms("vision", 0.0, 0.0, 0.0), IDLE),
    "ranks disagree": (replace(BASELINE, disagreement="rank 1 reports other losses than rank 0"), "rank 1 reports"),
    "replicas differ": (replace(BASELINE, mismatch="replicas of a.b start from different weights"), "replicas of a.b"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_a_baseline_that_proves_nothing_fails(what: str) -> None:
    trained, complaint = UNFIT[what]
    parity = judge_baseline(trained, CHECKS)
    assert parity.verdict == "failed"
    assert parity.reason.startswith(f"the baseline proves nothing: {complaint}")


def test_a_baseline_must_answer_as_well_as_was_asked() -> None:
    assert judge_baseline(BASELINE, replace(CHECKS, min_answer_accuracy=0.76)).verdict == "failed"


def test_a_baseline_whose_first_batch_learns_is_alive_whatever_its_losses_by_step() -> None:
    trained = replace(BASELINE, losses=(4.0, 4.1, 4.2), repeated_loss=3.9, movement={"vision": 17.0})
    parity = judge_baseline(trained, CHECKS)
    assert parity.verdict == "baseline"
    assert parity.reason.endswith(
        "its loss went from 4.0000 to 4.2000, and on the first batch again from 4.0000 to 3.9000"
    )


# As timed


def bounds_of(variants: list[Trained], *, precision: Precision, num_steps: int = 3) -> Tolerance | str:
    """The band as timed that these variants of the baseline set."""
    names: tuple[VariantName, ...] = ("jitter", "micro-batches")
    return band(
        dict(zip(names, variants, strict=False)),
        BASELINE,
        floor=FLOORS[precision],
        ceiling=CEILINGS[precision],
        num_steps=num_steps,
        num_required=num_steps,
    )


def plain(bounds: Tolerance | str) -> Tolerance | str:
    """The bounds without those by step."""
    assert isinstance(bounds, Tolerance), bounds
    return bounds.model_copy(update={"loss_rel_by_step": (), "grad_norm_rel_by_step": {}, "right_tokens": None})


def test_the_band_is_four_times_the_largest_spread_of_any_variant_in_any_step() -> None:
    # Losses: 0.003 of 3.0 is 1e-3. Gradient norms: 0.01 of 1.0 in one variant, 0.0025 of 0.125 = 0.02 in the other.
    variants = [
        replace(with_norms("language", 2.0, 1.01, 0.5), losses=(4.0, 3.003, 2.0)),
        with_norms("vision", 0.5, 0.25, 0.1275),
    ]
    bounds = bounds_of(variants, precision="bf16")
    assert isinstance(bounds, Tolerance)
    assert bounds.loss_rel == pytest.approx(4e-3)
    assert bounds.grad_norm_rel == pytest.approx(0.08)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_spread_that_is_small_by_luck_leaves_the_floor(precision: Precision) -> None:
    # 4 x 1e-6 of the loss is below either floor.
    variant = replace(BASELINE, losses=(4.000004, 3.0, 2.0))
    for variants in ([variant], [BASELINE, BASELINE]):
        assert plain(bounds_of(variants, precision=precision)) == FLOORS[precision]


def test_only_the_compared_steps_make_the_band() -> None:
    variant = replace(with_norms("vision", 0.5, 0.25, 1.0), losses=(4.0, 3.0, 9.0))
    assert plain(bounds_of([variant], precision="fp32", num_steps=2)) == FLOORS["fp32"]


def test_a_band_wide_enough_to_hide_a_fault_is_none_and_the_variant_that_made_it_is_named() -> None:
    # A gradient norm off by 0.07 would allow 0.28 of it, and a quarter is the most that bf16 may need.
    refused = bounds_of([with_norms("vision", 0.535, 0.25, 0.125)], precision="bf16")
    assert isinstance(refused, str)
    assert refused == (
        "its variant jitter differs by 7.0e-02 in the gradient norm of vision, and faults show only if rounding "
        "stays below 6.2e-02; lower learning_rate or steps.parity, or take another seed"
    )


def test_a_first_update_that_rounding_decides_is_not_blamed_on_the_learning_rate_or_later_steps() -> None:
    refused = band(
        {"jitter": off(3.3e-3)},
        BASELINE,
        floor=PARITY_FLOOR,
        ceiling=PARITY_CEILING,
        num_steps=3,
        num_required=3,
    )
    assert isinstance(refused, str)
    assert refused.startswith(
        "its variant jitter differs by 3.3e-03 in an update, and faults show only if rounding stays below 2.5e-03"
    )
    assert refused.endswith("take another seed")


def test_an_unknown_spread_sets_no_band() -> None:
    broken = replace(BASELINE, losses=(4.0, None, 2.0))
    assert bounds_of([BASELINE, broken], precision="bf16") == (
        "its variant micro-batches has no finite number for the loss"
    )


def off(update: float, *, gradient: float = 0.0) -> Trained:
    """The baseline trained again, with relative errors in one update and one gradient."""
    assert BASELINE.optimizer is not None
    moved = exact("vision").model_copy(update={"error_norm": 2.0 * update})
    return replace(
        BASELINE,
        gradients=(exact("vision").model_copy(update={"error_norm": 2.0 * gradient}), exact("language")),
        optimizer=BASELINE.optimizer.model_copy(update={"updates": (moved, exact("language"))}),
    )


def test_the_tolerance_of_parity_follows_its_variants_between_floor_and_ceiling() -> None:
    parity = judge_baseline(BASELINE, CHECKS)
    wide = judge_noise(parity, {"rerun": BASELINE, "jitter": off(5e-4)}, BASELINE, CHECKS)
    assert wide.tolerance is not None
    assert wide.tolerance.update_rel == pytest.approx(2e-3)
    assert plain(wide.tolerance.model_copy(update={"update_rel": 1e-3})) == PARITY_FLOOR
    assert wide.reason.endswith("; trained once more it is the same bit for bit")
    # What was a failure at the floor passes within the measured band, and what lies beyond the band fails.
    assert judge(off(1.5e-3), BASELINE, CHECKS).failed_check == "optimizer"
    assert judge(off(1.5e-3), BASELINE, CHECKS, wide.tolerance).verdict == "passed"
    assert judge(off(2.1e-3), BASELINE, CHECKS, wide.tolerance).failed_check == "optimizer"


def test_a_baseline_whose_variants_lie_too_far_apart_proves_nothing() -> None:
    noise = noise_of("tensor-parallel", off(0.0, gradient=3e-4), BASELINE, num_steps=3)
    variants: dict[VariantName, Trained] = {"tensor-parallel": off(0.0, gradient=3e-4)}
    parity = judge_noise(judge_baseline(BASELINE, CHECKS), variants, BASELINE, CHECKS)
    assert (parity.verdict, parity.tolerance, parity.noise) == ("failed", None, (noise,))
    assert parity.reason.startswith(
        "the baseline proves nothing: its variant tensor-parallel differs by 3.0e-04 in a gradient,"
    )
    assert PARITY_CEILING.gradient_rel == 1e-3


def test_a_rerun_that_is_not_the_same_to_the_last_bit_says_where_it_parts() -> None:
    def first(variant: Trained) -> str | None:
        return noise_of("rerun", variant, BASELINE, num_steps=3).differs

    assert first(BASELINE) is None
    assert first(off(1e-9)) == "the update of vision.weight"
    assert first(off(1e-9, gradient=1e-9)) == "the gradient of vision.weight"
    assert first(replace(off(1e-9), losses=(4.0, 3.0, 2.0000001))) == "the loss of step 2"
    assert first(with_norms("vision", 0.5, 0.2500001, 0.125)) == "the gradient norm of vision in step 1"
    again = judge_noise(judge_baseline(BASELINE, CHECKS), {"rerun": off(1e-9)}, BASELINE, CHECKS)
    assert again.reason.endswith(
        "; trained once more it is the same but for rounding, first in the update of vision.weight"
    )


BAND = Tolerance(
    loss_rel=4e-3,
    grad_norm_rel=0.02,
    loss_rel_by_step=(4e-3, 4e-3, 4e-3),
    grad_norm_rel_by_step={"vision": (0.02, 0.02, 0.02), "language": (0.02, 0.02, 0.02)},
)
BOUNDS = TimedBounds(band=BAND, gradients={}, updates={})


def test_a_training_within_the_band_passes_as_timed() -> None:
    trained = replace(with_norms("vision", 0.505, 0.25, 0.125), losses=(4.012, 3.0, 2.0))
    as_timed = judge_as_timed(trained, BASELINE, BOUNDS)
    assert as_timed.verdict == "passed"
    assert as_timed.reason == ("3 steps are within the noise band, 0 of 2 gradients within bounds of their own")
    assert as_timed.loss_rel_max == pytest.approx(3e-3)
    assert as_timed.grad_norm_rel == {"vision": pytest.approx(0.01), "language": 0.0}
    assert as_timed.loss_rel_mean == pytest.approx(1e-3)
    assert as_timed.grad_norm_rel_mean == {"vision": pytest.approx(0.01 / 3), "language": 0.0}
    assert (as_timed.num_steps, as_timed.band) == (3, BAND)


def test_a_bound_grows_with_the_steps_as_rounding_does_and_the_first_is_the_sharpest() -> None:
    # 0.1 % in step 0, 2 % in step 2: one bound over all steps would let 8 % of the first gradient pass.
    bounds = bounds_of([with_norms("vision", 0.5005, 0.25, 0.1275)], precision="bf16")
    assert isinstance(bounds, Tolerance)
    assert bounds.grad_norm_rel_by_step["vision"] == pytest.approx((4e-3, 4e-3, 0.08))
    assert bounds.grad_norm_rel_by_step["language"] == (2e-3,) * 3
    timed = TimedBounds(band=bounds, gradients={}, updates={})
    tenth = judge_as_timed(with_norms("vision", 0.53, 0.25, 0.125), BASELINE, timed)
    assert tenth.reason == "as timed, from step 0 on: the gradient norm of vision is 1.06 x the baseline's"
    assert judge_as_timed(with_norms("vision", 0.5, 0.25, 0.1325), BASELINE, timed).verdict == "passed"


def test_steps_after_rounding_exceeds_every_bound_are_not_compared_and_the_baseline_says_so() -> None:
    chaotic = replace(BASELINE, losses=(4.0, 3.0, 2.5))
    judged = judge_baseline_as_timed(BASELINE, {"jitter": chaotic}, precision="bf16", num_required=2)
    assert judged.reason == (
        "1 variants that differ by rounding set the band of 2 steps; after step 1 rounding alone exceeds every bound"
    )
    assert judged.band is not None
    assert judged.band.loss_rel_by_step == (2e-4, 2e-4)
    required = judge_baseline_as_timed(BASELINE, {"jitter": chaotic}, precision="bf16", num_required=3)
    assert required.verdict == "failed"


def test_single_parameters_are_compared_as_timed() -> None:
    exacts = (exact("vision"), exact("language"))
    variant = replace(BASELINE, late_updates=exacts)
    timed = TimedBounds.of(BAND, [variant], "bf16")
    flipped = exact("vision").model_copy(update={"error_norm": 4.0, "scale": -1.0})
    as_timed = judge_as_timed(replace(variant, gradients=(flipped, exact("language"))), BASELINE, timed)
    assert as_timed.reason == "as timed, gradients of the first step of vision.* are about -1 x the baseline's"
    idle = exact("language").model_copy(update={"error_norm": 1.0, "norm": 1.0, "scale": 0.5})
    as_timed = judge_as_timed(replace(variant, late_updates=(exact("vision"), idle)), BASELINE, timed)
    assert as_timed.reason == "as timed, updates by 3 steps of language.* are about 0.5 x the baseline's"
    assert as_timed.worst_late_update is not None
    assert as_timed.worst_late_update.parameter == "language.weight"
    passed = judge_as_timed(variant, BASELINE, timed)
    assert passed.reason.endswith("2 of 2 gradients and 2 of 2 updates within bounds of their own")
    counted = judge_as_timed(
        replace(variant, counted={"tokens": (9,)}), replace(BASELINE, counted={"tokens": (8,)}), timed
    )
    assert counted.reason == "as timed, step 0 counts 9 tokens instead of 8"


def test_a_quarter_of_a_gradient_lies_far_outside_the_band_of_bf16_though_the_loss_lies_inside() -> None:
    trained = replace(with_norms("vision", 0.125, 0.0625, 0.03125), losses=(4.0, 3.003, 2.002))
    as_timed = judge_as_timed(trained, BASELINE, BOUNDS)
    assert as_timed.verdict == "failed"
    assert as_timed.reason == "as timed, from step 0 on: the gradient norm of vision is 0.25 x the baseline's"
    assert as_timed.grad_norm_rel["vision"] == 0.75
    assert 30 * BAND.grad_norm_rel < 0.75


def test_the_accuracy_asked_for_is_not_checks_of_a_few_timed_steps() -> None:
    assert judge_as_timed(replace(BASELINE, evaluation=None), BASELINE, BOUNDS).verdict == "passed"


def test_a_baseline_that_is_not_finite_as_timed_is_agreed_with_by_nobody() -> None:
    baseline = replace(BASELINE, losses=(4.0, None, None))
    as_timed = judge_as_timed(BASELINE, baseline, BOUNDS)
    assert as_timed.verdict == "failed"
    assert as_timed.reason == "as timed, from step 1 on: the loss is 3.000000 instead of unknown"
    assert as_timed.loss_rel_max is None


# Relative differences


def test_relative_is_the_difference_over_what_was_expected() -> None:
    assert relative(3.0, 2.0) == relative(1.0, 2.0) == 0.5
    assert relative(3.0, -2.0) == 2.5
    assert relative(0.0, 0.0) == 0.0


@pytest.mark.parametrize(("found", "expected"), [(None, 1.0), (1.0, None), (None, None), (1.0, 0.0)])
def test_a_difference_from_the_unknown_or_from_nothing_is_unknown(found: float | None, expected: float | None) -> None:
    assert relative(found, expected) is None


def test_a_baseline_that_is_not_finite_as_timed_sets_no_band() -> None:
    broken = replace(BASELINE, losses=(4.0, None, 2.0))
    equal: dict[VariantName, Trained] = {"jitter": BASELINE, "micro-batches": BASELINE}
    sound = judge_baseline_as_timed(BASELINE, equal, precision="bf16", num_required=3)
    assert sound.band is not None
    assert (sound.verdict, plain(sound.band)) == ("baseline", FLOORS["bf16"])
    timed = judge_baseline_as_timed(broken, equal, precision="bf16", num_required=3)
    assert (timed.verdict, timed.band) == ("failed", None)
    assert timed.reason == "as timed, the baseline proves nothing: the loss of step 1 is not finite"
    variant = judge_baseline_as_timed(BASELINE, {**equal, "micro-batches": broken}, precision="bf16", num_required=3)
    assert variant.reason == "as timed, its variant micro-batches proves nothing: the loss of step 1 is not finite"
