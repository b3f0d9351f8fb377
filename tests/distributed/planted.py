"""Faults that tests plant beside those that the package knows."""

from __future__ import annotations

from functools import partial
from typing import Any

from mimo_bench.layout import LANGUAGE
from mimo_bench.parity.faults import FaultContext
from mimo_bench.trainer.models.mimo import hosted_modules


def quarter_encoder_gradient(context: FaultContext) -> None:
    """The encoder's gradient is a quarter of what it should be."""
    for name, module in hosted_modules(context.trainer.model):
        if name != LANGUAGE:
            module.scale_gradients = partial(_quarter, module.scale_gradients)


def _quarter(scale: Any, by: Any) -> None:
    scale(by * 0.25)
