"""What the gradients of the first step say: which parameter is off most, and what kind of wrong it is, in words.

scenario -> layout -> trainer -> meters -> record -> [parity] -> report
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mimo_bench.record.schema import Difference, GradientDifference

FLOOR_SHARE = 1e-3
"""A gradient is judged against its own norm or this share of its module's, whichever is larger: a key's bias before a
softmax has a gradient of exactly zero in theory and of rounding in practice."""

UNIFORM = 1e-2
"""Gradients differ by one factor alone if what the factor leaves is below this share of their norm, and if factors of
different parameters differ by no more than it."""


def relative_errors(gradients: Sequence[GradientDifference]) -> dict[str, float | None]:
    """Error norm by parameter, over the larger of the baseline's norm and the floor; None where it is not finite."""
    modules = module_norms(gradients)
    return {one.parameter: _relative_error(one, FLOOR_SHARE * modules[one.module]) for one in gradients}


def module_norms(gradients: Sequence[GradientDifference]) -> dict[str, float]:
    """The baseline's gradient norm over all parameters of each module."""
    squares: dict[str, float] = {}
    for one in gradients:
        squares[one.module] = squares.get(one.module, 0.0) + (one.baseline_norm or 0.0) ** 2
    return {module: math.sqrt(square) for module, square in squares.items()}


def worst_gradient(gradients: Sequence[GradientDifference]) -> Difference | None:
    """The parameter whose gradient is off most; one that is not finite is off more than any."""
    errors = relative_errors(gradients)
    if not errors:
        return None
    worst = max(gradients, key=lambda one: math.inf if errors[one.parameter] is None else errors[one.parameter] or 0.0)
    return Difference(module=worst.module, parameter=worst.parameter, rel=errors[worst.parameter])


def explain(gradients: Sequence[GradientDifference], *, bound: float, dp: Mapping[str, int]) -> str | None:
    """What is wrong with gradients that are off by more than `bound`, by module; None if none is.

    Args:
        gradients: of all parameters.
        bound: on the relative error of each.
        dp: data-parallel degree of each module, as a wrong scale often is a ratio of degrees.
    """
    errors = relative_errors(gradients)
    wrong = [one for one in gradients if not _within(errors[one.parameter], bound)]
    modules = dict.fromkeys(one.module for one in wrong)
    reasons = [_explain_module(module, gradients, wrong, errors, dp) for module in modules]
    return "; ".join(reasons) or None


def _explain_module(
    module: str,
    gradients: Sequence[GradientDifference],
    wrong: Sequence[GradientDifference],
    errors: Mapping[str, float | None],
    dp: Mapping[str, int],
) -> str:
    ours = [one for one in wrong if one.module == module]
    # Parameters without a gradient of their own prove nothing either way.
    floor = FLOOR_SHARE * module_norms(gradients)[module]
    telling = [one for one in gradients if one.module == module and (one.baseline_norm or 0.0) > floor]
    missing = [one for one in telling if one.norm == 0.0]
    if missing:
        count = "every gradient" if len(missing) == len(telling) else f"{len(missing)} of {len(telling)} gradients"
        return f"{count} of {module} is zero, first {missing[0].parameter}"
    if (scale := _uniform_scale(telling)) is not None:
        return f"gradients of {module}.* are {scale:.4g} x the baseline's, uniformly{_as_ratio(scale, module, dp)}"
    worst = max(ours, key=lambda one: errors[one.parameter] or math.inf)
    shown = errors[worst.parameter]
    by = "are not finite" if shown is None else f"differ, most {worst.parameter} by {shown:.2g} of its norm"
    return f"{len(ours)} of the gradients of {module} {by}"


def _uniform_scale(gradients: Sequence[GradientDifference]) -> float | None:
    """The one factor by which all differ from the baseline's; None if there is no such factor."""
    scales = []
    for one in gradients:
        if one.scale is None or one.unscaled_error_norm is None or not one.norm:
            return None
        if one.unscaled_error_norm > UNIFORM * one.norm:
            return None
        scales.append(one.scale)
    if not scales or max(scales) - min(scales) > UNIFORM * abs(scales[0]):
        return None
    # A factor of one leaves whatever else is wrong unexplained.
    return None if math.isclose(scales[0], 1.0, rel_tol=UNIFORM) else scales[0]


def _as_ratio(scale: float, module: str, dp: Mapping[str, int]) -> str:
    """Names the ratio of degrees that the scale equals, if it does."""
    for other, degree in dp.items():
        for ratio, words in (
            (dp[module] / degree, f"{module} dp {dp[module]} / {other} dp {degree}"),
            (degree / dp[module], f"{other} dp {degree} / {module} dp {dp[module]}"),
        ):
            if other != module and ratio != 1 and math.isclose(scale, ratio, rel_tol=UNIFORM):
                return f": {words}"
    return ""


def _relative_error(one: GradientDifference, floor: float) -> float | None:
    if one.error_norm is None or one.baseline_norm is None:
        return None
    against = max(one.baseline_norm, floor)
    return one.error_norm / against if against else one.error_norm


def _within(error: float | None, bound: float) -> bool:
    return error is not None and error <= bound
