"""Entry of `mimo-bench train`: the trainer's own API, on a layout of a scenario.

The trainer's log has one line a step and evaluation; the command reads it from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mimo_bench.bench.request import TrainRequest
from mimo_bench.launch import beat
from mimo_bench.models import manifest_of, write_manifest
from mimo_bench.trainer import Logging, Pretraining, Saving, Validation, join, set_up, train, write_weights


def main(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train as `rank` of `world_size`, and write the weights if the request names a directory."""
    request = TrainRequest.of(arguments)
    device, scenario = join(request.device_kind), request.scenario
    saving = validation = None
    if request.checkpoints is not None:
        saving = Saving(directory=request.checkpoints, every=request.checkpoint_every)
    if request.validate_every is not None:
        validation = Validation(every=request.validate_every, num_batches=scenario.evaluation.num_batches)
    run = Pretraining.of(
        scenario,
        request.layout,
        num_steps=request.num_steps,
        weights=request.start,
        validation=validation,
        saving=saving,
        logging=Logging(directory=request.directory, module_grad_norms=True),
    )
    layout = scenario.case(request.layout).layout
    trainer = set_up(run, layout=layout, data=scenario.data, device=device)
    beat()
    train(trainer, run, data=scenario.data, on_step=lambda *_: beat())
    if request.save is not None:
        files = write_weights(trainer.model, trainer.topology, request.save, on_tensor=beat)
        if files is not None:
            write_manifest(request.save, manifest_of(scenario.shape, files))
