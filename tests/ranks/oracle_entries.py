"""Entries for the oracle: logits, gradients and weights after optimizer steps, in full tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from mimo_bench.data.prepare import build_dataset
from mimo_bench.layout.layout import LANGUAGE
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.trainer import step
from mimo_bench.trainer.device import join
from mimo_bench.trainer.trainer import Trainer, TrainerConfig, build_trainer
from mimo_bench.trainer.weights import Shard, shards

_GATHER = "gather_from_tensor_model_parallel_region"
"""Function that the trainer calls on its logits to score them."""


def pass_and_steps(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Run the first global batch of a layout forward and backward, then train from the start.

    `arguments` holds the scenario as JSON, the name of a layout, `device_kind` (cpu), `num_steps` of training (0) and
    the folder that takes `rank<k>.pt`: the loss of every pass, and what the rank speaks for of the rest: weights,
    gradients and the weights after the steps by canonical name, logits by sample id.
    """
    scenario = Scenario.model_validate_json(json.dumps(arguments["scenario"]))
    trainer = _build(scenario, arguments["layout"], arguments.get("device_kind", "cpu"))
    left: dict[str, Any] = {"logits": _logits(trainer), "weights": _told(trainer, lambda shard: shard.parameter)}
    trainer.model.zero_grad_buffer()
    trainer.totals.reset()
    trainer.schedule(trainer.loader.global_batch("train", 0), forward_only=False)
    totals = trainer.totals.read()
    left["loss"] = totals["loss"] / totals["scored_tokens"]
    left["gradients"] = _told(
        trainer,
        lambda shard: getattr(shard.parameter, "main_grad", None),  # what is frozen has none
    )
    steps = (trainer.loader.global_batch("train", step) for step in range(arguments.get("num_steps", 0)))
    left["losses"] = [trainer.train_step(batch).result().loss for batch in steps]
    left["trained"] = _told(trainer, lambda shard: shard.parameter)
    torch.save(left, Path(arguments["folder"]) / f"rank{rank}.pt")


def _told(trainer: Trainer, of: Callable[[Shard], torch.Tensor | None]) -> dict[str, torch.Tensor]:
    """The full tensors that this rank speaks for, of those that there are, on the host."""
    told = {}
    for shard in shards(trainer.model, trainer.topology):
        if (local := of(shard)) is None:
            continue
        # Gathering is collective over the tensor-parallel group, so every rank does it.
        whole = shard.gather(local.detach())
        if shard.holder == 0:
            told[shard.name] = whole.cpu().clone()
    return told


def _logits(trainer: Trainer) -> dict[int, torch.Tensor]:
    """The logits of every sample that this rank scores for its replica, [s, vocabulary], as they are scored."""
    batch = trainer.loader.global_batch("train", 0)
    seen: list[torch.Tensor] = []
    gather = getattr(step, _GATHER)

    def recorded(logits: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append(gather(logits, **options))
        return seen[-1]

    setattr(step, _GATHER, recorded)
    try:
        with torch.no_grad():
            trainer.schedule(batch, forward_only=True)
    finally:
        setattr(step, _GATHER, gather)
    if not trainer.topology.speaks_for_replica(LANGUAGE):
        return {}
    words = slice(trainer.config.shape.language.vocab_size)  # the rest is padding
    return {
        sample_id: row[:, words].cpu().clone()
        for part, logits in zip(batch, seen, strict=len(seen) > 0)
        for sample_id, row in zip(part.sample_ids[LANGUAGE], logits, strict=True)
    }


def _build(scenario: Scenario, layout: str, device_kind: Literal["cpu", "cuda"]) -> Trainer:
    return build_trainer(
        TrainerConfig.of(scenario, layout),
        dataset=build_dataset(scenario.data, shape=scenario.shape, seq_length=scenario.seq_length, seed=scenario.seed),
        device=join(device_kind),
    )
