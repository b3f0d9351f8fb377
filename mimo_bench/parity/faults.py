"""Known faults, each planted at run time in one place, so that the gate can prove that it catches them.

A fault is a callable `plant(context)`, called in every rank of the layout under test after the trainer is built and
before its first step.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from mimo_bench.layout import LANGUAGE, Layout
from mimo_bench.trainer.models.mimo import hosted_modules, unwrap
from mimo_bench.trainer.trainer import Trainer

_MORE_THAN_ANY_DEVICE = 1 << 50


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultContext:
    """Where a fault is planted."""

    trainer: Trainer
    layout: Layout
    rank: int
    undo: ExitStack
    """Closed after the last step; what a fault enters here is taken back then."""


def bridge_gradient_doubled(context: FaultContext) -> None:
    """The gradient that comes back over the bridge reaches the encoder twice as large; the loss hardly shows it."""

    def double(_: torch.nn.Module, __: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * 2)

    for name, module in hosted_modules(context.trainer.model):
        if name != LANGUAGE:
            # Inside the data-parallel wrapper: MIMO calls the wrapper's `forward` itself, past the wrapper's hooks.
            handle = unwrap(module).register_forward_hook(double)
            context.undo.callback(handle.remove)


def kill_rank(context: FaultContext) -> None:
    """The last rank dies without a word when it runs its first module, as under the kernel's out-of-memory killer."""
    _on_first_forward(context, lambda: os.kill(os.getpid(), signal.SIGKILL))


def hang_rank(context: FaultContext) -> None:
    """The last rank stops for good when it runs its first module, and all others wait for it."""

    def sleep() -> None:
        while True:
            time.sleep(3600)

    _on_first_forward(context, sleep)


def exhaust_memory(context: FaultContext) -> None:
    """The last rank asks for more memory than any device has when it runs its first module."""

    def allocate() -> None:
        if not torch.cuda.is_available():
            # A CPU would promise the memory and kill whoever touches it.
            raise MemoryError(f"{_MORE_THAN_ANY_DEVICE} bytes")
        torch.empty(_MORE_THAN_ANY_DEVICE, dtype=torch.uint8, device=torch.cuda.current_device())

    _on_first_forward(context, allocate)


def _on_first_forward(context: FaultContext, act: Any) -> None:
    if context.rank != context.layout.world_size - 1:
        return
    _, module = next(hosted_modules(context.trainer.model))
    handle = unwrap(module).register_forward_pre_hook(lambda *_: act())
    context.undo.callback(handle.remove)
