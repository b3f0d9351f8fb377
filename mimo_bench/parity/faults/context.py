"""Context of a planted fault, and the tools to plant it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from mimo_bench.layout import LANGUAGE, Layout
from mimo_bench.trainer import Trainer, hosted_modules


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultContext:
    """The trainer of one rank, to plant a fault in."""

    trainer: Trainer
    layout: Layout
    rank: int
    num_steps: int
    """Optimizer steps that the mode compares."""
    undo: ExitStack
    """Closed after the last step, which undoes what a fault entered here."""


def encoders(context: FaultContext) -> list[tuple[str, Any]]:
    """Return the encoders on this rank, by name, in their data-parallel wrappers."""
    return [(name, module) for name, module in hosted_modules(context.trainer.model) if name != LANGUAGE]


def replace_attribute(context: FaultContext, target: Any, name: str, value: Any) -> None:
    """Replace an attribute by `value` until the fault is undone."""
    # Frozen dataclasses refuse plain assignment.
    put = setattr if isinstance(target, type | ModuleType) else object.__setattr__
    context.undo.callback(put, target, name, getattr(target, name))
    put(target, name, value)
