"""Goes on from a checkpoint, in whatever layout it was trained: every rank cuts its slices out of full tensors.

[load] -> state, files
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open

from mimo_bench.trainer.checkpoint.files import CheckpointManifest, check_continues, damaged, read_manifest, saved_in
from mimo_bench.trainer.checkpoint.state import MOMENTS, WEIGHT, OptimizerState, file_of
from mimo_bench.trainer.stored import unread_parameter
from mimo_bench.trainer.trainer import Trainer
from mimo_bench.trainer.weights import shards
from mimo_bench.util import CheckpointError


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """Checkpoint that a training resumed from; the same on every rank."""

    num_steps: int
    """Those that were taken before."""
    passed_over: tuple[str, ...]
    """What is wrong with each newer checkpoint, the newest first, as a sentence for the user."""


def resume(trainer: Trainer, directory: Path, *, held_fixed: Mapping[str, Any]) -> Resumed | None:
    """Take over the newest checkpoint in `directory` that is whole; collective over the world.

    Weights, moments and the schedule are then those of that step, and so is the place in the data, which the step
    decides; nothing else in a training is random. A checkpoint that is not whole is passed over, and the one before it
    is taken.

    Returns:
        Where training goes on; None where `directory` holds no checkpoint.

    Raises:
        CheckpointError: all checkpoints are damaged, the newest whole one is of another training, or ranks do not see
            the same ones.
    """
    problems = []
    for path in _seen_by_all(directory):
        manifest, problem = _open(path)
        if manifest is None:
            problems.append(problem)
            continue
        check_continues(path, manifest, held_fixed)
        load(trainer, path, num_steps=manifest.num_steps)
        passed_over = tuple(f"{problem}; resuming from the checkpoint before it" for problem in problems)
        return Resumed(num_steps=manifest.num_steps, passed_over=passed_over)
    if problems:
        raise CheckpointError(f"{directory}: no checkpoint is whole: {'; '.join(map(str, problems))}")
    return None


@torch.no_grad()
def load(trainer: Trainer, path: Path, *, num_steps: int) -> None:
    """Replace weights, moments and the count of steps by those of the checkpoint at `path`."""
    state = OptimizerState(trainer.optimizer)
    readers = _Readers(path)
    for shard in shards(trainer.model, trainer.topology):
        tensors = {}
        for kind in (WEIGHT, *MOMENTS) if shard.parameter.requires_grad else (WEIGHT,):
            whole = readers.read(shard.module, kind, shard.name)
            if tuple(whole.shape) != shard.full_shape:
                raise CheckpointError(
                    f"{path}: {shard.name} has shape {tuple(whole.shape)}, and the model's is {shard.full_shape}"
                )
            tensors[kind] = shard.cut(whole).to(shard.parameter.device)
        state.write(shard, tensors, num_steps=num_steps)
    if (problem := unread_parameter(path, trainer.model, trainer.topology)) is not None:
        raise CheckpointError(problem)
    trainer.optimizer.num_steps = num_steps


@torch.no_grad()
def load_weights(trainer: Trainer, path: Path) -> None:
    """Start from the weights in `path`, a directory of weights or a checkpoint of this model; moments are as before."""
    state, readers = OptimizerState(trainer.optimizer), _Readers(path)
    for shard in shards(trainer.model, trainer.topology):
        whole = readers.read(shard.module, WEIGHT, shard.name)
        state.write(shard, {WEIGHT: shard.cut(whole).to(shard.parameter.device)}, num_steps=0)


def _seen_by_all(directory: Path) -> list[Path]:
    """The checkpoints in `directory`, newest first. Collective.

    Raises:
        CheckpointError: on every rank, as ranks that went on from different ones would wait for each other for ever.
    """
    mine = saved_in(directory)
    everyone: list[list[str]] = [[]] * dist.get_world_size()
    dist.all_gather_object(everyone, [path.name for path in mine])
    for rank, seen in enumerate(everyone):
        if seen != everyone[0]:
            first, other = (names[0] if names else "none" for names in (everyone[0], seen))
            raise CheckpointError(
                f"{directory}: the newest checkpoint there is {first} on rank 0, and {other} on rank {rank}; name a "
                "directory that all ranks see"
            )
    return mine


class _Readers:
    """Opened files of a checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: dict[str, Any] = {}

    def read(self, module: str, kind: str, name: str) -> torch.Tensor:
        file = file_of(module, kind)
        if file not in self._opened:
            self._opened[file] = safe_open(self._path / file, framework="pt")
        try:
            found: torch.Tensor = self._opened[file].get_tensor(name)
        except Exception as error:  # safetensors has one error for everything, made in Rust
            raise CheckpointError(f"{self._path / file}: {name}: {error}") from None
        return found


def _open(path: Path) -> tuple[CheckpointManifest | None, str | None]:
    """The manifest of a checkpoint that is whole, or what is wrong with it; the same on every rank. Collective.

    Each rank reads its share of the files against their hashes.
    """
    manifest, problem = None, None
    try:
        manifest = read_manifest(path)
        names = sorted(manifest.files)[dist.get_rank() :: dist.get_world_size()]
        problem = damaged(path, {name: manifest.files[name] for name in names})
    except (CheckpointError, OSError) as error:
        problem = str(error)
    everyone: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, problem)
    first = next((found for found in everyone if found is not None), None)
    return (manifest, None) if first is None else (None, first)
