"""What ranks do for the oracle: one forward and backward pass, and leave weights and gradients in full tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mimo_bench.scenario import Scenario
from mimo_bench.trainer.data.registry import build_dataset
from mimo_bench.trainer.device import join
from mimo_bench.trainer.trainer import Trainer, TrainerConfig, build_trainer
from mimo_bench.trainer.weights import shards


def one_pass(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Run the first global batch of a layout forward and backward, without an optimizer step.

    `arguments` holds the scenario as JSON, the name of a layout and the folder that takes `rank<k>.pt`: the loss, and
    by canonical name the weights and gradients that the rank speaks for.
    """
    trainer = _build(Scenario.model_validate_json(json.dumps(arguments["scenario"])), arguments["layout"])
    trainer.model.zero_grad_buffer()
    trainer.totals.reset()
    trainer.schedule(trainer.loader.global_batch("train", 0), forward_only=False)
    totals = trainer.totals.read()
    full: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "gradients": {}}
    for shard in shards(trainer.model, trainer.topology):
        # Gathering is collective over the tensor-parallel group, so every rank does it.
        held = {"weights": shard.parameter.detach()}
        if shard.parameter.requires_grad:
            held["gradients"] = shard.parameter.main_grad  # type: ignore[attr-defined]
        where = trainer.topology.layout.modules[shard.module].coordinate(rank)
        for kind, tensor in held.items():
            whole = shard.gather(tensor)
            if (where.tp, where.dp) == (0, 0):
                full[kind][shard.name] = whole
    torch.save(
        {"loss": totals["loss"] / totals["scored_tokens"], **full},
        Path(arguments["folder"]) / f"rank{rank}.pt",
    )


def _build(scenario: Scenario, layout: str) -> Trainer:
    return build_trainer(
        TrainerConfig.of(scenario, layout),
        dataset=build_dataset(scenario.data, shape=scenario.shape, seq_length=scenario.seq_length, seed=scenario.seed),
        device=join("cpu"),
    )
