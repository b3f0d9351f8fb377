"""What the gradients of the first step say: which parameter is off most, and what kind of wrong it is, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mimo_bench.parity.place import Place
from mimo_bench.record import Difference, ParameterDifference

FLOOR_SHARE = 1e-3
"""A gradient is judged against its own norm or this share of its module's, whichever is larger: a key's bias before a
softmax has a gradient of exactly zero in theory and of rounding in practice."""

UNIFORM = 1e-2
"""Gradients differ by one factor alone if what the factor leaves is below this share of their norm, and if factors of
different parameters differ by no more than it."""


def relative_errors(gradients: Sequence[ParameterDifference], *, elementwise: bool = True) -> dict[str, float | None]:
    """Relative error by parameter; None where it is not finite.

    The error's norm, without what the weights' own rounding explains of it, over the larger of the baseline's norm and
    a floor; where `elementwise`, or the largest error of an element over the largest element of the baseline's or a
    floor, if that is more: one wrong element of a million moves no norm.
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
    """The baseline's gradient norm over all parameters of each module."""
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
    """The parameter whose gradient, or whatever else, is off most; one that is not finite is off more than any."""
    errors = relative_errors(gradients, elementwise=elementwise)
    if not errors:
        return None
    worst = max(gradients, key=lambda one: math.inf if errors[one.parameter] is None else errors[one.parameter] or 0.0)
    return Difference(module=worst.module, parameter=worst.parameter, rel=errors[worst.parameter])


def explain(gradients: Sequence[ParameterDifference], *, bound: float, place: Place) -> str | None:
    """What is wrong with gradients that are off by more than `bound`, by module; None if none is.

    Args:
        gradients: of all parameters.
        bound: on the relative error of each.
        place: the layout, as a wrong scale often is a ratio of degrees and a wrong stage or slice a part of a module.
    """
    errors = relative_errors(gradients)
    wrong = [one for one in gradients if not _within(errors[one.parameter], bound)]
    modules = dict.fromkeys(one.module for one in wrong)
    reasons = [_explain_module(module, gradients, wrong, errors, place) for module in modules]
    return "; ".join(reasons) or None


def _explain_module(
    module: str,
    gradients: Sequence[ParameterDifference],
    wrong: Sequence[ParameterDifference],
    errors: Mapping[str, float | None],
    place: Place,
) -> str:
    ours = [one for one in wrong if one.module == module]
    judged = [one for one in telling(gradients) if one.module == module]
    missing = [one for one in judged if one.norm == 0.0]
    if missing:
        if len(missing) == len(judged):
            return f"every gradient of {module} is zero, first {missing[0].parameter}"
        where = place.concentrated(missing, gradients)
        count = f"{len(missing)} of {len(judged)} gradients of {module}"
        return f"{count} {'is' if len(missing) == 1 else 'are'} zero, first {missing[0].parameter}{where}"
    if (scale := _uniform_scale(judged)) is not None:
        return f"gradients of {module}.* are {scale:.4g} x the baseline's, uniformly{place.as_ratio(scale, module)}"
    worst = max(ours, key=lambda one: errors[one.parameter] or math.inf)
    shown = errors[worst.parameter]
    by = "are not finite" if shown is None else f"differ, most {worst.parameter} by {shown:.2g} of its norm"
    where = place.concentrated(ours, gradients)
    return f"{len(ours)} of the gradients of {module} {by}{_scaled(ours)}{where}"


def _scaled(ours: Sequence[ParameterDifference]) -> str:
    """The factor by which all wrong gradients of a module are off, where it is one."""
    scale = _uniform_scale([one for one in ours if one.scale is not None])
    return "" if scale is None else f", each {scale:.4g} x the baseline's"


def telling(gradients: Sequence[ParameterDifference]) -> list[ParameterDifference]:
    """Those with a gradient of their own; what is rounding alone proves nothing either way."""
    norms = module_norms(gradients)
    return [one for one in gradients if (one.baseline_norm or 0.0) > FLOOR_SHARE * norms[one.module]]


def _uniform_scale(gradients: Sequence[ParameterDifference]) -> float | None:
    """The one factor by which all differ from the baseline's; None if there is no such factor, or it is one."""
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


def _over(error: float | None, baseline: float | None, floor: float) -> float | None:
    if error is None or baseline is None:
        return None
    against = max(baseline, floor)
    return error / against if against else error


def _within(error: float | None, bound: float) -> bool:
    return error is not None and error <= bound
