"""Whether a layout trained the same model as the baseline: a verdict with its reason, either way.

scenario -> layout -> trainer -> meters -> record -> [parity] -> report
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mimo_bench.record.merge import Trained
from mimo_bench.record.schema import Parity, Tolerance

FP32 = Tolerance(loss_rel=1e-5, grad_norm_rel=1e-4)
"""Bounds for fp32 training over a handful of steps. Correct layouts differ by rounding alone: 5 steps on CPU ranks agree
to about 2e-7 in loss and 5e-6 in gradient norm, while the mildest known silent fault moves the loss by 3e-4."""

LEAST_PROGRESS = 1e-3
"""A baseline whose loss moves by less than this share proves nothing by being agreed with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a scenario asks of every layout's training."""

    num_steps: int
    """Steps whose losses and gradient norms are compared."""
    min_answer_accuracy: float | None


def judge_baseline(trained: Trained, asked: Asked) -> Parity:
    """Whether the baseline is fit to be compared with."""
    problem = trained.mismatch or _unfit(trained, asked) or _dead(trained.losses[: asked.num_steps])
    if problem:
        return Parity(verdict="failed", reason=f"the baseline proves nothing: {problem}")
    first, last = trained.losses[0], trained.losses[asked.num_steps - 1]
    return Parity(
        verdict="baseline",
        reason=f"every layout is held against this one; its loss went from {first:.4f} to {last:.4f}",
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
            weights_match_at_start=trained.weights_match_at_start,
            samples_match=trained.samples_match,
            tolerance=FP32,
        )
    steps = range(asked.num_steps)
    losses = [relative(trained.losses[step], baseline.losses[step]) for step in steps]
    norms = {
        module: [relative(trained.grad_norms[module][step], expected[step]) for step in steps]
        for module, expected in baseline.grad_norms.items()
    }
    diverged = [
        step
        for step in steps
        if _exceeds(losses[step], FP32.loss_rel)
        or any(_exceeds(errors[step], FP32.grad_norm_rel) for errors in norms.values())
    ]
    problem = _unfit(trained, asked) or _diverged(trained, baseline, losses, norms, diverged)
    problem = problem or _evaluates_differently(trained, baseline)
    worst_loss, worst_norm = _largest(losses), _largest([_largest(errors) for errors in norms.values()])
    return Parity(
        verdict="failed" if problem else "passed",
        reason=problem
        or f"{asked.num_steps} steps agree: loss to {worst_loss:.1e}, gradient norm of every module to {worst_norm:.1e}",
        loss_rel_max=_largest(losses),
        first_divergence_step=diverged[0] if diverged else None,
        grad_norm_rel={module: _largest(errors) for module, errors in norms.items()},
        weights_match_at_start=True,
        samples_match=True,
        tolerance=FP32,
    )


def relative(found: float | None, expected: float | None) -> float | None:
    """|found - expected| / |expected|; None where either is unknown."""
    if found is None or expected is None:
        return None
    if found == expected:
        return 0.0
    return abs(found - expected) / abs(expected) if expected else None


def _unfit(trained: Trained, asked: Asked) -> str | None:
    """What is wrong with a training on its own, whatever it is compared with."""
    if trained.disagreement is not None:
        return trained.disagreement
    for step, loss in enumerate(trained.losses):
        if loss is None:
            return f"the loss of step {step} is not finite"
    for module, norms in trained.grad_norms.items():
        for step, norm in enumerate(norms):
            if norm is None:
                return f"the gradient norm of {module} in step {step} is not finite"
        if not any(norms):
            return f"{module} never got a gradient"
    wanted, evaluation = asked.min_answer_accuracy, trained.evaluation
    if wanted is not None:
        accuracy = evaluation.answer_accuracy if evaluation else None
        if accuracy is None or accuracy < wanted:
            shown = "unknown" if accuracy is None else f"{accuracy:.1%}"
            return f"answers right on held-out samples: {shown}, asked for {wanted:.1%}"
    return None


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
) -> str | None:
    """What differs first, in words: the module and how its gradient relates to the baseline's."""
    if not diverged:
        return None
    step = diverged[0]
    words = []
    for module, errors in norms.items():
        if _exceeds(errors[step], FP32.grad_norm_rel):
            found, expected = trained.grad_norms[module][step], baseline.grad_norms[module][step]
            ratio = f"{found / expected:.4g}" if found is not None and expected else "an unknown multiple of"
            words.append(f"the gradient norm of {module} is {ratio} x the baseline's")
    if _exceeds(losses[step], FP32.loss_rel):
        words.append(f"the loss is {trained.losses[step]:.6f} where the baseline's is {baseline.losses[step]:.6f}")
    return f"from step {step} on: {' and '.join(words)}"


def _evaluates_differently(trained: Trained, baseline: Trained) -> str | None:
    """Held-out loss must agree as the training losses do, where nothing was trained beyond the compared steps."""
    if trained.num_learning_steps or trained.evaluation is None or baseline.evaluation is None:
        return None
    error = relative(trained.evaluation.loss, baseline.evaluation.loss)
    if _exceeds(error, FP32.loss_rel):
        return f"the held-out loss is {trained.evaluation.loss} where the baseline's is {baseline.evaluation.loss}"
    return None


def _exceeds(error: float | None, bound: float) -> bool:
    """An unknown error is no agreement."""
    return error is None or not error <= bound


def _largest(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return max(known) if len(known) == len(errors) and known else None
