"""Entries for the tests of the Python API: train as a user's script does, and write how it ended."""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.mimo.model.base import MimoModel

from examples import stop_and_go
from examples.digits_stages import run_stage
from mimo_bench.launch.progress import beat
from mimo_bench.models import ModelShape
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.trainer import (
    EvaluationTotals,
    Logging,
    Pretraining,
    Saving,
    Validation,
    api,
    build_model,
    evaluate,
    join,
    pretrain,
    set_up,
)
from mimo_bench.trainer.logging import METRICS
from mimo_bench.util.errors import CheckpointError, DataError, WeightsError


def stage(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """One stage of the example; `kill_after` that many steps the first rank dies as by `kill -9`."""
    out, number = Path(arguments["out"]), arguments["stage"]
    if rank == 0 and arguments["kill_after"]:
        metrics = out / f"stage{number}" / METRICS
        threading.Thread(target=_kill_after, args=(metrics, arguments["kill_after"]), daemon=True).start()
    run_stage(out, number, arguments["layout"], num_steps=arguments["num_steps"], save_every=2)


def both_stages(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Both stages of the example, in one process; `joins` the world first, as a script with plans of its own does."""
    if arguments["joins"]:
        join("cpu")
    for number in (1, 2):
        run_stage(Path(arguments["out"]), number, "disjoint", num_steps=2, save_every=2)
        assert dist.is_initialized() == arguments["joins"]


def run_script(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Run a script of the examples, as torchrun would."""
    runpy.run_path(str(Path(stop_and_go.__file__).with_name(arguments["script"])), run_name="__main__")


def train_example(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train as a rank of `stop_and_go.py`; its steps count from the first of all."""
    folder = Path(arguments["folder"])
    stop_and_go.train(
        Scenario.model_validate_json(json.dumps(arguments["scenario"])),
        arguments["layout"],
        num_steps=arguments["steps"],
        checkpoints=Path(arguments["checkpoints"]),
        told=folder / f"{arguments['steps']}.json",
    )


def drop(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train a model with dropout, in one go and in two halves; leave the losses of both, and where it dropped."""
    drops_where: list[bool] = []

    def drop_some(projector: torch.nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        drops_where.append(projector.training == torch.is_grad_enabled())
        return torch.nn.functional.dropout(output, 0.5, training=projector.training)

    def provider(shape: ModelShape, **build: Any) -> MimoModel:
        model = build_model(shape, **build)
        for module in model.modality_submodules.values():
            module.input_projections[0].register_forward_hook(drop_some)
        return model

    made, folder = Scenario.model_validate_json(json.dumps(arguments["scenario"])), Path(arguments["folder"])

    def go(num_steps: int, saving: Saving | None) -> api.Outcome:
        validation = Validation(every=2, num_batches=1)
        config = Pretraining.of(made, arguments["layout"], num_steps=num_steps, saving=saving, validation=validation)
        layout = made.table(arguments["layout"]).grids()
        return pretrain(config, layout=layout, provider=provider, device="cpu")

    whole = go(4, None)
    saving = Saving(directory=folder / "checkpoints")
    halves = [go(num_steps, saving) for num_steps in (2, 4)]
    found = {
        "whole": whole.losses,
        "halves": [loss for half in halves for loss in half.losses],
        "drops_in_training_alone": all(drops_where),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


def build_another(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train a model that is none of megatron-core's."""
    made = Scenario.model_validate_json(json.dumps(arguments["scenario"]))
    config = Pretraining.of(made, arguments["layout"], num_steps=1)
    another: Any = torch.nn.Linear(2, 2)
    pretrain(config, layout=made.table(arguments["layout"]).grids(), provider=lambda *_, **__: another, device="cpu")


def add_parameters(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train a model whose provider adds a parameter to the projector and one next to it, with `freeze` frozen.

    Then resume, and start from the weights, without the provider.
    """
    added: list[torch.nn.Parameter] = []

    def provider(shape: ModelShape, **build: Any) -> MimoModel:
        model = build_model(shape, **build)
        width = shape.language.hidden_size
        for module in model.modality_submodules.values():
            for place in (module.input_projections[0], module):
                place.gain = torch.nn.Parameter(torch.ones(width))
                place.register_forward_hook(lambda place, _, output: output * place.gain)
                added.append(place.gain)
        return model

    made, folder = Scenario.model_validate_json(json.dumps(arguments["scenario"])), Path(arguments["folder"])
    saving = Saving(directory=folder / "checkpoints")
    config = Pretraining.of(made, arguments["layout"], num_steps=1, saving=saving)
    pretrain(config, layout=made.table(arguments["layout"]).grids(), provider=provider, device="cpu")
    problems = []
    for more in ({"saving": saving}, {"weights": folder / "checkpoints" / "step-00000001"}):
        config = Pretraining.of(made, arguments["layout"], num_steps=2, **more)
        try:
            pretrain(config, layout=made.table(arguments["layout"]).grids(), device="cpu")
        except (CheckpointError, WeightsError) as error:
            problems.append(f"{type(error).__name__}: {error}")
    found = {"trained": [parameter.requires_grad for parameter in added], "problems": problems}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


def leave_nothing(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train, and see that not a weight of it is held any more."""
    held: list[weakref.ref[torch.Tensor]] = []

    def provider(shape: ModelShape, **build: Any) -> MimoModel:
        model = build_model(shape, **build)
        held.extend(weakref.ref(parameter) for parameter in model.parameters())
        return model

    made = Scenario.model_validate_json(json.dumps(arguments["scenario"]))
    config = Pretraining.of(made, arguments["layout"], num_steps=1)
    gc.disable()  # what is left to the collector may stay for long
    pretrain(config, layout=made.table(arguments["layout"]).grids(), provider=provider, device="cpu")
    assert held
    assert all(parameter() is None for parameter in held)


def train(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train a layout of a scenario through the API's parts, and write what the rank gets back."""
    made = Scenario.model_validate_json(json.dumps(arguments["scenario"]))
    every, folder = arguments["validate_every"], Path(arguments["folder"])
    config = Pretraining.of(
        made,
        arguments["layout"],
        num_steps=arguments["num_steps"],
        weights=Path(arguments["weights"]) if "weights" in arguments else None,
        validation=Validation(every=every, num_batches=2, num_test_batches=1) if every else None,
        saving=Saving(directory=folder / "checkpoints") if arguments.get("save") else None,
        logging=Logging(directory=folder, every=2, module_grad_norms=True, tensorboard=False),
    )
    layout, told = made.table(arguments["layout"]).grids(), folder / f"rank{rank}.json"
    trainer = set_up(config, layout=layout, data=made.data, device=join("cpu"))
    beat()
    try:
        outcome = api.train(trainer, config, data=made.data, on_step=lambda *_: beat())
    except DataError as error:
        workers = [thread.name for thread in threading.enumerate() if thread.name.startswith("loader")]
        told.write_text(json.dumps({"problem": str(error), "workers": workers}))
        raise
    found = {"losses": outcome.losses, "evaluation": _told(outcome.evaluation), "test": _told(outcome.test)}
    if every:
        found["test_again"] = _told(evaluate(trainer, "test", num_batches=1))
    told.write_text(json.dumps(found))


def _told(totals: EvaluationTotals | None) -> list[float] | None:
    return None if totals is None else [totals.loss, totals.num_samples]


def _kill_after(metrics: Path, num_steps: int) -> None:
    while not metrics.exists() or f'"step": {num_steps},' not in metrics.read_text():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)
