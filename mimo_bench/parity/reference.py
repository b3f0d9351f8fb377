"""Verdict on a baseline that `transformers` computed as well."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from mimo_bench.record import ReferenceVerdict

LOSS_BOUND = 1e-5
"""On the relative error of the loss."""

GRADIENT_BOUND = 1e-5
"""On the relative error of each parameter's gradient."""

MEASURED = "measured.json"
"""What the rank leaves."""


class Measured(BaseModel):
    """How far the baseline's first step is from what `transformers` computes, relative."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    loss_rel: float
    parameter: str
    """Whose gradient is furthest off, by the name of `transformers`."""
    gradient_rel: float
    num_gradients: int


def judge_reference(measured: Measured) -> ReferenceVerdict:
    """Whether the baseline computes what `transformers` does."""
    wrong = []
    if not measured.loss_rel <= LOSS_BOUND:
        wrong.append(f"the loss is off by {measured.loss_rel:.2g}")
    if not measured.gradient_rel <= GRADIENT_BOUND:
        wrong.append(f"the gradient of {measured.parameter} is off by {measured.gradient_rel:.2g} of its norm")
    agrees = (
        f"loss and {measured.num_gradients} gradients are those of transformers in float64; "
        f"furthest off is {measured.parameter}"
    )
    return ReferenceVerdict(
        verdict="failed" if wrong else "passed",
        reason=" and ".join(wrong) or agrees,
        loss_rel=measured.loss_rel,
        loss_bound=LOSS_BOUND,
        gradient_rel=measured.gradient_rel,
        gradient_bound=GRADIENT_BOUND,
        parameter=measured.parameter,
    )
