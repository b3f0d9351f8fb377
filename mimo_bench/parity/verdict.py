"""Verdicts: does a layout train the same model as the baseline, and the baseline the same as `transformers`?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict

from mimo_bench.layout import Precision
from mimo_bench.parity.compare import drifts, largest, step_errors, worst_moment, worst_of, worst_update
from mimo_bench.parity.diagnose import LayoutFacts, explain, explain_outcome
from mimo_bench.parity.tolerance import CEILINGS, FLOORS, PARITY_CEILING, PARITY_FLOOR, band, noise_of
from mimo_bench.record import (
    AsTimed,
    Check,
    Noise,
    ParameterDifference,
    Parity,
    ReferenceVerdict,
    Tolerance,
    Trained,
    VariantName,
)
from mimo_bench.util import relative

MIN_PROGRESS = 1e-3
"""Agreement with a baseline whose loss moves by less than this share proves nothing."""


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
        counted = {"answer tokens of the global batch": trained.scored_tokens} if trained.scored_tokens else {}
        return replace(self.facts, counts={**self.facts.counts, **counted})


def judge_baseline(trained: Trained, checks: ParityChecks) -> Parity:
    """Judge whether layouts can be compared with this baseline."""
    failed = _first_failed(
        ("static", trained.mismatch),
        ("replicas", trained.disagreement),
        ("sound", _unsound(trained) or _dead(trained.losses[: checks.num_steps])),
        ("evaluation", _too_few_right(trained, checks.min_answer_accuracy)),
    )
    if failed is not None:
        check, reason = failed
        return Parity(verdict="failed", reason=f"the baseline proves nothing: {reason}", failed_check=check)
    first, last = trained.losses[0], trained.losses[checks.num_steps - 1]
    return Parity(
        verdict="baseline",
        reason=f"every layout is compared with this one; its loss went from {first:.4f} to {last:.4f}"
        + _right_answers(trained, checks.min_answer_accuracy),
        weights_match_at_start=True,
        samples_match=True,
    )


def judge(trained: Trained, baseline: Trained, checks: ParityChecks, tolerance: Tolerance = PARITY_FLOOR) -> Parity:
    """Judge whether `trained` is the same training as `baseline`, within the `tolerance` that its variants set."""
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
    failed = _first_failed(
        ("replicas", trained.disagreement),
        (
            "gradients",
            explain(gradients, bound=tolerance.gradient_rel or 0.0, facts=checks.facts_with(trained))
            if gradients
            else "no gradient was compared",
        ),
        ("sound", _unsound(trained)),
        ("optimizer", _wrong_outcome(trained, tolerance)),
        ("steps", _diverged(trained, baseline, losses, norms, diverged, tolerance)),
        (
            "evaluation",
            _too_few_right(trained, checks.min_answer_accuracy) or _evaluates_differently(trained, baseline, tolerance),
        ),
    )
    loss_drift, norm_drifts = drifts(trained, baseline, checks.num_steps)
    agreement = f"{checks.num_steps} steps agree: {_agreement(losses, norms, gradients)}" if failed is None else ""
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
        weights_match_at_start=True,
        samples_match=True,
        tolerance=tolerance,
    )


def _wrong_outcome(trained: Trained, tolerance: Tolerance) -> str | None:
    if trained.optimizer is None:
        return "no moment and no update was compared"
    assert tolerance.moment_rel is not None
    assert tolerance.update_rel is not None
    return explain_outcome(trained.optimizer, moment_bound=tolerance.moment_rel, update_bound=tolerance.update_rel)


def judge_noise(parity: Parity, noise: Sequence[Noise]) -> Parity:
    """Return the verdict on a baseline with the bounds that its variants set, or its failure if they set none."""
    tolerance = band(noise, floor=PARITY_FLOOR, ceiling=PARITY_CEILING)
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
    timed: Trained, variants: Mapping[VariantName, Trained], *, precision: Precision, num_steps: int
) -> AsTimed:
    """Judge the baseline as timed: its variants must be sound, and close enough to set a band."""
    named = {"the baseline": timed, **{f"its variant {name}": one for name, one in variants.items()}}
    for name, trained in named.items():
        if (problem := trained.disagreement or _unsound(trained)) is not None:
            return AsTimed(verdict="failed", reason=f"as timed, {name} proves nothing: {problem}", num_steps=num_steps)
    noise = tuple(noise_of(name, one, timed, num_steps=num_steps) for name, one in variants.items())
    bounds = band(noise, floor=FLOORS[precision], ceiling=CEILINGS[precision])
    if isinstance(bounds, str):
        reason = f"as timed, the baseline proves nothing: {bounds}"
        return AsTimed(verdict="failed", reason=reason, num_steps=num_steps, noise=noise)
    return AsTimed(
        verdict="baseline",
        reason=f"{len(variants)} variants that differ by rounding set the band",
        num_steps=num_steps,
        band=bounds,
        noise=noise,
    )


def judge_as_timed(trained: Trained, baseline: Trained, band: Tolerance, *, num_steps: int) -> AsTimed:
    """Judge whether the timed settings train the same model as the baseline does under its own."""
    losses, norms = step_errors(trained, baseline, num_steps)
    diverged = _diverged_steps(losses, norms, band)
    problem = trained.disagreement or _unsound(trained)
    problem = problem or _diverged(trained, baseline, losses, norms, diverged, band)
    loss_drift, norm_drifts = drifts(trained, baseline, num_steps)
    return AsTimed(
        verdict="failed" if problem else "passed",
        reason=f"as timed, {problem}" if problem else f"{num_steps} steps are within the noise band",
        num_steps=num_steps,
        loss_rel_max=largest(losses),
        loss_rel_mean=loss_drift,
        grad_norm_rel={module: largest(errors) for module, errors in norms.items()},
        grad_norm_rel_mean=norm_drifts,
        band=band,
    )


def _diverged_steps(
    losses: Sequence[float | None], norms: Mapping[str, Sequence[float | None]], tolerance: Tolerance
) -> list[int]:
    """Return the steps in which something is out of tolerance."""
    return [
        step
        for step, loss in enumerate(losses)
        if _exceeds(loss, tolerance.loss_rel)
        or any(_exceeds(errors[step], tolerance.grad_norm_rel) for errors in norms.values())
    ]


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
            return f"{module} never got a gradient"
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


def _dead(losses: Sequence[float | None]) -> str | None:
    """Return why agreement with these losses would prove nothing, if it would."""
    known = [loss for loss in losses if loss is not None]
    if len(known) > 1 and max(known) - min(known) < MIN_PROGRESS * abs(known[0]):
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
    """Describe the first step out of tolerance: modules, and ratios of their gradient norms to the baseline's."""
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
    """Compare the held-out loss; not after learning steps, in which rounding grows."""
    if trained.num_learning_steps or trained.evaluation is None or baseline.evaluation is None:
        return None
    error = relative(trained.evaluation.loss, baseline.evaluation.loss)
    if _exceeds(error, tolerance.loss_rel):
        return f"the held-out loss is {trained.evaluation.loss} instead of {baseline.evaluation.loss}"
    return None


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
