"""Verdicts: does a layout train the same model as the baseline?"""

from __future__ import annotations

from typing import Literal

from mimo_bench.record.schema.base import Count, Entry, Finite


class Tolerance(Entry):
    """Relative bounds of a verdict."""

    loss_rel: Finite
    grad_norm_rel: Finite
    gradient_rel: Finite | None = None
    """Bound of each parameter's gradient in the first step; null if only norms are compared."""
    moment_rel: Finite | None = None
    """Bound of each parameter's Adam moments after the second step."""
    update_rel: Finite | None = None
    """Bound of each parameter's update by the first two steps."""
    along_rel: Finite | None = None
    """Bound of each parameter's update along its starting weights; null in older records."""
    loss_rel_by_step: tuple[Finite, ...] = ()
    """Bound of the loss by step, as rounding grows with training; empty in older records. The last steps have no bound
    and were not compared if rounding alone moves them too far."""
    grad_norm_rel_by_step: dict[str, tuple[Finite, ...]] = {}
    """Bound of each module's gradient norm by step."""
    right_tokens: Count | None = None
    """Number of held-out answer tokens by which accuracy may differ."""


class ParameterDifference(Entry):
    """One parameter's gradient, update or moment compared with the baseline's; Frobenius norms of the full tensors."""

    parameter: str
    """Canonical name; it begins with the module's."""
    module: str
    norm: Finite | None
    baseline_norm: Finite | None
    error_norm: Finite | None
    """Norm of the difference."""
    scale: Finite | None
    """Factor at which the baseline's tensor comes closest; null if the baseline's is zero."""
    unscaled_error_norm: Finite | None
    """Norm of the difference from that multiple; near zero if the tensor differs by a factor alone."""
    baseline_max: Finite | None = None
    """Largest magnitude in the baseline's tensor."""
    error_max: Finite | None = None
    """Largest magnitude of the difference."""
    slice_error_norms: tuple[Finite, ...] = ()
    """Norm of the difference in each tensor-parallel rank's slice; empty if nothing is split or nothing differs."""
    along_weights_share: Finite | None = None
    """Share of an update's squared difference that points along the starting weights."""
    resolution_norm: Finite | None = None
    """Distance that rounding may move weights of their size; a smaller difference of an update is not significant."""
    untouched_error: Finite | None = None
    """Of an update: largest error of a weight whose gradient was zero in every step of the baseline, beyond rounding;
    relative to the longest way that Adam can move a weight."""
    longest_way: Finite | None = None
    """Of an update: largest movement of a weight besides its decay, beyond rounding; relative to the longest way that
    Adam can move a weight. Above 1 no AdamW of the scenario's rates made it."""


class OptimizerDifferences(Entry):
    """Moments and updates of every parameter after two steps, compared with the baseline's."""

    first_moments: tuple[ParameterDifference, ...]
    second_moments: tuple[ParameterDifference, ...]
    updates: tuple[ParameterDifference, ...]
    """Weights after two steps minus weights before them, for parameters with gradients above rounding."""


class Difference(Entry):
    """The parameter that differs most from the baseline's."""

    module: str
    parameter: str
    rel: Finite | None
    """Error norm over the baseline's norm, which counts as at least a floor for its module."""
    bound: Finite | None = None
    """Bound of this parameter, if each has its own."""


VariantName = Literal["rerun", "jitter", "micro-batches", "tensor-parallel"]
"""Mathematically equal variants of the baseline: run again; from weights one unit in the last place off; with gradients
summed over other micro-batches; on the same ranks with data- and tensor-parallel degrees swapped."""


class Noise(Entry):
    """Distance of one mathematically equal variant from the baseline, which is due to rounding alone."""

    variant: VariantName
    loss_rel_max: Finite | None
    loss_rel_mean: Finite | None = None
    """Mean signed difference over the steps; null in older records."""
    grad_norm_rel_max: Finite | None
    gradient_rel_max: Finite | None = None
    """Largest over the parameters in the first step; null as timed, like those below."""
    moment_rel_max: Finite | None = None
    update_rel_max: Finite | None = None
    along_rel_max: Finite | None = None
    right_tokens: Count | None = None
    """Difference of the number of right held-out answer tokens; null if none were scored."""
    differs: str | None = None
    """First quantity that is not equal to the last bit; null if all are."""


class AsTimed(Entry):
    """Verdict on the timed settings, compared with the baseline under its own timed settings."""

    verdict: Literal["passed", "failed", "baseline"]
    reason: str
    num_steps: Count
    loss_rel_max: Finite | None = None
    loss_rel_mean: Finite | None = None
    """Mean signed difference, which is near zero for rounding; null in older records."""
    grad_norm_rel: dict[str, Finite | None] = {}
    grad_norm_rel_mean: dict[str, Finite | None] = {}
    worst_gradient: Difference | None = None
    """Gradient of the first step that is closest to its bound, or furthest beyond it; null in older records."""
    worst_late_update: Difference | None = None
    """Update over all steps that is closest to its bound; null in older records."""
    num_unresolved: Count | None = None
    """Parameters whose gradient or update the variants move too far for a bound."""
    comparing_seconds: Finite | None = None
    """Time of the comparison, all of it outside of the timed window; null in older records."""
    band: Tolerance | None = None
    """Bounds from the spread of mathematically equal variants of the baseline, measured in this run."""
    noise: tuple[Noise, ...] = ()
    """Variants that the bounds are measured from; only in the baseline's record."""


Check = Literal["static", "replicas", "gradients", "sound", "counts", "optimizer", "steps", "evaluation", "as_timed"]
"""Checks in the order in which a layout has to pass them: weights and samples before the first step, replicas, every
gradient of the first step, numbers that prove something, numbers of tokens and items, the optimizer's settings with
every moment and update, losses and gradient norms of every step, held-out samples, and the steps as timed."""


class Parity(Entry):
    """Verdict on a layout: does it train the same model as the baseline, and why?"""

    verdict: Literal["passed", "failed", "baseline", "unjudged"]
    """`unjudged` without parity mode; the steps as timed have a verdict nevertheless."""
    reason: str
    failed_check: Check | None = None
    """First check that failed."""
    first_difference: str | None = None
    """First tensor of the first step that differs from the baseline's, by a second pass; null without one."""
    loss_rel_max: Finite | None = None
    """Largest relative loss difference over the parity steps."""
    loss_rel_mean: Finite | None = None
    """Mean signed difference over the same steps: a drift to one side. Null in older records."""
    first_divergence_step: Count | None = None
    """First step (from 0) whose loss or gradient norm is out of tolerance."""
    grad_norm_rel: dict[str, Finite | None] = {}
    """Largest relative difference of the pre-clip gradient norm, by module."""
    grad_norm_rel_mean: dict[str, Finite | None] = {}
    """Mean signed difference of the pre-clip gradient norm, by module."""
    worst_gradient: Difference | None = None
    worst_weight: Difference | None = None
    """Weights after the second step, relative to the parameter's update by two steps."""
    worst_moment: Difference | None = None
    """Adam's moments after the second step."""
    worst_along_weights: Difference | None = None
    """Part of an update along the starting weights, where a wrong decay points; null in older records."""
    worst_late_update: Difference | None = None
    """Update over all parity steps that is closest to its bound; null in older records, and if there are two steps."""
    weights_match_at_start: bool | None = None
    samples_match: bool | None = None
    tolerance: Tolerance | None = None
    noise: tuple[Noise, ...] = ()
    """Variants that the tolerance is measured from; only in the baseline's record."""
    as_timed: AsTimed | None = None
    """Null if nothing was timed."""


class EvaluationResult(Entry):
    """Held-out loss and accuracy after training."""

    loss: Finite | None
    """Mean cross-entropy per answer token."""
    answer_accuracy: Finite | None
    """Share of answer tokens that the model ranks first."""
    num_samples: Count
    scored_tokens: Count | None = None
    """Answer tokens; null in older records."""

    @property
    def right_tokens(self) -> int | None:
        """Number of answer tokens that the model ranks first; None if unknown."""
        known = self.answer_accuracy is not None and self.scored_tokens is not None
        return round((self.answer_accuracy or 0.0) * (self.scored_tokens or 0)) if known else None


class ReferenceVerdict(Entry):
    """Verdict on a baseline by its counterpart in transformers."""

    verdict: Literal["passed", "failed", "no counterpart"]
    reason: str
    loss_rel: float | None = None
    loss_bound: float | None = None
    gradient_rel: float | None = None
    gradient_bound: float | None = None
    parameter: str | None = None
