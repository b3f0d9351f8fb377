"""Faults of speed: all numbers stay right, so meters and `--gate-performance` must see them, and no check of parity."""

from __future__ import annotations

import time
from typing import Any

from mimo_bench.parity.faults.catalogue import fault
from mimo_bench.parity.faults.context import FaultContext, replace_attribute
from mimo_bench.trainer import UnevenBridge, hosted_modules, unwrap

DAWDLE_SECONDS = 0.2
"""Time that a slow rank loses in each micro-batch."""


@fault(caught_by=None)
def bridge_bytes_doubled(context: FaultContext) -> None:
    """Everything that crosses the bridge between disjoint modules crosses it twice."""
    for name in ("_send", "_receive", "_exchange", "_broadcast"):
        _twice(context, name)


@fault(caught_by=None)
def slow_rank(context: FaultContext) -> None:
    """The last rank sleeps before every forward pass."""
    if context.rank == context.layout.world_size - 1:
        _, module = next(hosted_modules(context.trainer.model))
        handle = unwrap(module).register_forward_pre_hook(lambda *_: time.sleep(DAWDLE_SECONDS))
        context.undo.callback(handle.remove)


def _twice(context: FaultContext, name: str) -> None:
    method = getattr(UnevenBridge, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        method(*args, **kwargs)
        return method(*args, **kwargs)

    replace_attribute(context, UnevenBridge, name, call)
