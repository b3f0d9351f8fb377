"""Which module a rank works on, and in which phase, told at every change: forward, backward, gradients, optimizer.

The trainer does not know. Modules are watched by hooks, the schedule's backward and the optimizer by wrapping them;
with several modules on a rank a gradient that reaches the end of an encoder says that the language model's backward is
over. The listener pays: a variable on CPU ranks, an event of the compute stream or a marker in a trace on GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from megatron.core.pipeline_parallel import schedules

from mimo_bench.layout import LANGUAGE
from mimo_bench.trainer import Trainer, hosted_modules, unwrap

Phase = Literal["forward", "backward", "gradients", "optimizer"]
Working = tuple[str, Phase] | None
"""A module and its phase; None between them: the bridge, the schedule, the loss's bookkeeping."""
OnChange = Callable[[Working], None]

_BACKWARDS = ("backward_step", "backward_step_multimodule")


@contextmanager
def phases(trainer: Trainer, on_change: OnChange) -> Iterator[None]:
    """Tell `on_change` what the rank turns to, until the end of the block."""
    hosted = dict(hosted_modules(trainer.model))
    desk = _Desk(on_change)
    with ExitStack() as undo:
        for name, module in hosted.items():
            _watch_forward(undo, name, unwrap(module), desk)
        first = LANGUAGE if LANGUAGE in hosted else next(iter(hosted))
        for name in _BACKWARDS:
            _around(undo, schedules, name, (first, "backward"), desk)
        _around(undo, trainer.model.config, "finalize_model_grads_func", (first, "gradients"), desk)
        _around(undo, trainer.optimizer, "step", (first, "optimizer"), desk)
        for name, info in trainer.optimizer.module_infos.items():
            if info.is_active and info.optimizer is not None:
                for step in ("prepare_grads", "step_with_ready_grads"):
                    _around(undo, info.optimizer, step, (name, "optimizer"), desk)
        yield


class _Desk:
    """Module and phase that the rank works on, and a stack of those it returns to."""

    def __init__(self, on_change: OnChange) -> None:
        self._on_change = on_change
        self._left: list[Working] = []
        self.working: Working = None

    def turn(self, working: Working) -> None:
        self.working = working
        self._on_change(working)

    def begin(self, working: Working) -> None:
        self._left.append(self.working)
        self.turn(working)

    def end(self) -> None:
        self.turn(self._left.pop())


def _watch_forward(undo: ExitStack, name: str, module: torch.nn.Module, desk: _Desk) -> None:
    def begin(_: torch.nn.Module, __: Any) -> None:
        desk.begin((name, "forward"))

    def end(_: torch.nn.Module, __: Any, output: Any) -> None:
        desk.end()
        if name != LANGUAGE and isinstance(output, torch.Tensor) and output.requires_grad:
            output.register_hook(turn)

    def turn(_: torch.Tensor) -> None:
        # Until the whole backward is over.
        desk.turn((name, "backward"))

    # Inside the data-parallel wrapper: MIMO calls the wrapper's `forward` itself, past the wrapper's hooks.
    undo.callback(module.register_forward_pre_hook(begin).remove)
    undo.callback(module.register_forward_hook(end).remove)


def _around(undo: ExitStack, target: Any, name: str, working: Working, desk: _Desk) -> None:
    """Say what the rank turns to when `target.name` is called, and what it goes back to when that returns."""
    original = getattr(target, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        desk.begin(working)
        try:
            return original(*args, **kwargs)
        finally:
            desk.end()

    if name in vars(target):
        undo.callback(partial(setattr, target, name, original))
    else:
        # A method: what is taken away again uncovers the class's own.
        undo.callback(partial(delattr, target, name))
    setattr(target, name, call)
