"""The verdict: whether a layout trained the same model as the baseline."""

from __future__ import annotations

from typing import Literal

from mimo_bench.record.schema.base import Count, Entry, Finite


class Tolerance(Entry):
    """The bounds that a verdict was judged by, all relative."""

    loss_rel: Finite
    grad_norm_rel: Finite
    gradient_rel: Finite | None = None
    """Of each parameter's gradient in the first step; null where only norms are compared."""
    moment_rel: Finite | None = None
    """Of each parameter's Adam moments after the second step."""
    update_rel: Finite | None = None
    """Of each parameter's way through the first two steps."""


class ParameterDifference(Entry):
    """One parameter's gradient, update or moment against the baseline's; Frobenius norms of the full tensors."""

    parameter: str
    """Canonical name, which begins with the module's."""
    module: str
    norm: Finite | None
    baseline_norm: Finite | None
    error_norm: Finite | None
    """Of the difference."""
    scale: Finite | None
    """The multiple of the baseline's tensor that comes closest; null where the baseline's is zero."""
    unscaled_error_norm: Finite | None
    """Of the difference to that multiple: near zero, the tensor differs by a factor alone."""
    baseline_max: Finite | None = None
    """The largest magnitude in the baseline's tensor."""
    error_max: Finite | None = None
    """The largest magnitude of the difference."""
    slice_error_norms: tuple[Finite, ...] = ()
    """Of the difference, in the slice of each tensor-parallel rank; empty where nothing is split or nothing differs."""
    along_weights_share: Finite | None = None
    """Of an update: the share of the squared difference that points along the starting weights."""
    resolution_norm: Finite | None = None
    """Of an update: how far rounding may move weights of their size; a difference below it cannot be seen."""


class OptimizerDifferences(Entry):
    """Where two steps took every parameter, against the baseline: what moved it, and how far it moved."""

    first_moments: tuple[ParameterDifference, ...]
    second_moments: tuple[ParameterDifference, ...]
    updates: tuple[ParameterDifference, ...]
    """Weights after two steps minus weights before them, where the baseline's gradients are more than rounding."""


class Difference(Entry):
    """The parameter that differs most from the baseline's."""

    module: str
    parameter: str
    rel: Finite | None
    """Error norm over the larger of the baseline's norm and a floor of its module's."""


VariantName = Literal["rerun", "jitter", "micro-batches", "tensor-parallel"]
"""The baseline once more, mathematically equal: as it was; from weights one unit in the last place off; with gradients
summed over other micro-batches; on the same ranks with data- and tensor-parallel degrees swapped."""


class Noise(Entry):
    """How far one mathematically equal variant of the baseline lies from it: what rounding alone can do."""

    variant: VariantName
    loss_rel_max: Finite | None
    loss_rel_mean: Finite | None = None
    """Mean over the steps of the signed difference; null in older records."""
    grad_norm_rel_max: Finite | None
    gradient_rel_max: Finite | None = None
    """Of any parameter in the first step; null as timed, like those below."""
    moment_rel_max: Finite | None = None
    update_rel_max: Finite | None = None
    differs: str | None = None
    """What is not the same to the last bit, first of all; null if everything is."""


class AsTimed(Entry):
    """Whether the very settings that are timed train the same model as the baseline under its own timed settings."""

    verdict: Literal["passed", "failed", "baseline"]
    reason: str
    num_steps: Count
    loss_rel_max: Finite | None = None
    loss_rel_mean: Finite | None = None
    """Mean of the signed differences, which rounding does not drive to one side; null in older records."""
    grad_norm_rel: dict[str, Finite | None] = {}
    grad_norm_rel_mean: dict[str, Finite | None] = {}
    band: Tolerance | None = None
    """Bounds from the spread of mathematically equal variants of the baseline, measured in this run."""
    noise: tuple[Noise, ...] = ()
    """What the bounds come from; the baseline's alone."""


Check = Literal["static", "replicas", "gradients", "sound", "optimizer", "steps", "evaluation", "as_timed"]
"""What a layout has to pass, in this order: weights and samples before the first step, replicas that agree, every
gradient of the first step, numbers that prove something, every moment and update after the second step, losses and
gradient norms of every step, held-out samples, and the steps as timed."""


class Parity(Entry):
    """Whether the layout trained the same model as the baseline, and why we say so."""

    verdict: Literal["passed", "failed", "baseline", "unjudged"]
    """`unjudged` where parity mode was not asked for; the steps as timed have a verdict all the same."""
    reason: str
    failed_check: Check | None = None
    """The first check that failed."""
    first_difference: str | None = None
    """What of the first step is not the baseline's first of all, by a second pass; null where none was made."""
    loss_rel_max: Finite | None = None
    """Largest relative loss difference over the parity steps."""
    loss_rel_mean: Finite | None = None
    """Mean of the signed differences over the same steps: a drift to one side. Null in older records."""
    first_divergence_step: Count | None = None
    """First step (from 0) whose loss or gradient norm is out of tolerance."""
    grad_norm_rel: dict[str, Finite | None] = {}
    """Largest relative difference of the pre-clip gradient norm, by module."""
    grad_norm_rel_mean: dict[str, Finite | None] = {}
    """Mean of the signed differences of the same."""
    worst_gradient: Difference | None = None
    worst_weight: Difference | None = None
    """After the second step, relative to how far two steps took the parameter."""
    worst_moment: Difference | None = None
    """Of Adam's two, after the second step."""
    weights_match_at_start: bool | None = None
    samples_match: bool | None = None
    tolerance: Tolerance | None = None
    noise: tuple[Noise, ...] = ()
    """What the tolerance comes from; the baseline's alone."""
    as_timed: AsTimed | None = None
    """Null where nothing was timed."""


class EvaluationResult(Entry):
    """Held-out loss and accuracy after training."""

    loss: Finite | None
    """Mean cross-entropy per answer token."""
    answer_accuracy: Finite | None
    """Share of answer tokens that the model ranks first."""
    num_samples: Count


class ReferenceVerdict(Entry):
    """The verdict on a baseline, with its reason."""

    verdict: Literal["passed", "failed", "no counterpart"]
    reason: str
    loss_rel: float | None = None
    loss_bound: float | None = None
    gradient_rel: float | None = None
    gradient_bound: float | None = None
    parameter: str | None = None
