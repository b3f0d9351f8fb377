"""Entries for the tests of the trainer: build it, and write to `folder` what a test looks at."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from megatron.core.models.mimo.config.role import MIMO_LANGUAGE_MODULE_KEY
from torch.distributed import distributed_c10d
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mimo_bench.data.prepare import build_dataset
from mimo_bench.layout.settings import Precision
from mimo_bench.meters.communication.interception import Interceptor
from mimo_bench.meters.memory import held_by_module
from mimo_bench.models.kernels.rng import CHUNK
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.trainer import gradients as grads
from mimo_bench.trainer.device import RankDevice, join
from mimo_bench.trainer.model import hosted_modules
from mimo_bench.trainer.stored import write_weights
from mimo_bench.trainer.trainer import Trainer, TrainerConfig, build_trainer
from mimo_bench.trainer.weights import shards

BUILDERS = ("build_topology", "build_model", "fill_weights", "wrap_data_parallel", "build_optimizer", "build_schedule")
"""The parts of `build_trainer` that could make a group."""


def observe(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Leave in `rank<k>.pt` what many tests look at: the groups that were made, the starting weights, the first step.

    With a `chunk`, weights are drawn and gathered that many elements at a time.
    """
    device = join("cpu")
    with patch("mimo_bench.trainer.weights.CHUNK", arguments.get("chunk", CHUNK)), _recorded_groups() as made:
        trainer = build(arguments, device)
        found = {"groups": _groups(trainer, made), "weights": _weights(trainer), "step": _step(trainer)}
    torch.save(found, Path(arguments["folder"]) / f"rank{rank}.pt")


def _weights(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """Return every starting weight by canonical name: full, as held, and which positions are held."""
    return {
        shard.name: {
            # Gathering is collective over the tensor-parallel group, so every rank does it.
            "full": shard.gather(shard.parameter.detach()).clone(),
            "local": shard.parameter.detach().clone(),
            "positions": torch.cat([*shard.positions()]),
            "is_split": shard.dim is not None,
        }
        for shard in shards(trainer.model, trainer.topology)
    }


@contextmanager
def _recorded_groups() -> Iterator[list[dict[str, Any]]]:
    """Record each group that is made, with its role and the builder that makes it."""
    made: list[dict[str, Any]] = []

    def recorded(new_group: Callable[..., Any]) -> Callable[..., Any]:
        def call(ranks: list[int] | None = None, *args: Any, **kwargs: Any) -> Any:
            maker = [frame.name for frame in traceback.extract_stack() if frame.name in BUILDERS]
            made.append({"ranks": ranks, "role": kwargs.get("group_desc"), "maker": maker})
            return new_group(ranks, *args, **kwargs)

        return call

    # The first serves those who make groups one by one, the second those who enumerate them.
    with (
        patch.object(dist, "new_group", recorded(dist.new_group)),
        patch.object(distributed_c10d, "new_group", recorded(distributed_c10d.new_group)),
    ):
        yield made


def _groups(trainer: Trainer, made: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the groups in the order of their making, the names of those that the rank is in, and those of modules."""
    return {
        "made": list(made),
        "mine": sorted(group.group_desc for group in distributed_c10d._world.pg_map),
        "names": {
            "megatron-core": MIMO_LANGUAGE_MODULE_KEY,
            "all": [sorted(known) for known in (trainer.topology.grids, trainer.optimizer.module_infos)],
            "held": [sorted(known) for known in (trainer.topology.modules, trainer.model.role.modules)],
        },
    }


def _step(trainer: Trainer) -> dict[str, Any]:
    """Return what the rank knows of the first optimizer step, and how many answer tokens it scored itself."""
    batch = trainer.loader.global_batch("train", 0)
    mine = [int(part.loss_mask.sum()) for part in batch if part.loss_mask is not None]
    result = trainer.train_step(batch).result()
    return {
        "loss": result.loss,
        "grad_norms": result.grad_norms,
        "num_tokens": result.num_tokens,
        "num_token_pairs": result.num_token_pairs,
        "num_items": result.num_items,
        "totals": trainer.totals.read(),
        "scored_here": sum(mine),
    }


def pass_weights_on(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Start from the weights stored in `weights` and write them to `folder` again, without a step."""
    trainer = build(arguments)
    files = write_weights(trainer.model, trainer.topology, Path(arguments["folder"]))
    assert (files is None) == (rank != 0)
    if files is not None:
        leave(arguments, rank, {name: file.sha256 for name, file in files.items()})


def list_operations(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Leave the name of every operation on tensors that a step makes."""
    trainer = build(arguments)
    batch = trainer.loader.global_batch("train", 0)
    with _Names() as names:
        trainer.train_step(batch)
    leave(arguments, rank, sorted(names.seen))


class _Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(func.overloadpacket).removeprefix("aten."))
        return func(*args, **(kwargs or {}))


def finish_gradients_twice(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Leave what megatron-core's finalisation is asked for, first with `force_all_reduce`, then without."""
    trainer = build(arguments)
    names = {id(module): name for name, module in hosted_modules(trainer.model)}
    calls: list[dict[str, Any]] = []

    def record(models: list[Any], num_tokens: Any, *, pg_collection: Any, force_all_reduce: bool) -> None:
        (name,) = (names[id(model)] for model in models)
        own_groups = pg_collection is trainer.topology.groups[name]
        calls.append(
            {"module": name, "force": force_all_reduce, "own_groups": own_groups, "divides": num_tokens is not None}
        )

    grads.finalize_model_grads = record  # type: ignore[attr-defined]  # imported there
    # As the schedules call it.
    finish = trainer.model.config.finalize_model_grads_func
    for force in (True, False):
        finish([trainer.model], torch.tensor(1), pg_collection=None, force_all_reduce=force)
    leave(arguments, rank, calls)


def count_flops(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Leave the operations of one forward and backward pass as torch counts them, and what was fed."""
    trainer = build(arguments)
    batch = trainer.loader.global_batch("train", 0)
    trainer.totals.reset()
    # The plain kernel, as torch counts nothing for the fused one of CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        trainer.schedule(batch, forward_only=False)
    totals = trainer.totals.read()
    fed = {name: round(totals[name]) for name in ("tokens", "token_pairs")}
    items = {name: round(totals[grads.items_total(name)]) for name in trainer.topology.layout.encoders}
    leave(arguments, rank, {"flops": counter.get_total_flops(), "items": items, **fed})


def meter_a_step(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Leave what the rank holds from step to step by module, and every call that the second step made."""
    trainer = build(arguments, precision=arguments["scenario"]["precision"])
    batch = trainer.loader.global_batch("train", 0)
    # Adam makes its moments in the first step.
    trainer.train_step(batch)
    held = held_by_module(trainer)
    interceptor = Interceptor()
    with interceptor.watching():
        trainer.train_step(batch)
    calls = [
        {"role": call.role, "collective": call.collective, "ranks": call.ranks, "bytes": call.num_bytes}
        for call in interceptor.calls
        if len(call.ranks) > 1
    ]
    leave(arguments, rank, {"held": {module: asdict(kept) for module, kept in held.items()}, "calls": calls})


def build(arguments: Mapping[str, Any], device: RankDevice | None = None, *, precision: Precision = "fp32") -> Trainer:
    """The trainer of the layout, with the settings that it declares."""
    scenario = Scenario.model_validate_json(json.dumps(arguments["scenario"]))
    weights = Path(arguments["weights"]) if "weights" in arguments else None
    config = replace(TrainerConfig.of(scenario, arguments["layout"], weights=weights), precision=precision)
    dataset = build_dataset(scenario.data, shape=scenario.shape, seq_length=scenario.seq_length, seed=scenario.seed)
    return build_trainer(config, dataset=dataset, device=device or join("cpu"))


def leave(arguments: Mapping[str, Any], rank: int, what: Any) -> None:
    (Path(arguments["folder"]) / f"rank{rank}.json").write_text(json.dumps(what), encoding="utf-8")
