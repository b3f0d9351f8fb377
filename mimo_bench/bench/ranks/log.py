"""Log of one rank of a launch, and the record made from it."""

from __future__ import annotations

import gc
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from mimo_bench.launch import beat
from mimo_bench.meters import StepClock
from mimo_bench.record import Mode, RankRecord
from mimo_bench.trainer import MicroBatch, StepTaken, Trainer


class Phases:
    """Wall time of each part of the set-up on this rank."""

    def __init__(self) -> None:
        """The set-up begins."""
        self.started_at = time.time()
        self.seconds: dict[str, float] = {}
        self._since = self.started_at

    def end(self, name: str) -> None:
        """The part called `name` ends here and the next one begins."""
        now = time.time()
        self.seconds[name], self._since = now - self._since, now


class RankLog:
    """Trains, and keeps what every step said; nothing is read from the device beyond what a step returns."""

    def __init__(self, clock: StepClock) -> None:
        """Start empty; `clock` is for the steps of the timed window."""
        self.clock = clock
        self._taken: list[StepTaken] = []
        self._first_step_at: float | None = None
        self._first_step_seconds: float | None = None
        self._last_step_at: float | None = None

    def train(
        self,
        trainer: Trainer,
        batches: Iterable[Sequence[MicroBatch]],
        *,
        clock: StepClock | None = None,
        inspect: Callable[[], None] | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        """Train on each of `batches`, and wait for the first step ever and for the last of these.

        Args:
            trainer: what to train.
            batches: global batches.
            clock: marks the end of each step.
            inspect: looks at the gradients of each step.
            after_step: is called behind each step.
        """
        if clock is not None:
            # What compiling and warm-up left would be collected in the middle of a step, which stands still for it.
            gc.collect()
            clock.mark()
        for batch in batches:
            self._first_step_at = self._first_step_at or time.time()
            self._taken.append(trainer.train_step(batch, inspect))
            if clock is not None:
                clock.mark()
            if after_step is not None:
                after_step()
            if self._first_step_seconds is None:
                self._taken[0].result()
                self._first_step_seconds = time.time() - self._first_step_at
            beat()
        if self._taken:
            self._taken[-1].result()
            self._last_step_at = time.time()

    def counted(self) -> dict[str, list[int]]:
        """Return the numbers of each step, by the thing that is counted."""
        results = [taken.result() for taken in self._taken]
        return {
            "answer tokens": [result.num_scored for result in results],
            "tokens": [result.num_tokens for result in results],
            "token pairs": [result.num_token_pairs for result in results],
            **{
                f"items of {module}": [result.num_items[module] for result in results]
                for module in results[0].num_items
            },
        }

    def record(self, trainer: Trainer, mode: Mode, *, phases: Phases, **found: Any) -> RankRecord:
        """The rank's record; `found` are the fields that the mode adds."""
        topology, results = trainer.topology, [taken.result() for taken in self._taken]
        is_on_cpu = self.clock.kind == "wall"
        return RankRecord(
            rank=topology.rank,
            mode=mode,
            host=socket.gethostname(),
            device="cpu" if is_on_cpu else torch.cuda.get_device_name(),
            modules=topology.modules,
            seed_used=trainer.config.seed,
            started_at=phases.started_at,
            first_step_at=self._first_step_at,
            first_step_seconds=self._first_step_seconds,
            last_step_at=self._last_step_at,
            losses=tuple(finite(result.loss) for result in results),
            grad_norms={
                module: tuple(finite(result.grad_norms[module]) for result in results)
                for module in topology.layout.modules
                if not trainer.config.training.is_frozen(module)
            },
            scored=tuple(result.num_scored for result in results),
            tokens=tuple(result.num_tokens for result in results),
            token_pairs=tuple(result.num_token_pairs for result in results),
            items={
                module: tuple(result.num_items[module] for result in results) for module in topology.layout.encoders
            },
            clock=self.clock.kind,
            step_seconds=self.clock.step_seconds(),
            phases=phases.seconds,
            pid=os.getpid(),
            **found,
        )


def finite(value: float) -> float | None:
    """The value, or None for what a record cannot hold: NaN and infinity are unknown numbers."""
    return value if math.isfinite(value) else None
