"""Relative differences between two trainings, by step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mimo_bench.record import Trained
from mimo_bench.util import relative


def step_errors(
    trained: Trained, baseline: Trained, num_steps: int
) -> tuple[list[float | None], dict[str, list[float | None]]]:
    """Relative differences by step: of the loss, and of each module's gradient norm."""
    steps = range(num_steps)
    losses = [relative(trained.losses[step], baseline.losses[step]) for step in steps]
    norms = {
        module: [relative(trained.grad_norms[module][step], expected[step]) for step in steps]
        for module, expected in baseline.grad_norms.items()
    }
    return losses, norms


def drifts(trained: Trained, baseline: Trained, num_steps: int) -> tuple[float | None, dict[str, float | None]]:
    """Means over the steps of the signed relative differences: of the loss, and of each module's gradient norm."""
    return (
        _mean_signed(trained.losses[:num_steps], baseline.losses[:num_steps]),
        {
            module: _mean_signed(trained.grad_norms[module][:num_steps], expected[:num_steps])
            for module, expected in baseline.grad_norms.items()
        },
    )


def _mean_signed(found: Sequence[float | None], expected: Sequence[float | None]) -> float | None:
    """Mean of the relative differences, each with its sign; None where one is unknown."""
    errors = [_signed(one, other) for one, other in zip(found, expected, strict=True)]
    known = [error for error in errors if error is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(errors) else None


def _signed(found: float | None, expected: float | None) -> float | None:
    error = relative(found, expected)
    if error is None or found is None or expected is None:
        return None
    return math.copysign(error, found - expected)


def largest(errors: Sequence[float | None]) -> float | None:
    """The largest of all; None if one is unknown, or there is none."""
    known = [error for error in errors if error is not None]
    return max(known) if len(known) == len(errors) and known else None
