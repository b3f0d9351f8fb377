"""Verdicts: does a layout train the same model as the baseline, and the baseline the same as `transformers`?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from pydantic import BaseModel, ConfigDict

from mimo_bench.layout import LANGUAGE, Precision
from mimo_bench.parity.compare import (
    Bounds,
    by_own_bounds,
    drifts,
    largest,
    step_errors,
    worst_along_weights,
    worst_moment,
    worst_of,
    worst_update,
)
from mimo_bench.parity.diagnose import LayoutFacts, explain, explain_beyond_adam, explain_late, explain_outcome
from mimo_bench.parity.tolerance import (
    CEILINGS,
    FLOORS,
    PARITY_CEILING,
    PARITY_FLOOR,
    TIMED_GRADIENT_LIMITS,
    TIMED_UPDATE_LIMITS,
    band,
    noise_of,
    parameter_bounds,
)
from mimo_bench.record import (
    AsTimed,
    Check,
    ParameterDifference,
    Parity,
    ReferenceVerdict,
    Tolerance,
    Trained,
    VariantName,
)
from mimo_bench.util import relative

MIN_MOVEMENT = 16.0
"""Updates by two steps over the rounding of the weights: a baseline whose updates are smaller proves nothing, as what
differs in an update would be lost in rounding, too."""

MIN_PROGRESS = PARITY_FLOOR.loss_rel
"""Share by which the loss of a repeated batch has to fall: less may be rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityChecks:
    """Requirements of a scenario for the training of every layout."""

    num_steps: int
    """Steps whose losses and gradient norms are compared."""
    min_answer_accuracy: float | None
    facts: LayoutFacts = field(default_factory=LayoutFacts)
    """The layout, to explain a failure."""

    def facts_with(self, trained: Trained) -> LayoutFacts:
        """Return the facts with the count of the first step."""
        scored = trained.counted.get("answer tokens")
        counted = {"answer tokens of the global batch": scored[0]} if scored else {}
        return replace(self.facts, counts={**self.facts.counts, **counted})


def judge_baseline(trained: Trained, checks: ParityChecks) -> Parity:
    """Judge whether layouts can be compared with this baseline."""
    failed = _first_failed(
        ("static", trained.mismatch),
        ("replicas", trained.disagreement),
        ("sound", _unsound(trained) or _untrained(trained)),
        ("counts", trained.counts),
        ("optimizer", trained.groups),
        ("evaluation", _too_few_right(trained, checks.min_answer_accuracy)),
    )
    if failed is not None:
        check, reason = failed
        return Parity(verdict="failed", reason=f"the baseline proves nothing: {reason}", failed_check=check)
    first, last = trained.losses[0], trained.losses[checks.num_steps - 1]
    return Parity(
        verdict="baseline",
        reason=f"every layout is compared with this one; its loss went from {first:.4f} to {last:.4f}"
        + _repeated(trained)
        + _right_answers(trained, checks.min_answer_accuracy),
        weights_match_at_start=True,
        samples_match=True,
    )


def judge(
    trained: Trained,
    baseline: Trained,
    checks: ParityChecks,
    tolerance: Tolerance = PARITY_FLOOR,
    late_bounds: Bounds | None = None,
) -> Parity:
    """Judge whether `trained` is the same training as `baseline`.

    Args:
        trained: the layout's training.
        baseline: what it is compared with.
        checks: requirements of the scenario.
        tolerance: set by the baseline's variants.
        late_bounds: by parameter, of updates by all parity steps; likewise.
    """
    if trained.mismatch is not None:
        return Parity(
            verdict="failed",
            reason=f"before the first step: {trained.mismatch}",
            failed_check="static",
            weights_match_at_start=trained.weights_match_at_start,
            samples_match=trained.samples_match,
            tolerance=tolerance,
        )
    losses, norms = step_errors(trained, baseline, checks.num_steps)
    diverged = _diverged_steps(losses, norms, tolerance)
    gradients = trained.gradients or ()
    late = by_own_bounds(trained.late_updates or (), late_bounds or {})
    failed = _first_failed(
        ("replicas", trained.disagreement),
        (
            "gradients",
            explain(gradients, bound=tolerance.gradient_rel or 0.0, facts=checks.facts_with(trained))
            if gradients
            else "no gradient was compared",
        ),
        ("sound", _unsound(trained)),
        ("counts", trained.counts or _counts_otherwise(trained, baseline)),
        ("optimizer", _wrong_outcome(trained, tolerance)),
        ("steps", _diverged(trained, baseline, losses, norms, diverged, tolerance)),
        (
            "optimizer",
            explain_late(late, what=f"updates by {checks.num_steps} steps")
            or explain_beyond_adam(trained.late_updates or ()),
        ),
        (
            "evaluation",
            _too_few_right(trained, checks.min_answer_accuracy) or _evaluates_differently(trained, baseline, tolerance),
        ),
    )
    loss_drift, norm_drifts = drifts(trained, baseline, checks.num_steps)
    agreement = f"{checks.num_steps} steps agree: {_agreement(losses, norms, gradients)}" if failed is None else ""
    if failed is None:
        agreement += _unresolved(trained, tolerance)
    if trained.num_learning_steps and trained.held_out is not None:
        agreement += "; held-out samples are compared before the learning steps, in which rounding grows"
    check, reason = failed or (None, agreement + _right_answers(trained, checks.min_answer_accuracy))
    return Parity(
        verdict="passed" if check is None else "failed",
        reason=reason,
        failed_check=check,
        loss_rel_max=largest(losses),
        loss_rel_mean=loss_drift,
        first_divergence_step=diverged[0] if diverged else None,
        grad_norm_rel={module: largest(errors) for module, errors in norms.items()},
        grad_norm_rel_mean=norm_drifts,
        worst_gradient=worst_of(gradients),
        worst_weight=worst_update(trained.optimizer) if trained.optimizer else None,
        worst_moment=worst_moment(trained.optimizer) if trained.optimizer else None,
        worst_along_weights=worst_along_weights(trained.optimizer) if trained.optimizer else None,
        worst_late_update=late[0].worst if late else None,
        weights_match_at_start=True,
        samples_match=True,
        tolerance=tolerance,
    )


def _wrong_outcome(trained: Trained, tolerance: Tolerance) -> str | None:
    if trained.optimizer is None:
        return "no moment and no update was compared"
    assert tolerance.moment_rel is not None
    assert tolerance.update_rel is not None
    assert tolerance.along_rel is not None
    found = explain_outcome(
        trained.optimizer,
        moment_bound=tolerance.moment_rel,
        update_bound=tolerance.update_rel,
        along_bound=tolerance.along_rel,
    )
    # Settings are exact, and what they did to the weights is measured: together they are the reason.
    return "; ".join(words for words in (trained.groups, found) if words is not None) or None


def judge_noise(
    parity: Parity, variants: Mapping[VariantName, Trained], baseline: Trained, checks: ParityChecks
) -> Parity:
    """Return the verdict on a baseline with the bounds that its variants set, or its failure if they set none."""
    num_steps = checks.num_steps
    noise = [noise_of(name, variant, baseline, num_steps=num_steps) for name, variant in variants.items()]
    tolerance = band(
        variants,
        baseline,
        floor=PARITY_FLOOR,
        ceiling=PARITY_CEILING,
        num_steps=num_steps,
        num_required=num_steps,
    )
    if isinstance(tolerance, str):
        reason = f"the baseline proves nothing: {tolerance}"
        return parity.model_copy(
            update={"verdict": "failed", "reason": reason, "failed_check": "sound", "noise": tuple(noise)}
        )
    differs = next((one.differs for one in noise if one.variant == "rerun"), None)
    again = "bit for bit" if differs is None else f"but for rounding, first in {differs}"
    return parity.model_copy(
        update={
            "noise": tuple(noise),
            "tolerance": tolerance,
            "reason": f"{parity.reason}; trained once more it is the same {again}",
        }
    )


def judge_baseline_as_timed(
    timed: Trained, variants: Mapping[VariantName, Trained], *, precision: Precision, num_required: int
) -> AsTimed:
    """Judge the baseline as timed: its variants must be sound, and close enough to set a band.

    In the first `num_required` steps rounding may not exceed the ceiling; later steps are compared until it does.
    """
    num_steps = len(timed.losses)
    named = {"the baseline": timed, **{f"its variant {name}": one for name, one in variants.items()}}
    for name, trained in named.items():
        if (problem := trained.disagreement or _unsound(trained) or trained.groups) is not None:
            return AsTimed(verdict="failed", reason=f"as timed, {name} proves nothing: {problem}", num_steps=num_steps)
    noise = tuple(noise_of(name, one, timed, num_steps=num_required) for name, one in variants.items())
    bounds = band(
        variants,
        timed,
        floor=FLOORS[precision],
        ceiling=CEILINGS[precision],
        num_steps=num_steps,
        num_required=num_required,
    )
    if isinstance(bounds, str):
        reason = f"as timed, the baseline proves nothing: {bounds}"
        return AsTimed(verdict="failed", reason=reason, num_steps=num_steps, noise=noise)
    num_compared = len(bounds.loss_rel_by_step)
    until = "" if num_compared == num_steps else f"; after step {num_compared - 1} rounding alone exceeds every bound"
    return AsTimed(
        verdict="baseline",
        reason=f"{len(variants)} variants that differ by rounding set the band of {num_compared} steps{until}",
        num_steps=num_compared,
        comparing_seconds=timed.comparing_seconds,
        band=bounds,
        noise=noise,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedBounds:
    """Bounds as timed: of losses and norms by step, and of each parameter."""

    band: Tolerance
    gradients: Bounds
    updates: Bounds

    @classmethod
    def of(cls, band: Tolerance, variants: Iterable[Trained], precision: Precision) -> TimedBounds:
        """Return the bounds that the baseline's timed variants set."""
        known = list(variants)
        return cls(
            band=band,
            gradients=parameter_bounds((one.gradients for one in known), TIMED_GRADIENT_LIMITS[precision]),
            updates=parameter_bounds((one.late_updates for one in known), TIMED_UPDATE_LIMITS[precision]),
        )


def judge_as_timed(trained: Trained, baseline: Trained, bounds: TimedBounds) -> AsTimed:
    """Judge whether the timed settings train the same model as the baseline does under its own."""
    num_steps = len(bounds.band.loss_rel_by_step)
    losses, norms = step_errors(trained, baseline, num_steps)
    diverged = _diverged_steps(losses, norms, bounds.band)
    gradients = by_own_bounds(trained.gradients or (), bounds.gradients)
    updates = by_own_bounds(trained.late_updates or (), bounds.updates)
    problem = next(
        (
            words
            for words in (
                trained.disagreement,
                _unsound(trained),
                trained.groups,
                _counts_otherwise(trained, baseline),
                explain_late(gradients, what="gradients of the first step"),
                _diverged(trained, baseline, losses, norms, diverged, bounds.band),
                explain_late(updates, what=f"updates by {len(trained.losses)} steps"),
                explain_beyond_adam(trained.late_updates or ()),
            )
            if words is not None
        ),
        None,
    )
    loss_drift, norm_drifts = drifts(trained, baseline, num_steps)
    compared = {
        f"{len(judged)} of {len(found)} {what}": len(found) - len(judged)
        for what, judged, found in (
            ("gradients", gradients, trained.gradients or ()),
            ("updates", updates, trained.late_updates or ()),
        )
        if found
    }
    resolved = f", {' and '.join(compared)} within bounds of their own" if compared else ""
    return AsTimed(
        verdict="failed" if problem else "passed",
        reason=f"as timed, {problem}" if problem else f"{num_steps} steps are within the noise band{resolved}",
        num_steps=num_steps,
        loss_rel_max=largest(losses),
        loss_rel_mean=loss_drift,
        grad_norm_rel={module: largest(errors) for module, errors in norms.items()},
        grad_norm_rel_mean=norm_drifts,
        worst_gradient=gradients[0].worst if gradients else None,
        worst_late_update=updates[0].worst if updates else None,
        num_unresolved=max(compared.values(), default=0),
        comparing_seconds=trained.comparing_seconds,
        band=bounds.band,
    )


def _counts_otherwise(trained: Trained, baseline: Trained) -> str | None:
    """Return the first count of a step that is not the baseline's, as text."""
    for what, expected in baseline.counted.items():
        for step, (found, count) in enumerate(zip(trained.counted.get(what, ()), expected, strict=False)):
            if found != count:
                return f"step {step} counts {found} {what} instead of {count}"
    return None


def _diverged_steps(
    losses: Sequence[float | None], norms: Mapping[str, Sequence[float | None]], tolerance: Tolerance
) -> list[int]:
    """Return the steps in which something is out of tolerance."""
    return [
        step
        for step, loss in enumerate(losses)
        if _exceeds(loss, _loss_bound(tolerance, step))
        or any(_exceeds(errors[step], _norm_bound(tolerance, module, step)) for module, errors in norms.items())
    ]


def _loss_bound(tolerance: Tolerance, step: int) -> float:
    return _at(tolerance.loss_rel_by_step, step, tolerance.loss_rel)


def _norm_bound(tolerance: Tolerance, module: str, step: int) -> float:
    return _at(tolerance.grad_norm_rel_by_step.get(module, ()), step, tolerance.grad_norm_rel)


def _at(bounds: Sequence[float], step: int, otherwise: float) -> float:
    """Return the bound of a step: one for all where none is given by step, and none after the last of those."""
    if not bounds:
        return otherwise
    return bounds[step] if step < len(bounds) else math.inf


def _first_failed(*checks: tuple[Check, str | None]) -> tuple[Check, str] | None:
    """Return the first check that found something, with its finding."""
    return next(((check, found) for check, found in checks if found is not None), None)


def _unsound(trained: Trained) -> str | None:
    """Return why these numbers prove nothing, whatever they are compared with."""
    for step, loss in enumerate(trained.losses):
        if loss is None:
            return f"the loss of step {step} is not finite"
    for module, norms in trained.grad_norms.items():
        for step, norm in enumerate(norms):
            if norm is None:
                return f"the gradient norm of {module} in step {step} is not finite"
        if not any(norms):
            remedy = (
                "" if module == LANGUAGE else f'; if no sample has an item for it, add "{module}" to training.freeze'
            )
            return f"{module} never got a gradient{remedy}"
    return None


def _too_few_right(trained: Trained, wanted: float | None) -> str | None:
    """Return how many held-out answers are right, if they are too few."""
    if wanted is None:
        return None
    accuracy = trained.evaluation.answer_accuracy if trained.evaluation else None
    if accuracy is not None and accuracy >= wanted:
        return None
    shown = "unknown" if accuracy is None else f"{accuracy:.1%}"
    return f"answers right on held-out samples: {shown}, required {wanted:.1%}"


def _right_answers(trained: Trained, wanted: float | None) -> str:
    """Return the share of right answers, if the scenario requires one."""
    if wanted is None or trained.evaluation is None:
        return ""
    found = trained.evaluation
    return (
        f"; {found.answer_accuracy:.1%} of {found.num_samples} held-out samples answered right, {wanted:.1%} required"
    )


def _untrained(trained: Trained) -> str | None:
    """Return why agreement with this training would prove nothing: it does not train."""
    for module, ratio in trained.movement.items():
        if ratio < MIN_MOVEMENT:
            return (
                f"its updates of {module} are {ratio:.2g} x the rounding of the weights, {MIN_MOVEMENT:g} x needed, so "
                "errors of updates would be lost in it; raise the learning rate"
            )
    first, again = trained.losses[0], trained.repeated_loss
    if first is not None and again is not None and not again < first * (1.0 - MIN_PROGRESS):
        how = "rose" if again > first else "stays"
        return (
            f"the loss of its first batch {how} from {first:.6f} to {again:.6f} by training on it; "
            + ("lower" if again > first * (1.0 + MIN_PROGRESS) else "raise")
            + " learning_rate"
        )
    return None


def _repeated(trained: Trained) -> str:
    """Return how far the loss of the first batch fell, as text."""
    if trained.repeated_loss is None or trained.losses[0] is None:
        return ""
    return f", and on the first batch again from {trained.losses[0]:.4f} to {trained.repeated_loss:.4f}"


def _diverged(
    trained: Trained,
    baseline: Trained,
    losses: Sequence[float | None],
    norms: dict[str, list[float | None]],
    diverged: Sequence[int],
    tolerance: Tolerance,
) -> str | None:
    """Describe the first step out of tolerance: modules, and ratios of their gradient norms to the baseline's."""
    if not diverged:
        return None
    step = diverged[0]
    words = []
    for module, errors in norms.items():
        if _exceeds(errors[step], _norm_bound(tolerance, module, step)):
            found, expected = trained.grad_norms[module][step], baseline.grad_norms[module][step]
            words.append(f"the gradient norm of {module} is {_related(found, expected)}")
    if _exceeds(losses[step], _loss_bound(tolerance, step)):
        found, expected = trained.losses[step], baseline.losses[step]
        words.append(f"the loss is {_shown(found, '.6f')} instead of {_shown(expected, '.6f')}")
    return f"from step {step} on: {' and '.join(words)}"


def _related(found: float | None, expected: float | None) -> str:
    """Return a number as a ratio to the baseline's, which often names the fault, such as a data-parallel degree."""
    if found is not None and expected:
        return f"{found / expected:.4g} x the baseline's"
    return f"{_shown(found, '.4g')} instead of {_shown(expected, '.4g')}"


def _shown(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def _evaluates_differently(trained: Trained, baseline: Trained, tolerance: Tolerance) -> str | None:
    """Compare loss, number of scored tokens and right answers on held-out samples after the parity steps."""
    found, expected = trained.held_out, baseline.held_out
    if found is None or expected is None:
        return None
    if found.scored_tokens != expected.scored_tokens:
        return f"{found.scored_tokens} held-out answer tokens are scored instead of {expected.scored_tokens}"
    error = relative(found.loss, expected.loss)
    if _exceeds(error, tolerance.loss_rel):
        return (
            f"the held-out loss is {_shown(found.loss, '.6f')} instead of {_shown(expected.loss, '.6f')}, while "
            f"{len(trained.losses)} steps of training agree"
        )
    right, wanted = found.right_tokens, expected.right_tokens
    if right is None or wanted is None or tolerance.right_tokens is None:
        return None
    if abs(right - wanted) > tolerance.right_tokens:
        return (
            f"{right} of {found.scored_tokens} held-out answer tokens are right instead of {wanted}, while their loss "
            "agrees"
        )
    return None


def _unresolved(trained: Trained, tolerance: Tolerance) -> str:
    """Return which errors of updates rounding of the weights hides, as text, if they are larger than the bound."""
    assert trained.optimizer is not None
    shares = [
        one.resolution_norm / one.baseline_norm
        for one in trained.optimizer.updates
        if one.resolution_norm is not None and one.baseline_norm
    ]
    hidden = median(shares) if shares else 0.0
    if tolerance.update_rel is None or hidden <= tolerance.update_rel:
        return ""
    return f"; weights are rounded by {hidden:.1e} of their updates (median), so smaller errors of updates do not show"


def _agreement(
    losses: Sequence[float | None],
    norms: Mapping[str, Sequence[float | None]],
    gradients: Sequence[ParameterDifference],
) -> str:
    worst_norm = largest([largest(errors) for errors in norms.values()])
    worst = worst_of(gradients)
    assert worst is not None
    return (
        f"loss to {largest(losses):.1e}, gradient norm of every module to {worst_norm:.1e}, "
        f"each of {len(gradients)} gradients to {worst.rel:.1e}"
    )


def _exceeds(error: float | None, bound: float) -> bool:
    """Return True if an error is above its bound or unknown."""
    return error is None or not error <= bound


LOSS_BOUND = 1e-5
"""Largest relative error of the loss."""

GRADIENT_BOUND = 1e-5
"""Largest relative error of a parameter's gradient."""

MEASURED = "measured.json"
"""File in which the rank that runs `transformers` leaves `Measured`."""


class Measured(BaseModel):
    """Relative errors of the baseline's first step, compared with `transformers`."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    loss_rel: float
    parameter: str
    """Name in `transformers` of the parameter whose gradient is furthest off."""
    gradient_rel: float
    num_gradients: int


def judge_reference(measured: Measured) -> ReferenceVerdict:
    """Judge whether the baseline computes the same as `transformers`."""
    wrong = []
    if not measured.loss_rel <= LOSS_BOUND:
        wrong.append(f"the loss is off by {measured.loss_rel:.2g}")
    if not measured.gradient_rel <= GRADIENT_BOUND:
        wrong.append(f"the gradient of {measured.parameter} is off by {measured.gradient_rel:.2g} of its norm")
    agrees = (
        f"loss and {measured.num_gradients} gradients are those of transformers in float64; "
        f"furthest off is {measured.parameter}"
    )
    return ReferenceVerdict(
        verdict="failed" if wrong else "passed",
        reason=" and ".join(wrong) or agrees,
        loss_rel=measured.loss_rel,
        loss_bound=LOSS_BOUND,
        gradient_rel=measured.gradient_rel,
        gradient_bound=GRADIENT_BOUND,
        parameter=measured.parameter,
    )
