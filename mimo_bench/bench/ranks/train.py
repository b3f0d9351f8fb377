"""What each rank runs for `mimo-bench train`: the trainer's own API, on a layout of a scenario.

    command: train_command -> launch -> [rank: train_worker] -> trainer

The trainer's own log has every step and evaluation on a line; the command reads it from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mimo_bench.launch import beat
from mimo_bench.models import Manifest, write_manifest
from mimo_bench.scenario import Scenario
from mimo_bench.trainer import Logging, Pretraining, Saving, Validation, join, set_up, train, write_weights


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
    directory: Path
    """Takes the log."""
    save: Path | None
    """The directory that takes the weights after the last step."""
    checkpoints: Path | None
    """The directory that training goes on from and saves to; None for no checkpoints."""
    checkpoint_every: int | None
    """Steps between two checkpoints; None for one after the last step alone."""
    validate_every: int | None
    """Steps between two evaluations of the scenario's held-out batches; None for none."""


def main(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train as `rank` of `world_size`, and write the weights if that was asked for."""
    asked = TrainArguments.model_validate_json(json.dumps(arguments))
    device, scenario = join(asked.device_kind), asked.scenario
    saving = validation = None
    if asked.checkpoints is not None:
        saving = Saving(directory=asked.checkpoints, every=asked.checkpoint_every)
    if asked.validate_every is not None:
        validation = Validation(every=asked.validate_every, num_batches=scenario.evaluation.num_batches)
    run = Pretraining.of(
        scenario,
        asked.layout,
        num_steps=asked.num_steps,
        weights=asked.weights,
        validation=validation,
        saving=saving,
        logging=Logging(directory=asked.directory, module_grad_norms=True),
    )
    layout = scenario.table(asked.layout).grids()
    trainer = set_up(run, layout=layout, data=scenario.data, device=device)
    beat()
    train(trainer, run, data=scenario.data, on_step=lambda *_: beat())
    if asked.save is not None:
        files = write_weights(trainer.model, trainer.topology, asked.save, on_tensor=beat)
        if files is not None:
            write_manifest(asked.save, Manifest(shape=scenario.shape, files=files))
