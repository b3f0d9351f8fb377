"""Tolerance of a comparison, from variants of the baseline: equal trainings that round differently.

A bound is `BAND_FACTOR` times the largest difference of any variant, no less than a floor and no more than a ceiling.
The floor is there because a few variants may agree by luck. The ceiling is there because a wide band hides faults: a
baseline whose variants exceed it fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mimo_bench.layout import LayoutTable, Precision
from mimo_bench.parity.compare import drifts, largest, step_errors, worst_moment, worst_of, worst_update
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

PARITY_FLOOR: Final = Tolerance(loss_rel=1e-5, grad_norm_rel=1e-4, gradient_rel=1e-4, moment_rel=1e-4, update_rel=1e-3)
"""Smallest bounds in parity mode. Correct layouts on CPU ranks differ by 2e-7 in loss, by 2e-6 in gradients and their
norms, by 1.4e-5 in moments, and by 1e-4 in updates: Adam turns the smallest gradients, which are largely rounding, into
steps as long as any other."""

PARITY_CEILING: Final = Tolerance(
    loss_rel=1e-4, grad_norm_rel=1e-3, gradient_rel=1e-3, moment_rel=1e-3, update_rel=1e-2
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

_QUANTITIES = {
    "loss_rel": "loss_rel_max",
    "grad_norm_rel": "grad_norm_rel_max",
    "gradient_rel": "gradient_rel_max",
    "moment_rel": "moment_rel_max",
    "update_rel": "update_rel_max",
}
"""The field of `Noise` that each bound of `Tolerance` comes from."""

_CALMER = {
    "loss_rel": ("the loss", "lower learning_rate or steps.parity"),
    "grad_norm_rel": ("the gradient norm of a module", "lower learning_rate or steps.parity"),
    # The two steps are fixed, and the samples decide how close a gradient comes to zero.
    "gradient_rel": ("a gradient", "take another seed"),
    "moment_rel": ("a moment of Adam", "take another seed"),
    "update_rel": ("an update", "take another seed"),
}
"""Quantity of each bound, and the remedy if rounding alone exceeds it."""


def noise_of(name: VariantName, variant: Trained, baseline: Trained, *, num_steps: int) -> Noise:
    """Return the differences of a variant from the baseline."""
    losses, norms = step_errors(variant, baseline, num_steps)
    outcome = variant.optimizer
    return Noise(
        variant=name,
        loss_rel_max=largest(losses),
        loss_rel_mean=drifts(variant, baseline, num_steps)[0],
        grad_norm_rel_max=largest([largest(errors) for errors in norms.values()]),
        gradient_rel_max=_rel(worst_of(variant.gradients or ())),
        moment_rel_max=_rel(worst_moment(outcome)) if outcome else None,
        update_rel_max=_rel(worst_update(outcome)) if outcome else None,
        differs=_first_difference(variant, baseline, num_steps),
    )


def band(noise: Sequence[Noise], *, floor: Tolerance, ceiling: Tolerance) -> Tolerance | str:
    """Return the bounds that the variants set, or why they set none."""
    if not noise:
        return "no variant of it was trained"
    bounds = {}
    for bound, field in _QUANTITIES.items():
        if (least := getattr(floor, bound)) is None:
            continue
        spreads = [(getattr(one, field), one.variant) for one in noise]
        if (unknown := next((name for spread, name in spreads if spread is None), None)) is not None:
            return f"its variant {unknown} has no {field}"
        spread, widest = max(spreads)
        if BAND_FACTOR * spread > (most := getattr(ceiling, bound)):
            what, remedy = _CALMER[bound]
            return (
                f"its variant {widest} differs by {spread:.1e} in {what}, and faults show only if rounding stays below "
                f"{most / BAND_FACTOR:.1e}; {remedy}"
            )
        bounds[bound] = max(least, BAND_FACTOR * spread)
    return Tolerance(**bounds)


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
