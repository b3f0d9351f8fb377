"""What moments and updates after the second step say: which parameter is off, and what of the optimizer is wrong.

The gradients of the first step are right when this is asked. What is left is what the optimizer made of them: by which
norm it clipped, how it averaged, how far it went.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from mimo_bench.parity.gradients import relative_errors, telling, worst_of
from mimo_bench.record import Difference, OptimizerDifferences, ParameterDifference

DECAY_SHARE = 0.1
"""An update may differ along the starting weights by this share of what it may differ by at all: rounding points
anywhere in a space of thousands of dimensions, a wrong weight decay along the weights."""

FAR_LESS = 0.2
"""Updates that are off by less than this share of what the moments are off by follow from them."""

ALIKE = 0.3
"""Several steps on, one wrong factor is no longer quite the same for every parameter; this far it may vary."""


def worst_moment(found: OptimizerDifferences) -> Difference | None:
    """The parameter one of whose moments is off most."""
    both = [worst_of(found.first_moments), worst_of(found.second_moments)]
    return max((one for one in both if one is not None), key=_badness, default=None)


def worst_update(found: OptimizerDifferences) -> Difference | None:
    """The parameter whose way through the first two steps is off most."""
    return worst_of(found.updates, elementwise=False)


def explain_outcome(found: OptimizerDifferences, *, moment_bound: float, update_bound: float) -> str | None:
    """What is wrong with moments or updates, in the module where it began; None if nothing is.

    What one module did wrong has reached the gradients of all a step later, and so their moments. Their updates hardly:
    Adam gives a gradient of another size a step of the same length. So updates that are off tell where it began, unless
    they are off by far less than the moments, which then began it.
    """
    modules = [_Outcome.of(module, found) for module in dict.fromkeys(one.module for one in found.updates)]
    if all(module.is_within(moment_bound, update_bound) for module in modules):
        return None
    by_update = max(modules, key=lambda module: module.updates_off)
    by_moment = max(modules, key=lambda module: module.moments_off)
    if by_moment.moments_off > moment_bound and by_update.updates_off < FAR_LESS * by_moment.moments_off:
        return by_moment.explain_moments(moment_bound)
    return by_update.explain_update(update_bound)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outcome:
    """Moments and updates of one module."""

    module: str
    firsts: Sequence[ParameterDifference]
    seconds: Sequence[ParameterDifference]
    updates: Sequence[ParameterDifference]

    @classmethod
    def of(cls, module: str, found: OptimizerDifferences) -> _Outcome:
        parts = (found.first_moments, found.second_moments, found.updates)
        firsts, seconds, updates = ([one for one in some if one.module == module] for some in parts)
        return cls(module=module, firsts=firsts, seconds=seconds, updates=updates)

    @property
    def moments_off(self) -> float:
        return max(_worst(relative_errors(self.firsts)), _worst(relative_errors(self.seconds)))

    @property
    def updates_off(self) -> float:
        return _worst(relative_errors(self.updates, elementwise=False))

    def is_within(self, moment_bound: float, update_bound: float) -> bool:
        along = _worst(_along_weights(self.updates))
        return (
            self.moments_off <= moment_bound
            and self.updates_off <= update_bound
            and along <= DECAY_SHARE * update_bound
        )

    def explain_update(self, bound: float) -> str:
        if moved := [one.parameter for one in self.updates if one.baseline_norm == 0.0 and one.norm != 0.0]:
            return f"{len(moved)} parameters of {self.module} moved that are frozen, first {moved[0]}"
        if (scale := _about(self.updates)) is not None:
            return f"updates of {self.module}.* are about {scale:.2g} x the baseline's: another learning rate"
        if _worst(_along_weights(self.updates)) > self.updates_off / 2:
            return f"updates of {self.module}.* differ along the weights themselves: another weight decay"
        errors = relative_errors(self.updates, elementwise=False)
        return f"{_most(self.module, 'updates', errors, bound)}: another epsilon or bias correction"

    def explain_moments(self, bound: float) -> str:
        first, second = _about(self.firsts), _about(self.seconds)
        if first is not None and second is not None:
            return (
                f"first moments of {self.module}.* are about {first:.2g} x the baseline's and second moments about "
                f"{second:.2g} x: gradients were clipped by another norm"
            )
        if second is not None:
            return f"second moments of {self.module}.* are about {second:.2g} x the baseline's: another adam_beta2"
        firsts, seconds = relative_errors(self.firsts), relative_errors(self.seconds)
        which, errors = max((("first", firsts), ("second", seconds)), key=lambda pair: _worst(pair[1]))
        return _most(self.module, f"{which} moments", errors, bound)


def _about(differences: Sequence[ParameterDifference]) -> float | None:
    """The factor by which most differ from the baseline's, where it is much the same for all of them and not one."""
    scales = [one.scale for one in telling(differences) if one.scale is not None]
    if not scales:
        return None
    middle = median(scales)
    alike = all(abs(scale - middle) <= ALIKE * abs(middle) for scale in scales)
    return middle if alike and not math.isclose(middle, 1.0, rel_tol=ALIKE / 3) else None


def _most(module: str, what: str, errors: Mapping[str, float | None], bound: float) -> str:
    wrong = {name: math.inf if error is None else error for name, error in errors.items()}
    beyond = [name for name, error in wrong.items() if error > bound]
    worst = max(wrong, key=lambda name: wrong[name])
    shown = "beyond all numbers" if math.isinf(wrong[worst]) else f"by {wrong[worst]:.2g} of its norm"
    return f"{what} of {len(beyond)} of {len(wrong)} parameters of {module} differ, most {worst} {shown}"


def _along_weights(updates: Sequence[ParameterDifference]) -> dict[str, float | None]:
    errors = relative_errors(updates, elementwise=False)
    shares = {one.parameter: one.along_weights_share or 0.0 for one in updates}
    return {name: None if error is None else error * math.sqrt(shares[name]) for name, error in errors.items()}


def _worst(errors: Mapping[str, float | None]) -> float:
    return max((math.inf if error is None else error for error in errors.values()), default=0.0)


def _badness(difference: Difference) -> float:
    return math.inf if difference.rel is None else difference.rel
