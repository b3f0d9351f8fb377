"""What ranks do for the tests of the Python API: train as a user's script does, and leave how it ended."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.digits_stages import run_stage
from mimo_bench.scenario import Scenario
from mimo_bench.trainer import Logging, Pretraining, Saving, Validation, pretrain
from mimo_bench.trainer.metrics import METRICS


def stage(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """One stage of the example; `kill_after` that many steps the first rank dies as by `kill -9`."""
    out, number = Path(arguments["out"]), arguments["stage"]
    if rank == 0 and arguments["kill_after"]:
        metrics = out / f"stage{number}" / METRICS
        threading.Thread(target=_kill_after, args=(metrics, arguments["kill_after"]), daemon=True).start()
    run_stage(out, number, arguments["layout"], num_steps=arguments["num_steps"], save_every=2)


def train(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train a layout of a scenario through the API, and leave what the rank is told in the end."""
    made = Scenario.model_validate_json(json.dumps(arguments["scenario"]))
    every, folder = arguments["validate_every"], Path(arguments["folder"])
    config = Pretraining.of(
        made,
        arguments["layout"],
        num_steps=arguments["num_steps"],
        validation=Validation(every=every, num_batches=2) if every else None,
        saving=Saving(directory=folder / "checkpoints") if arguments.get("save") else None,
        logging=Logging(directory=folder, every=2, module_grad_norms=True, tensorboard=False),
    )
    outcome = pretrain(config, layout=made.table(arguments["layout"]).grids(), data=made.data, device="cpu")
    evaluation = outcome.evaluation
    (folder / f"rank{rank}.json").write_text(
        json.dumps({"losses": outcome.losses, "evaluation": evaluation and [evaluation.loss, evaluation.num_samples]})
    )


def _kill_after(metrics: Path, num_steps: int) -> None:
    while not metrics.exists() or f'"step": {num_steps},' not in metrics.read_text():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)
