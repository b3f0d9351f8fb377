"""Faults that end a layout: a rank dies, hangs or runs out of memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import torch

from mimo_bench.parity.faults.catalogue import fault
from mimo_bench.parity.faults.context import FaultContext
from mimo_bench.trainer import hosted_modules, unwrap

_MORE_THAN_ANY_DEVICE = 1 << 50


@fault(caught_by="oom", alone=True)
def exhaust_memory(context: FaultContext) -> None:
    """The last rank allocates more memory than any device has when it runs its first module."""

    def allocate() -> None:
        if not torch.cuda.is_available():
            # The kernel would grant the memory, and kill the process that touches it.
            raise MemoryError(f"{_MORE_THAN_ANY_DEVICE} bytes")
        torch.empty(_MORE_THAN_ANY_DEVICE, dtype=torch.uint8, device=torch.cuda.current_device())

    _on_first_forward(context, allocate)


@fault(caught_by="timeout", alone=True)
def hang_rank(context: FaultContext) -> None:
    """The last rank hangs when it runs its first module, and all others wait for it."""

    def sleep() -> None:
        while True:
            time.sleep(3600)

    _on_first_forward(context, sleep)


@fault(caught_by="crashed", alone=True)
def kill_rank(context: FaultContext) -> None:
    """The last rank is killed when it runs its first module, as by the kernel's out-of-memory killer."""
    _on_first_forward(context, lambda: os.kill(os.getpid(), signal.SIGKILL))


def _on_first_forward(context: FaultContext, act: Callable[[], None]) -> None:
    if context.rank != context.layout.world_size - 1:
        return
    _, module = next(hosted_modules(context.trainer.model))
    handle = unwrap(module).register_forward_pre_hook(lambda *_: act())
    context.undo.callback(handle.remove)
