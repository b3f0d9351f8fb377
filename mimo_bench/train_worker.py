"""What each rank runs for `mimo-bench train`: the trainer's own API, on a layout of a scenario.

    command: train_command -> launch -> [rank: train_worker] -> trainer

Rank 0 tells every step on a line of `train.jsonl`; the command reads it from there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mimo_bench.launch.progress import beat
from mimo_bench.scenario import Scenario
from mimo_bench.trainer.api import set_up, train
from mimo_bench.trainer.device import join
from mimo_bench.trainer.pretraining import Pretraining, Saving
from mimo_bench.trainer.results import StepResult
from mimo_bench.trainer.stored import write_weights
from mimo_bench.weights.directory import Manifest, write_manifest


class TrainArguments(BaseModel):
    """One training, as the command asks for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario: Scenario
    layout: str
    weights: Path | None
    """Where training starts from; None draws weights from the seed."""
    num_steps: int
    """From the very first; those that a checkpoint holds are not taken again."""
    device_kind: Literal["cpu", "cuda"]
    log: Path
    """The file that takes a line for every step."""
    save: Path | None
    """The directory that takes the weights after the last step."""
    checkpoints: Path | None
    """The directory that training goes on from and saves to; None for no checkpoints."""
    checkpoint_every: int | None
    """Steps between two checkpoints; None for one after the last step alone."""


def main(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train as `rank` of `world_size`, and write the weights if that was asked for."""
    asked = TrainArguments.model_validate_json(json.dumps(arguments))
    device, scenario = join(asked.device_kind), asked.scenario
    saving = None
    if asked.checkpoints is not None:
        saving = Saving(directory=asked.checkpoints, every=asked.checkpoint_every)
    run = Pretraining.of(scenario, asked.layout, num_steps=asked.num_steps, weights=asked.weights, saving=saving)
    layout = scenario.table(asked.layout).grids()
    trainer = set_up(run, layout=layout, data=scenario.data, device=device)
    beat()

    def tell(num_steps: int, result: StepResult, seconds: float) -> None:
        if rank == 0:
            with asked.log.open("a", encoding="utf-8") as log:
                log.write(_line(num_steps, result, seconds=seconds) + "\n")
        beat()

    train(trainer, run, data=scenario.data, on_step=tell)
    if asked.save is not None:
        files = write_weights(trainer.model, trainer.topology, asked.save, on_tensor=beat)
        if files is not None:
            write_manifest(asked.save, Manifest(shape=scenario.shape, files=files))


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
