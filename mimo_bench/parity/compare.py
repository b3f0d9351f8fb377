"""Comparison of two trainings: relative differences by step, and by parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mimo_bench.record import Difference, OptimizerDifferences, ParameterDifference, Trained
from mimo_bench.util import relative


def step_errors(
    trained: Trained, baseline: Trained, num_steps: int
) -> tuple[list[float | None], dict[str, list[float | None]]]:
    """Return relative differences by step: of the loss, and of each module's gradient norm."""
    steps = range(num_steps)
    losses = [relative(trained.losses[step], baseline.losses[step]) for step in steps]
    norms = {
        module: [relative(trained.grad_norms[module][step], expected[step]) for step in steps]
        for module, expected in baseline.grad_norms.items()
    }
    return losses, norms


def drifts(trained: Trained, baseline: Trained, num_steps: int) -> tuple[float | None, dict[str, float | None]]:
    """Return means over the steps of signed relative differences: of the loss, and of each module's gradient norm."""
    return (
        _mean_signed(trained.losses[:num_steps], baseline.losses[:num_steps]),
        {
            module: _mean_signed(trained.grad_norms[module][:num_steps], expected[:num_steps])
            for module, expected in baseline.grad_norms.items()
        },
    )


def _mean_signed(found: Sequence[float | None], expected: Sequence[float | None]) -> float | None:
    """Return the mean of the relative differences with their signs; None if one is unknown."""
    errors = [_signed(one, other) for one, other in zip(found, expected, strict=True)]
    known = [error for error in errors if error is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(errors) else None


def _signed(found: float | None, expected: float | None) -> float | None:
    error = relative(found, expected)
    if error is None or found is None or expected is None:
        return None
    return math.copysign(error, found - expected)


def largest(errors: Sequence[float | None]) -> float | None:
    """Return the largest error; None if one is unknown, or there is none."""
    known = [error for error in errors if error is not None]
    return max(known) if len(known) == len(errors) and known else None


FLOOR_SHARE = 1e-3
"""An error is relative to the gradient's norm or to this share of its module's, whichever is larger: the bias of a key
before a softmax has a gradient of exactly zero in theory and of rounding in practice."""


def relative_errors(gradients: Sequence[ParameterDifference], *, elementwise: bool = True) -> dict[str, float | None]:
    """Return the relative error of each parameter; None if it is not finite.

    It is the norm of the error, less what rounding of the weights explains, over the baseline's norm or a floor. If
    `elementwise`, it is at least the largest error of an element over the baseline's largest element or a floor: one
    wrong element of a million moves no norm.
    """
    norms, largest = module_norms(gradients), _module_maxima(gradients)
    errors = {}
    for one in gradients:
        error = _over(_beyond_rounding(one), one.baseline_norm, FLOOR_SHARE * norms[one.module])
        if elementwise and error is not None and one.error_max is not None:
            error = max(error, _over(one.error_max, one.baseline_max, FLOOR_SHARE * largest[one.module]) or 0.0)
        errors[one.parameter] = error
    return errors


def _beyond_rounding(one: ParameterDifference) -> float | None:
    # A weight of 1 moves in steps of 1.2e-7: at a learning rate of 1e-6, a visible part of its update.
    return None if one.error_norm is None else max(0.0, one.error_norm - (one.resolution_norm or 0.0))


def module_norms(gradients: Sequence[ParameterDifference]) -> dict[str, float]:
    """Return the baseline's gradient norm over all parameters of each module."""
    squares: dict[str, float] = {}
    for one in gradients:
        squares[one.module] = squares.get(one.module, 0.0) + (one.baseline_norm or 0.0) ** 2
    return {module: math.sqrt(square) for module, square in squares.items()}


def _module_maxima(gradients: Sequence[ParameterDifference]) -> dict[str, float]:
    maxima: dict[str, float] = {}
    for one in gradients:
        maxima[one.module] = max(maxima.get(one.module, 0.0), one.baseline_max or 0.0)
    return maxima


def worst_of(gradients: Sequence[ParameterDifference], *, elementwise: bool = True) -> Difference | None:
    """Return the parameter with the largest error; an error that is not finite is the largest."""
    errors = relative_errors(gradients, elementwise=elementwise)
    if not errors:
        return None
    worst = max(gradients, key=lambda one: _known(errors[one.parameter]))
    return Difference(module=worst.module, parameter=worst.parameter, rel=errors[worst.parameter])


Measure = Literal["norm", "factor"]
"""How a parameter differs: norm of the error over the baseline's norm, or distance of the factor that fits best from 1.

Rounding of bf16 turns many small elements of an update, which enlarges the norm of the error and cancels in the factor.
A frozen parameter has a factor of 0, a flipped gradient one of -1.
"""

Bounds = Mapping[Measure, Mapping[str, float]]
"""Bound of each parameter by measure; none for a parameter that rounding alone moves too far."""


def measured(found: Sequence[ParameterDifference]) -> dict[Measure, dict[str, float]]:
    """Return the differences of parameters by measure; infinite if a number is not finite."""
    norms = relative_errors(found, elementwise=False)
    factors = {one.parameter: abs(one.scale - 1.0) for one in found if one.scale is not None}
    return {
        "norm": {name: math.inf if error is None else error for name, error in norms.items()},
        "factor": {one.parameter: factors.get(one.parameter, 0.0) for one in found},
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A parameter with a bound of its own, by the measure that is closest to it."""

    difference: ParameterDifference
    rel: float
    """Relative difference; infinite if a number is not finite."""
    bound: float

    @property
    def is_wrong(self) -> bool:
        """True if the difference exceeds the bound."""
        return not self.rel <= self.bound

    @property
    def worst(self) -> Difference:
        """Return what a record holds of it."""
        one = self.difference
        rel = None if math.isinf(self.rel) else self.rel
        return Difference(module=one.module, parameter=one.parameter, rel=rel, bound=self.bound)


def by_own_bounds(found: Sequence[ParameterDifference], bounds: Bounds) -> list[Judged]:
    """Return the parameters that have a bound, the closest to it first."""
    errors = measured(found)
    judged = []
    for one in found:
        known = [
            Judged(difference=one, rel=errors[measure][one.parameter], bound=some[one.parameter])
            for measure, some in bounds.items()
            if one.parameter in some
        ]
        if known:
            judged.append(max(known, key=_share))
    return sorted(judged, key=_share, reverse=True)


def _share(one: Judged) -> float:
    return one.rel / one.bound


def significant(gradients: Sequence[ParameterDifference]) -> list[ParameterDifference]:
    """Return the parameters whose gradient is more than rounding."""
    norms = module_norms(gradients)
    return [one for one in gradients if (one.baseline_norm or 0.0) > FLOOR_SHARE * norms[one.module]]


def _over(error: float | None, baseline: float | None, floor: float) -> float | None:
    if error is None or baseline is None:
        return None
    against = max(baseline, floor)
    return error / against if against else error


def worst_moment(found: OptimizerDifferences) -> Difference | None:
    """Return the parameter with the largest error in a moment."""
    both = [worst_of(found.first_moments), worst_of(found.second_moments)]
    return max((one for one in both if one is not None), key=_badness, default=None)


def worst_update(found: OptimizerDifferences) -> Difference | None:
    """Return the parameter with the largest error in its update over the first two steps."""
    return worst_of(found.updates, elementwise=False)


def worst_along_weights(found: OptimizerDifferences) -> Difference | None:
    """Return the parameter whose update differs most along its starting weights, as by another weight decay."""
    errors = along_weights(found.updates)
    if not errors:
        return None
    worst = max(found.updates, key=lambda one: _known(errors[one.parameter]))
    return Difference(module=worst.module, parameter=worst.parameter, rel=errors[worst.parameter])


def along_weights(updates: Sequence[ParameterDifference]) -> dict[str, float | None]:
    """Return the relative error of each update along the starting weights; None if it is not finite."""
    errors = relative_errors(updates, elementwise=False)
    shares = {one.parameter: one.along_weights_share or 0.0 for one in updates}
    return {name: None if error is None else error * math.sqrt(shares[name]) for name, error in errors.items()}


def _known(error: float | None) -> float:
    return math.inf if error is None else error


def _badness(difference: Difference) -> float:
    return _known(difference.rel)
