"""Whether a layout trained the same model as the baseline: a verdict with its reason, either way.

scenario -> layout -> trainer -> meters -> record -> [parity] -> report
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mimo_bench.parity.gradients import explain, worst_of
from mimo_bench.parity.outcome import explain_outcome, worst_moment, worst_update
from mimo_bench.record.merge import Trained
from mimo_bench.record.schema import AsTimed, Check, ParameterDifference, Parity, Tolerance
from mimo_bench.scenario import Precision

FP32_GRADIENT_REL = 1e-4
"""Bound on each parameter's gradient in fp32; correct layouts were seen to differ by 1.4e-6 at most on CPU ranks."""

FP32_MOMENT_REL = 1e-4
"""Bound on each parameter's Adam moments after the parity steps; correct layouts differed by 1.4e-5 at most."""

FP32_UPDATE_REL = 1e-3
"""Bound on each parameter's way through the parity steps; correct layouts differed by 1e-4 at most. Adam turns the
smallest gradients, of which rounding is a large part, into steps as long as any other."""

FP32 = Tolerance(
    loss_rel=1e-5,
    grad_norm_rel=1e-4,
    gradient_rel=FP32_GRADIENT_REL,
    moment_rel=FP32_MOMENT_REL,
    update_rel=FP32_UPDATE_REL,
)
"""Bounds for fp32 training over a handful of steps. Correct layouts differ by rounding alone: 5 steps on CPU ranks
agree to about 2e-7 in loss and 5e-6 in gradient norm, while the mildest known silent fault moves the loss by 3e-4."""

FLOORS = {
    "fp32": Tolerance(loss_rel=FP32.loss_rel, grad_norm_rel=FP32.grad_norm_rel),
    "bf16": Tolerance(loss_rel=2e-4, grad_norm_rel=2e-3),
}
"""Least bounds as timed, by precision: a band from a few variants may be narrow by luck. bf16 keeps 8 bits, 4e-3 of a
number; correct layouts were seen to differ by 2e-4 in the first loss and 1.4e-3 in the first gradient norm."""

BAND_FACTOR = 4.0
"""How much wider than the spread of the baseline's own variants a correct layout may lie: it differs from the baseline
by the same kind of rounding, drawn once more, in more places."""

LEAST_PROGRESS = 1e-3
"""A baseline whose loss moves by less than this share proves nothing by being agreed with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a scenario asks of every layout's training."""

    num_steps: int
    """Steps whose losses and gradient norms are compared."""
    min_answer_accuracy: float | None
    dp: Mapping[str, int] = field(default_factory=dict)
    """Data-parallel degree of each module of the layout, for the reason's words."""


def judge_baseline(trained: Trained, asked: Asked) -> Parity:
    """Whether the baseline is fit to be compared with."""
    failed = _first_failed(
        ("static", trained.mismatch),
        ("replicas", trained.disagreement),
        ("sound", _unsound(trained) or _dead(trained.losses[: asked.num_steps])),
        ("evaluation", _too_few_right(trained, asked.min_answer_accuracy)),
    )
    if failed is not None:
        check, reason = failed
        return Parity(verdict="failed", reason=f"the baseline proves nothing: {reason}", failed_check=check)
    first, last = trained.losses[0], trained.losses[asked.num_steps - 1]
    return Parity(
        verdict="baseline",
        reason=f"every layout is held against this one; its loss went from {first:.4f} to {last:.4f}"
        + _right_answers(trained, asked.min_answer_accuracy),
        weights_match_at_start=True,
        samples_match=True,
        tolerance=FP32,
    )


def judge(trained: Trained, baseline: Trained, asked: Asked) -> Parity:
    """Whether `trained` is the same training as `baseline`."""
    if trained.mismatch is not None:
        return Parity(
            verdict="failed",
            reason=f"before the first step: {trained.mismatch}",
            failed_check="static",
            weights_match_at_start=trained.weights_match_at_start,
            samples_match=trained.samples_match,
            tolerance=FP32,
        )
    losses, norms = _errors(trained, baseline, asked.num_steps)
    diverged = _diverged_steps(losses, norms, FP32)
    gradients = trained.gradients or ()
    failed = _first_failed(
        ("replicas", trained.disagreement),
        (
            "gradients",
            explain(gradients, bound=FP32_GRADIENT_REL, dp=asked.dp) if gradients else "no gradient was compared",
        ),
        ("sound", _unsound(trained)),
        ("optimizer", _wrong_outcome(trained)),
        ("steps", _diverged(trained, baseline, losses, norms, diverged, FP32)),
        ("evaluation", _too_few_right(trained, asked.min_answer_accuracy) or _evaluates_differently(trained, baseline)),
    )
    agreement = f"{asked.num_steps} steps agree: {_agreement(losses, norms, gradients)}" if failed is None else ""
    check, reason = failed or (None, agreement + _right_answers(trained, asked.min_answer_accuracy))
    return Parity(
        verdict="passed" if check is None else "failed",
        reason=reason,
        failed_check=check,
        loss_rel_max=_largest(losses),
        first_divergence_step=diverged[0] if diverged else None,
        grad_norm_rel={module: _largest(errors) for module, errors in norms.items()},
        worst_gradient=worst_of(gradients),
        worst_weight=worst_update(trained.optimizer) if trained.optimizer else None,
        worst_moment=worst_moment(trained.optimizer) if trained.optimizer else None,
        weights_match_at_start=True,
        samples_match=True,
        tolerance=FP32,
    )


def _wrong_outcome(trained: Trained) -> str | None:
    if trained.optimizer is None:
        return "no moment and no update was compared"
    return explain_outcome(trained.optimizer, moment_bound=FP32_MOMENT_REL, update_bound=FP32_UPDATE_REL)


def noise_band(variants: Sequence[Trained], baseline: Trained, *, precision: Precision, num_steps: int) -> Tolerance:
    """Bounds for training as timed: the largest difference of any variant in any step, times a factor, or the floor.

    Args:
        variants: the baseline again, its starting weights moved by one unit in the last place.
        baseline: as timed.
        precision: of the timed steps; decides the floor.
        num_steps: compared steps.
    """
    floor = FLOORS[precision]
    errors = [_errors(variant, baseline, num_steps) for variant in variants]
    losses = [error for loss, _ in errors for error in loss if error is not None]
    norms = [error for _, norm in errors for values in norm.values() for error in values if error is not None]
    return Tolerance(
        loss_rel=max(floor.loss_rel, BAND_FACTOR * max(losses, default=0.0)),
        grad_norm_rel=max(floor.grad_norm_rel, BAND_FACTOR * max(norms, default=0.0)),
    )


def judge_baseline_as_timed(
    timed: Trained, variants: Sequence[Trained], *, precision: Precision, num_steps: int
) -> AsTimed:
    """The band that the baseline's variants set, unless one of them is no training at all."""
    for name, trained in (("the baseline", timed), *((f"its variant {k}", one) for k, one in enumerate(variants))):
        if (problem := trained.disagreement or _unsound(trained)) is not None:
            return AsTimed(verdict="failed", reason=f"as timed, {name} proves nothing: {problem}", num_steps=num_steps)
    return AsTimed(
        verdict="baseline",
        reason=f"{len(variants)} variants that differ by rounding set the band",
        num_steps=num_steps,
        band=noise_band(variants, timed, precision=precision, num_steps=num_steps),
    )


def judge_as_timed(trained: Trained, baseline: Trained, band: Tolerance, *, num_steps: int) -> AsTimed:
    """Whether the timed settings train the same model as the baseline does under its own."""
    losses, norms = _errors(trained, baseline, num_steps)
    diverged = _diverged_steps(losses, norms, band)
    problem = trained.disagreement or _unsound(trained)
    problem = problem or _diverged(trained, baseline, losses, norms, diverged, band)
    return AsTimed(
        verdict="failed" if problem else "passed",
        reason=f"as timed, {problem}" if problem else f"{num_steps} steps as timed lie within the noise band",
        num_steps=num_steps,
        loss_rel_max=_largest(losses),
        grad_norm_rel={module: _largest(errors) for module, errors in norms.items()},
        band=band,
    )


def relative(found: float | None, expected: float | None) -> float | None:
    """|found - expected| / |expected|; None where either is unknown."""
    if found is None or expected is None:
        return None
    if found == expected:
        return 0.0
    return abs(found - expected) / abs(expected) if expected else None


def _errors(
    trained: Trained, baseline: Trained, num_steps: int
) -> tuple[list[float | None], dict[str, list[float | None]]]:
    """Relative differences by step: of the loss, and of each module's gradient norm."""
    steps = range(num_steps)
    losses = [relative(trained.losses[step], baseline.losses[step]) for step in steps]
    norms = {
        module: [relative(trained.grad_norms[module][step], expected[step]) for step in steps]
        for module, expected in baseline.grad_norms.items()
    }
    return losses, norms


def _diverged_steps(
    losses: Sequence[float | None], norms: Mapping[str, Sequence[float | None]], tolerance: Tolerance
) -> list[int]:
    """Steps in which something is out of tolerance."""
    return [
        step
        for step, loss in enumerate(losses)
        if _exceeds(loss, tolerance.loss_rel)
        or any(_exceeds(errors[step], tolerance.grad_norm_rel) for errors in norms.values())
    ]


def _first_failed(*checks: tuple[Check, str | None]) -> tuple[Check, str] | None:
    """The first check that found something, with what it found."""
    return next(((check, found) for check, found in checks if found is not None), None)


def _unsound(trained: Trained) -> str | None:
    """Numbers that prove nothing whatever they are compared with."""
    for step, loss in enumerate(trained.losses):
        if loss is None:
            return f"the loss of step {step} is not finite"
    for module, norms in trained.grad_norms.items():
        for step, norm in enumerate(norms):
            if norm is None:
                return f"the gradient norm of {module} in step {step} is not finite"
        if not any(norms):
            return f"{module} never got a gradient"
    return None


def _too_few_right(trained: Trained, wanted: float | None) -> str | None:
    """Held-out answers that a trained model should know."""
    if wanted is None:
        return None
    accuracy = trained.evaluation.answer_accuracy if trained.evaluation else None
    if accuracy is not None and accuracy >= wanted:
        return None
    shown = "unknown" if accuracy is None else f"{accuracy:.1%}"
    return f"answers right on held-out samples: {shown}, asked for {wanted:.1%}"


def _right_answers(trained: Trained, wanted: float | None) -> str:
    """What was learnt, where the scenario asks for it."""
    if wanted is None or trained.evaluation is None:
        return ""
    found = trained.evaluation
    return (
        f"; {found.answer_accuracy:.1%} of {found.num_samples} held-out samples answered right, {wanted:.1%} asked for"
    )


def _dead(losses: Sequence[float | None]) -> str | None:
    """Why agreeing with these losses would prove nothing."""
    known = [loss for loss in losses if loss is not None]
    if len(known) > 1 and max(known) - min(known) < LEAST_PROGRESS * abs(known[0]):
        return f"its loss stays at {known[0]:.6f}, so agreement proves nothing; raise learning_rate"
    return None


def _diverged(
    trained: Trained,
    baseline: Trained,
    losses: Sequence[float | None],
    norms: dict[str, list[float | None]],
    diverged: Sequence[int],
    tolerance: Tolerance,
) -> str | None:
    """What differs first, in words: the module and how its gradient relates to the baseline's."""
    if not diverged:
        return None
    step = diverged[0]
    words = []
    for module, errors in norms.items():
        if _exceeds(errors[step], tolerance.grad_norm_rel):
            found, expected = trained.grad_norms[module][step], baseline.grad_norms[module][step]
            words.append(f"the gradient norm of {module} is {_related(found, expected)}")
    if _exceeds(losses[step], tolerance.loss_rel):
        found, expected = trained.losses[step], baseline.losses[step]
        words.append(f"the loss is {_shown(found, '.6f')} where the baseline's is {_shown(expected, '.6f')}")
    return f"from step {step} on: {' and '.join(words)}"


def _related(found: float | None, expected: float | None) -> str:
    """A number by its ratio to the baseline's, which often names the fault: a data-parallel degree, say."""
    if found is not None and expected:
        return f"{found / expected:.4g} x the baseline's"
    return f"{_shown(found, '.4g')} where the baseline's is {_shown(expected, '.4g')}"


def _shown(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def _evaluates_differently(trained: Trained, baseline: Trained) -> str | None:
    """Held-out loss must agree as the training losses do, where nothing was trained beyond the compared steps."""
    if trained.num_learning_steps or trained.evaluation is None or baseline.evaluation is None:
        return None
    error = relative(trained.evaluation.loss, baseline.evaluation.loss)
    if _exceeds(error, FP32.loss_rel):
        return f"the held-out loss is {trained.evaluation.loss} where the baseline's is {baseline.evaluation.loss}"
    return None


def _agreement(
    losses: Sequence[float | None],
    norms: Mapping[str, Sequence[float | None]],
    gradients: Sequence[ParameterDifference],
) -> str:
    worst_norm = _largest([_largest(errors) for errors in norms.values()])
    worst = worst_of(gradients)
    assert worst is not None
    return (
        f"loss to {_largest(losses):.1e}, gradient norm of every module to {worst_norm:.1e}, "
        f"each of {len(gradients)} gradients to {worst.rel:.1e}"
    )


def _exceeds(error: float | None, bound: float) -> bool:
    """An unknown error is no agreement."""
    return error is None or not error <= bound


def _largest(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return max(known) if len(known) == len(errors) and known else None
