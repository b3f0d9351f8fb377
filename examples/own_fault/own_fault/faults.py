"""Faults of the encoder's gradient."""

from __future__ import annotations

from functools import partial

from mimo_bench.parity import FaultContext, encoders, fault, replace_attribute


@fault(caught_by="gradients", shows_in=lambda site: site.encoder_dp > 1)
def encoder_gradient_halved(context: FaultContext) -> None:
    """The encoder's gradient is half of what it should be."""
    for _, module in encoders(context):
        replace_attribute(context, module, "scale_gradients", partial(_halve, module.scale_gradients))


def _halve(scale, by):
    scale(by / 2)
