"""What each rank runs for `mimo-bench train`: the packaged trainer by itself, step after step.

    command: train_command -> launch -> [rank: train_worker] -> trainer

Rank 0 tells every step on a line of `train.jsonl`; the command reads it from there.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mimo_bench.errors import TrainingError
from mimo_bench.launch.progress import beat
from mimo_bench.scenario import Scenario
from mimo_bench.trainer.data.prepare import prepare
from mimo_bench.trainer.data.registry import build_dataset
from mimo_bench.trainer.device import join
from mimo_bench.trainer.stored import write_weights
from mimo_bench.trainer.trainer import StepResult, Trainer, TrainerConfig, build_trainer
from mimo_bench.weights.directory import Manifest, write_manifest


class TrainArguments(BaseModel):
    """One training, as the command asks for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario: Scenario
    layout: str
    weights: Path | None
    """Where training starts from; None draws weights from the seed."""
    num_steps: int
    device_kind: Literal["cpu", "cuda"]
    log: Path
    """The file that takes a line for every step."""
    save: Path | None
    """The directory that takes the weights after the last step."""


def main(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train as `rank` of `world_size`, and write the weights if that was asked for."""
    asked = TrainArguments.model_validate_json(json.dumps(arguments))
    device, scenario = join(asked.device_kind), asked.scenario
    dataset = build_dataset(scenario.data, shape=scenario.shape, seq_length=scenario.seq_length, seed=scenario.seed)
    skipped = prepare(dataset, scenario.data, {"train": asked.num_steps * scenario.global_batch_size})
    for reasons in skipped.values():
        print(*reasons.values(), sep="\n")
    config = TrainerConfig.of(scenario, asked.layout, weights=asked.weights)
    trainer = build_trainer(config, dataset=dataset, device=device)
    beat()
    train(trainer, asked, tells=rank == 0)
    if asked.save is not None:
        files = write_weights(trainer.model, trainer.topology, asked.save, on_tensor=beat)
        if files is not None:
            write_manifest(asked.save, Manifest(shape=scenario.shape, files=files))


def train(trainer: Trainer, asked: TrainArguments, *, tells: bool) -> None:
    """Take all steps; the rank that `tells` logs each of them.

    Raises:
        TrainingError: a loss is infinite or no number, on every rank alike.
    """
    since = time.perf_counter()
    batches = trainer.loader.batches("train")
    for step, batch in enumerate(islice(batches, asked.num_steps)):
        result = trainer.train_step(batch)
        now = time.perf_counter()
        if tells:
            with asked.log.open("a", encoding="utf-8") as log:
                log.write(_line(step + 1, result, seconds=now - since) + "\n")
        since = now
        beat()
        if not math.isfinite(result.loss):
            raise TrainingError(f"the loss of step {step + 1} is {result.loss}; lower training.learning_rate")


def _line(step: int, result: StepResult, *, seconds: float) -> str:
    """One step in JSON; what is no finite number is null."""
    told = {
        "step": step,
        "loss": _finite(result.loss),
        "grad_norms": {module: _finite(norm) for module, norm in result.grad_norms.items()},
        "num_tokens": result.num_tokens,
        "seconds": seconds,
    }
    return json.dumps(told, allow_nan=False)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
