"""Entries for the tests of checkpoints: train, save, resume, and write every number that comes out."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mimo_bench.models.kernels.rng import digest
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.trainer.checkpoint.load import resume
from mimo_bench.trainer.checkpoint.save import Saver
from mimo_bench.trainer.checkpoint.state import OptimizerState
from mimo_bench.trainer.stored import write_weights
from mimo_bench.trainer.trainer import Trainer
from mimo_bench.trainer.weights import shards
from mimo_bench.util.errors import CheckpointError, WeightsError
from tests.ranks.trainer_entries import build, leave


def train(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train from step 0, or from the newest checkpoint, to `until`; save after each step of `save_after`.

    With `drift` the last stage's copy of a tied weight moves by so much first. With `write_to`, weights are written
    there at the end. With `file_bytes` the disk takes no larger file. A `directory` with `{rank}` in it is another one
    on every rank.
    """
    made = Scenario.model_validate_json(json.dumps(arguments["scenario"]))
    held_fixed = {"seed": made.seed, "training": made.training.model_dump(mode="json")}
    trainer = build(arguments, precision=made.precision)
    directory = Path(arguments["directory"].format(rank=rank))
    found: dict[str, Any] = {"losses": [], "problem": None}
    resumed = None
    try:
        resumed = resume(trainer, directory, held_fixed=held_fixed) if arguments["resume"] else None
    except CheckpointError as error:
        found["problem"] = str(error)
    found["resumed_after"], found["passed_over"] = (resumed.num_steps, resumed.passed_over) if resumed else (None, ())
    if "file_bytes" in arguments:
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments["file_bytes"], resource.RLIM_INFINITY))
    if found["problem"] is None:
        problems: list[str | None] = []
        saver = Saver(
            trainer,
            directory,
            held_fixed=held_fixed,
            keep_last=arguments.get("keep_last", 2),
            in_background=arguments.get("in_background", False),
        )
        if "drift" in arguments:
            for shard in shards(trainer.model, trainer.topology):
                shard.parameter.data += arguments["drift"] if shard.is_copy else 0.0
        while (step := trainer.optimizer.num_steps) < arguments["until"]:
            found["losses"].append(trainer.train_step(trainer.loader.global_batch("train", step)).result().loss)
            if trainer.optimizer.num_steps in arguments["save_after"]:
                problems.append(_problem(saver.save))
        problems.append(_problem(saver.wait))
        found["problem"] = next((problem for problem in problems if problem is not None), None)
        found["digests"] = _digests(trainer)
    if "write_to" in arguments:
        found["weights_problem"] = _problem(
            lambda: write_weights(trainer.model, trainer.topology, Path(arguments["write_to"]))
        )
    leave(arguments, rank, found)


def _problem(act: Callable[[], object]) -> str | None:
    try:
        act()
    except (CheckpointError, WeightsError) as error:
        return str(error)
    return None


def _digests(trainer: Trainer) -> dict[str, dict[str, str]]:
    state = OptimizerState(trainer.optimizer)
    return {
        shard.name: {kind: digest(tensor) for kind, tensor in state.read(shard).items()}
        for shard in shards(trainer.model, trainer.topology)
    }
