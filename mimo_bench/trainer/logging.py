"""Results of steps and evaluations, and their log: console, `metrics.jsonl`, and TensorBoard if installed. No torch.

Every rank holds every number; the first one writes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import InstanceOf

from mimo_bench.data import Split
from mimo_bench.trainer.arguments import check_fields
from mimo_bench.util import PositiveInt, write_atomically


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """One optimizer step over the whole job; the same on every rank."""

    loss: float
    """Mean cross-entropy per answer token."""
    grad_norms: dict[str, float]
    """Before clipping, by module that is trained."""
    num_tokens: int
    """Language positions that are not padding."""
    num_token_pairs: int
    """Sum over samples of the squared number of those positions."""
    num_items: dict[str, int]
    """Items that encoders read, such as images, by encoder."""
    num_scored: int
    """Answer tokens: the divisor of loss and gradients."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationTotals:
    """Held-out samples scored without training on them; the same on every rank."""

    loss: float
    """Mean cross-entropy per answer token."""
    answer_accuracy: float
    """Share of answer tokens that the model ranks first."""
    num_samples: int
    num_scored: int
    """Answer tokens."""


METRICS = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Logging:
    """Console, file and TensorBoard output of a training."""

    directory: InstanceOf[Path] | None = None
    """Takes `metrics.jsonl`, one line a step, and TensorBoard's events; None for the console alone."""
    every: PositiveInt = 1
    """Steps between two lines on the console."""
    module_grad_norms: bool = False
    """Also the gradient norm of each module before clipping."""
    tensorboard: bool = True
    """Write events as well, if TensorBoard is installed."""

    def __post_init__(self) -> None:
        check_fields(self, "logging.")


class Metrics:
    """Writes down the steps of one training; on ranks other than the first it does nothing."""

    def __init__(self, logging: Logging, *, num_steps: int, first_step: int, is_writer: bool) -> None:
        """Continue after `first_step` steps of `num_steps`; lines of later steps are removed."""
        self._logging = logging
        self._num_steps = num_steps
        self._is_writer = is_writer
        self._started_at = self._step_began_at = time.perf_counter()
        self._first_step = first_step
        self._board: Any = None
        self._path: Path | None = None
        if is_writer and logging.directory is not None:
            logging.directory.mkdir(parents=True, exist_ok=True)
            self._path = logging.directory / METRICS
            _cut(self._path, num_steps=first_step)
            if logging.tensorboard and find_spec("tensorboard") is not None:
                from torch.utils.tensorboard.writer import SummaryWriter

                # What it purges begins with that step.
                self._board = SummaryWriter(str(logging.directory), purge_step=first_step + 1)

    def begin(self, *, skipped_samples: Mapping[Split, int], passed_over: Sequence[str]) -> None:
        """Write down what the training does without, if anything: bad samples by split, and damaged checkpoints."""
        if skipped_samples or passed_over:
            found = {"skipped_samples": dict(skipped_samples), "passed_over": list(passed_over)}
            self._log({"step": self._first_step, **found})

    def step(self, num_steps: int, result: StepResult, *, learning_rates: dict[str, float], num_samples: int) -> float:
        """Write down the step after which `num_steps` have been taken; returns the seconds that it took."""
        now = time.perf_counter()
        seconds, self._step_began_at = now - self._step_began_at, now
        found: dict[str, Any] = {
            "step": num_steps,
            "loss": result.loss,
            "grad_norm": sum(norm**2 for norm in result.grad_norms.values()) ** 0.5,
            "learning_rate": learning_rates,
            "step_seconds": seconds,
            "tokens_per_second": result.num_tokens / seconds,
            "samples_per_second": num_samples / seconds,
        }
        if self._logging.module_grad_norms:
            found["grad_norms"] = result.grad_norms
        self._write(found)
        if self._is_writer and (num_steps % self._logging.every == 0 or num_steps == self._num_steps):
            rates = " ".join(f"{name} {rate:.2e}" for name, rate in learning_rates.items())
            print(
                f"step {num_steps}/{self._num_steps}: loss {result.loss:.6f}, gradient norm {found['grad_norm']:.4g}, "
                f"rate {rates}, {found['tokens_per_second']:,.0f} tokens/s, {seconds:.3g} s/step, ends in "
                f"{self._left(num_steps, now)}",
                flush=True,
            )
        return seconds

    def evaluation(self, num_steps: int, split: Split, totals: EvaluationTotals) -> None:
        """Write down an evaluation after `num_steps` steps; its time is no step's."""
        self._write(
            {
                "step": num_steps,
                f"{split}_loss": totals.loss,
                f"{split}_answer_accuracy": totals.answer_accuracy,
                f"{split}_samples": totals.num_samples,
            }
        )
        if self._is_writer:
            print(
                f"step {num_steps}: {split} loss {totals.loss:.6f}, {totals.answer_accuracy:.1%} of answer tokens "
                f"right over {totals.num_samples} samples",
                flush=True,
            )
        self.resume_clock()

    def resume_clock(self) -> None:
        """Restart the clock of steps: evaluations and checkpoints belong to none."""
        self._step_began_at = time.perf_counter()

    def close(self) -> None:
        """Close the log."""
        if self._board is not None:
            self._board.close()

    def _left(self, num_steps: int, now: float) -> timedelta:
        """The time that the remaining steps take, at the pace so far."""
        pace = (now - self._started_at) / (num_steps - self._first_step)
        return timedelta(seconds=round(pace * (self._num_steps - num_steps)))

    def _log(self, found: dict[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(_finite(found), allow_nan=False) + "\n")

    def _write(self, found: dict[str, Any]) -> None:
        self._log(found)
        if self._board is not None:
            for name, value in _flat(found):
                self._board.add_scalar(name, value, global_step=found["step"])


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Every line of the `metrics.jsonl` in `directory`."""
    return [json.loads(line) for line in (directory / METRICS).read_text(encoding="utf-8").splitlines()]


def _cut(path: Path, *, num_steps: int) -> None:
    """Remove lines after step `num_steps`, and a line that a killed process left half-written."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if found["step"] <= num_steps:
            kept.append(line)
    # Another file: a reader that follows the log sees that it was replaced.
    write_atomically(path, "".join(f"{line}\n" for line in kept).encode())


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite by None; JSON has none."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(found: dict[str, Any]) -> list[tuple[str, float]]:
    flat = []
    for name, value in found.items():
        if isinstance(value, dict):
            flat += [(f"{name}/{inner}", part) for inner, part in value.items()]
        elif name != "step":
            flat.append((name, value))
    return flat
