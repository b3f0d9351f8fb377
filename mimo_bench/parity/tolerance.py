"""The noise band: how far equal trainings may lie apart, from variants of the baseline that were just trained.

A bound is `BAND_FACTOR` times the largest difference that any variant shows, no less than a floor and no more than a
ceiling. The floor is there because a few variants may lie close by luck, the ceiling because a band wide enough to hide
a known fault proves nothing: then the baseline fails, and says so.
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
    """One equal training of the baseline."""

    name: VariantName
    scenario: Scenario
    """With the baseline as this variant trains it."""


def parity_variants(scenario: Scenario) -> tuple[Variant, ...]:
    """What is trained again in parity mode: as it was, which should give the same bits, and rounded differently."""
    return (Variant(name="rerun", scenario=scenario), *rounded_variants(scenario))


def rounded_variants(scenario: Scenario) -> tuple[Variant, ...]:
    """Every equal training of the baseline that rounds differently, as far as batch, model and world allow."""
    return (
        Variant(name="jitter", scenario=scenario),
        *_first("micro-batches", scenario, _other_micro_batches(scenario)),
        *_first("tensor-parallel", scenario, _swapped_degrees(scenario)),
    )


def _first(name: VariantName, scenario: Scenario, tables: Iterator[LayoutTable]) -> Iterator[Variant]:
    """The first of `tables` that can be trained, as the baseline."""
    for table in tables:
        # Built anew: a copy would keep what the scenario has cached of its layouts.
        variant = Scenario.model_validate({**dict(scenario), "layout": (table,)})
        try:
            variant.check()
        except LayoutError:
            continue
        yield Variant(name=name, scenario=variant)
        return


def _other_micro_batches(scenario: Scenario) -> Iterator[LayoutTable]:
    """The baseline with gradients summed over half as many micro-batches, or twice as many."""
    table = scenario.table(scenario.baseline)
    size = scenario.case(scenario.baseline).plan.global_micro_batch_size
    for other in (2 * size, size // 2):
        if other:
            yield table.model_copy(update={"global_micro_batch_size": other})


def _swapped_degrees(scenario: Scenario) -> Iterator[LayoutTable]:
    """The baseline on the same ranks, tensor-parallel where it is data-parallel and the other way round."""
    table = scenario.table(scenario.baseline)
    if (swapped := table.swapped()) != table:
        yield swapped
        # What experts need.
        yield swapped.model_copy(update={"settings": table.settings.model_copy(update={"sequence_parallel": True})})


BAND_FACTOR = 4.0
"""How much wider than the spread of the baseline's own variants a correct layout may lie: it differs from the baseline
by the same kind of rounding, drawn once more, in more places."""

PARITY_FLOOR: Final = Tolerance(loss_rel=1e-5, grad_norm_rel=1e-4, gradient_rel=1e-4, moment_rel=1e-4, update_rel=1e-3)
"""Least bounds in parity mode. Correct layouts on CPU ranks differ by 2e-7 in loss, 2e-6 in gradients and their norms,
1.4e-5 in moments, and 1e-4 in updates, where Adam turns the smallest gradients, of which rounding is a large part, into
steps as long as any other."""

PARITY_CEILING: Final = Tolerance(
    loss_rel=1e-4, grad_norm_rel=1e-3, gradient_rel=1e-3, moment_rel=1e-3, update_rel=1e-2
)
"""Widest bounds in parity mode: the mildest known silent fault moves the loss by 3e-4."""

FLOORS: Final[Mapping[Precision, Tolerance]] = {
    "fp32": Tolerance(loss_rel=PARITY_FLOOR.loss_rel, grad_norm_rel=PARITY_FLOOR.grad_norm_rel),
    "bf16": Tolerance(loss_rel=2e-4, grad_norm_rel=2e-3),
}
"""Least bounds as timed, by precision. bf16 keeps 8 bits, 4e-3 of a number; correct layouts were seen to differ by 2e-4
in the first loss and 1.4e-3 in the first gradient norm."""

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
    # These two steps are taken whatever is asked for, and how near a gradient comes to zero is the samples' doing.
    "gradient_rel": ("a gradient", "take another seed"),
    "moment_rel": ("a moment of Adam", "take another seed"),
    "update_rel": ("an update", "take another seed"),
}
"""What each bound is of, and what helps where rounding alone goes beyond it."""


def noise_of(name: VariantName, variant: Trained, baseline: Trained, *, num_steps: int) -> Noise:
    """How far a variant of the baseline lies from it."""
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
    """The bounds that the variants set, or why they set none."""
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
                f"its variant {widest} differs by {spread:.1e} in {what}, and rounding may by no more than "
                f"{most / BAND_FACTOR:.1e} where a fault is to show; {remedy}"
            )
        bounds[bound] = max(least, BAND_FACTOR * spread)
    return Tolerance(**bounds)


def _first_difference(variant: Trained, baseline: Trained, num_steps: int) -> str | None:
    """What is not the same to the last bit, in the order in which training computes it."""
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
