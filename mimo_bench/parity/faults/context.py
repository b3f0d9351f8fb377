"""Where a fault is planted, and what all of them are made with."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from mimo_bench.layout import LANGUAGE, Layout
from mimo_bench.trainer import Trainer, hosted_modules


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultContext:
    """Where a fault is planted."""

    trainer: Trainer
    layout: Layout
    rank: int
    undo: ExitStack
    """Closed after the last step; what a fault enters here is taken back then."""


def encoders(context: FaultContext) -> list[tuple[str, Any]]:
    """The encoders that this rank hosts, by name, in their data-parallel wrappers."""
    return [(name, module) for name, module in hosted_modules(context.trainer.model) if name != LANGUAGE]


def replace_attribute(context: FaultContext, target: Any, name: str, value: Any) -> None:
    """Put `value` in the place of an attribute until the fault is undone."""
    # Frozen values refuse plain assignment; a planted fault is the one that may.
    put = setattr if isinstance(target, type | ModuleType) else object.__setattr__
    context.undo.callback(put, target, name, getattr(target, name))
    put(target, name, value)
