"""Tolerance of a comparison, from variants of the baseline: equal trainings that round differently.

A bound is `BAND_FACTOR` times the largest difference of any variant, no less than a floor and no more than a ceiling.
The floor is there because a few variants may agree by luck. The ceiling is there because a wide band hides faults: a
baseline whose variants exceed it fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mimo_bench.layout import LayoutTable, Precision
from mimo_bench.parity.compare import (
    Bounds,
    Measure,
    drifts,
    largest,
    measured,
    step_errors,
    worst_along_weights,
    worst_moment,
    worst_of,
    worst_update,
)
from mimo_bench.record import Noise, OptimizerDifferences, ParameterDifference, Tolerance, Trained, VariantName
from mimo_bench.scenario import Scenario
from mimo_bench.util import LayoutError


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One mathematically equal training of the baseline."""

    name: VariantName
    scenario: Scenario
    """The scenario, with the baseline as this variant trains it."""


def parity_variants(scenario: Scenario) -> tuple[Variant, ...]:
    """Return the variants of parity mode: a rerun for the same bits, and those that round differently."""
    return (Variant(name="rerun", scenario=scenario), *rounded_variants(scenario))


def rounded_variants(scenario: Scenario) -> tuple[Variant, ...]:
    """Return the equal trainings of the baseline that round differently, as far as batch, model and world allow."""
    return (
        Variant(name="jitter", scenario=scenario),
        *_first("micro-batches", scenario, _other_micro_batches(scenario)),
        *_first("tensor-parallel", scenario, _swapped_degrees(scenario)),
    )


def _first(name: VariantName, scenario: Scenario, tables: Iterator[LayoutTable]) -> Iterator[Variant]:
    """Yield the first of `tables` that can be trained, as the baseline."""
    for table in tables:
        # Built anew: a copy would keep the layouts that the scenario has cached.
        variant = Scenario.model_validate({**dict(scenario), "layout": (table,)})
        try:
            variant.check()
        except LayoutError:
            continue
        yield Variant(name=name, scenario=variant)
        return


def _other_micro_batches(scenario: Scenario) -> Iterator[LayoutTable]:
    """Yield the baseline with gradients summed over half as many micro-batches, or twice as many."""
    table = scenario.table(scenario.baseline)
    size = scenario.case(scenario.baseline).plan.global_micro_batch_size
    for other in (2 * size, size // 2):
        if other:
            yield table.model_copy(update={"global_micro_batch_size": other})


def _swapped_degrees(scenario: Scenario) -> Iterator[LayoutTable]:
    """Yield the baseline on the same ranks with data- and tensor-parallel degrees swapped."""
    table = scenario.table(scenario.baseline)
    if (swapped := table.swapped()) != table:
        yield swapped
        # Experts under tensor parallelism need it.
        yield swapped.model_copy(update={"settings": table.settings.model_copy(update={"sequence_parallel": True})})


BAND_FACTOR = 4.0
"""Ratio of a bound to the spread of the baseline's variants: a correct layout differs by the same kind of rounding, in
more places."""

PARITY_FLOOR: Final = Tolerance(
    loss_rel=1e-5, grad_norm_rel=1e-4, gradient_rel=1e-4, moment_rel=1e-4, update_rel=1e-3, along_rel=1e-4
)
"""Smallest bounds in parity mode. Correct layouts on CPU ranks differ by 2e-7 in loss, by 2e-6 in gradients and their
norms, by 1.4e-5 in moments, and by 1e-4 in updates: Adam turns the smallest gradients, which are largely rounding, into
steps as long as any other."""

PARITY_CEILING: Final = Tolerance(
    loss_rel=1e-4, grad_norm_rel=1e-3, gradient_rel=1e-3, moment_rel=1e-3, update_rel=1e-2, along_rel=1e-3
)
"""Widest bounds in parity mode: the mildest known silent fault moves the loss by 3e-4."""

FLOORS: Final[Mapping[Precision, Tolerance]] = {
    "fp32": Tolerance(loss_rel=PARITY_FLOOR.loss_rel, grad_norm_rel=PARITY_FLOOR.grad_norm_rel),
    "bf16": Tolerance(loss_rel=2e-4, grad_norm_rel=2e-3),
}
"""Smallest bounds as timed, by precision. bf16 keeps 8 bits, 4e-3 of a number; correct layouts differed by 2e-4 in
the first loss and 1.4e-3 in the first gradient norm."""

CEILINGS: Final[Mapping[Precision, Tolerance]] = {
    "fp32": Tolerance(loss_rel=PARITY_CEILING.loss_rel, grad_norm_rel=PARITY_CEILING.grad_norm_rel),
    "bf16": Tolerance(loss_rel=5e-2, grad_norm_rel=0.25),
}
"""Widest bounds as timed: a gradient that is wrong by a ratio of degrees is off by half of itself at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterLimits:
    """Smallest and widest bound of single parameters; each gets its own from the variants."""

    floor: float
    ceiling: float
    """A parameter that rounding alone moves a quarter as far has no bound."""


LATE_LIMITS: Final = ParameterLimits(floor=2e-3, ceiling=0.1)
"""Of updates by all parity steps: a parameter that stops learning halfway is off by half of its update."""

TIMED_GRADIENT_LIMITS: Final[Mapping[Precision, ParameterLimits]] = {
    "fp32": ParameterLimits(floor=1e-4, ceiling=1e-2),
    "bf16": ParameterLimits(floor=2e-2, ceiling=0.4),
}
"""Of gradients of the first step as timed: a lost gradient is off by all of itself, a flipped one by twice of it."""

TIMED_UPDATE_LIMITS: Final[Mapping[Precision, ParameterLimits]] = {
    "fp32": LATE_LIMITS,
    "bf16": ParameterLimits(floor=5e-2, ceiling=0.9),
}
"""Of updates by all steps of a timed run: a frozen parameter is off by all of its update."""


def parameter_bounds(variants: Iterable[Sequence[ParameterDifference] | None], limits: ParameterLimits) -> Bounds:
    """Return the bounds of each parameter from its differences in the variants."""
    spreads: dict[Measure, dict[str, float]] = {"norm": {}, "factor": {}}
    for found in variants:
        for measure, errors in measured(found or ()).items():
            for name, error in errors.items():
                spreads[measure][name] = max(spreads[measure].get(name, 0.0), error)
    most = limits.ceiling / BAND_FACTOR
    return {
        measure: {name: max(limits.floor, BAND_FACTOR * spread) for name, spread in some.items() if spread <= most}
        for measure, some in spreads.items()
    }


_OF_PARAMETERS = {
    "gradient_rel": ("gradient_rel_max", "a gradient"),
    "moment_rel": ("moment_rel_max", "a moment of Adam"),
    "update_rel": ("update_rel_max", "an update"),
    "along_rel": ("along_rel_max", "an update along the weights"),
}
"""For a bound of `Tolerance`: the field of `Noise` that it comes from, and its quantity."""


def noise_of(name: VariantName, variant: Trained, baseline: Trained, *, num_steps: int) -> Noise:
    """Return the differences of a variant from the baseline over the first steps."""
    losses, norms = step_errors(variant, baseline, num_steps)
    outcome = variant.optimizer
    right = [
        tokens
        for one in (variant, baseline)
        if one.held_out is not None and (tokens := one.held_out.right_tokens) is not None
    ]
    return Noise(
        variant=name,
        loss_rel_max=largest(losses),
        loss_rel_mean=drifts(variant, baseline, num_steps)[0],
        grad_norm_rel_max=largest([largest(errors) for errors in norms.values()]),
        gradient_rel_max=_rel(worst_of(variant.gradients or ())),
        moment_rel_max=_rel(worst_moment(outcome)) if outcome else None,
        update_rel_max=_rel(worst_update(outcome)) if outcome else None,
        along_rel_max=_rel(worst_along_weights(outcome)) if outcome else None,
        right_tokens=abs(right[0] - right[1]) if len(right) == 2 else None,
        differs=_first_difference(variant, baseline, num_steps),
    )


def band(
    variants: Mapping[VariantName, Trained],
    baseline: Trained,
    *,
    floor: Tolerance,
    ceiling: Tolerance,
    num_steps: int,
    num_required: int,
) -> Tolerance | str:
    """Return the bounds that the variants set, or why they set none.

    Args:
        variants: the baseline, rounded differently.
        baseline: as it is.
        floor: smallest bounds.
        ceiling: widest bounds.
        num_steps: steps that are compared, as far as rounding allows.
        num_required: steps in which rounding may not exceed the ceiling.
    """
    if not variants:
        return "no variant of it was trained"
    errors = {name: step_errors(variant, baseline, num_steps) for name, variant in variants.items()}
    found = _by_step(
        {name: losses for name, (losses, _) in errors.items()},
        floor.loss_rel,
        ceiling.loss_rel,
        num_required,
        what="the loss",
    )
    if isinstance(found, str):
        return found
    by_module = {}
    for module in baseline.grad_norms:
        bounds = _by_step(
            {name: norms[module] for name, (_, norms) in errors.items()},
            floor.grad_norm_rel,
            ceiling.grad_norm_rel,
            num_required,
            what=f"the gradient norm of {module}",
        )
        if isinstance(bounds, str):
            return bounds
        by_module[module] = bounds
    noise = [noise_of(name, variant, baseline, num_steps=num_required) for name, variant in variants.items()]
    of_parameters = {}
    for bound, (field, what) in _OF_PARAMETERS.items():
        if (least := getattr(floor, bound)) is None:
            continue
        spreads = [(getattr(one, field), one.variant) for one in noise]
        if (unknown := next((name for spread, name in spreads if spread is None), None)) is not None:
            return f"its variant {unknown} has no {field}"
        spread, widest = max(spreads)
        if BAND_FACTOR * spread > (most := getattr(ceiling, bound)):
            # The two steps are fixed, and the samples decide how close a gradient comes to zero.
            return _too_far(widest, spread, what, most, "take another seed")
        of_parameters[bound] = max(least, BAND_FACTOR * spread)
    right = [one.right_tokens for one in noise if one.right_tokens is not None]
    return Tolerance(
        loss_rel=max(found),
        grad_norm_rel=max(max(bounds) for bounds in by_module.values()),
        loss_rel_by_step=found,
        grad_norm_rel_by_step=by_module,
        right_tokens=max(1, round(BAND_FACTOR * max(right))) if right else None,
        **of_parameters,
    )


def _by_step(
    errors: Mapping[VariantName, Sequence[float | None]], floor: float, ceiling: float, num_required: int, *, what: str
) -> tuple[float, ...] | str:
    """Return bounds of one quantity by step, up to the step in which rounding alone exceeds the ceiling.

    The bound of a step comes from the largest difference up to it: rounding grows, and few variants may agree by luck.
    """
    bounds: list[float] = []
    spread = 0.0
    for step, at_once in enumerate(zip(*errors.values(), strict=True)):
        found = [(math.inf if error is None else error, name) for error, name in zip(at_once, errors, strict=True)]
        worst, widest = max(found)
        spread = max(spread, worst)
        if BAND_FACTOR * spread > ceiling:
            if step < num_required:
                return _too_far(
                    widest, worst, what, ceiling, "lower learning_rate or steps.parity, or take another seed"
                )
            break
        bounds.append(max(floor, BAND_FACTOR * spread))
    return tuple(bounds)


def _too_far(variant: VariantName, spread: float, what: str, ceiling: float, remedy: str) -> str:
    if math.isinf(spread):
        return f"its variant {variant} has no finite number for {what}"
    return (
        f"its variant {variant} differs by {spread:.1e} in {what}, and faults show only if rounding stays below "
        f"{ceiling / BAND_FACTOR:.1e}; {remedy}"
    )


def _first_difference(variant: Trained, baseline: Trained, num_steps: int) -> str | None:
    """Return the first quantity that differs in any bit, in the order in which training computes them."""
    for step in range(num_steps):
        if variant.losses[step] != baseline.losses[step]:
            return f"the loss of step {step}"
        for what in _different(variant.gradients) if step == 0 else ():
            return f"the gradient of {what}"
        for module, norms in baseline.grad_norms.items():
            if variant.grad_norms[module][step] != norms[step]:
                return f"the gradient norm of {module} in step {step}"
    if (outcome := variant.optimizer) is not None:
        return next((f"the {kind} of {what}" for kind, some in _parts(outcome) for what in _different(some)), None)
    return None


def _parts(outcome: OptimizerDifferences) -> tuple[tuple[str, tuple[ParameterDifference, ...]], ...]:
    return (
        ("first moment", outcome.first_moments),
        ("second moment", outcome.second_moments),
        ("update", outcome.updates),
    )


def _different(parameters: Sequence[ParameterDifference] | None) -> list[str]:
    return [one.parameter for one in parameters or () if one.error_norm != 0.0]


def _rel(worst: object) -> float | None:
    return getattr(worst, "rel", None)
