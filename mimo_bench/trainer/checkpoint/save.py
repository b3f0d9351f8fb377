"""Writes checkpoints: every rank its share of the tensors, at their places in files that all ranks share.

[save] -> state, files

A directory that all ranks see is needed. In the background, only the copy to the host stops the training: the writing
talks over a group of its own.
"""

from __future__ import annotations

import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import torch
import torch.distributed as dist

from mimo_bench.models import MANIFEST as WEIGHTS_MANIFEST
from mimo_bench.models import StoredFile, TensorSpec, complete, header_of, manifest_of, write_manifest
from mimo_bench.trainer.checkpoint.files import (
    MANIFEST,
    CheckpointManifest,
    outdated_in,
    path_of,
    stored_file,
    temporary_of,
    unfinished_in,
    write_json,
)
from mimo_bench.trainer.checkpoint.state import WEIGHT, OptimizerState, file_of
from mimo_bench.trainer.trainer import Trainer
from mimo_bench.trainer.weights import COPIES_DIFFER, Shard, differing_copy, shards
from mimo_bench.util import CheckpointError, WeightsError, sync_directory

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tensor:
    """A tensor that this rank writes."""

    file: str
    spec: TensorSpec
    content: torch.Tensor
    """On the host."""


class Saver:
    """Saves a trainer's state into one directory, one checkpoint at a time."""

    def __init__(
        self,
        trainer: Trainer,
        directory: Path,
        *,
        held_fixed: Mapping[str, Any],
        keep_last: int = 2,
        in_background: bool = False,
        processor: Path | None = None,
    ) -> None:
        """Save into `directory`, and keep the newest `keep_last`. Collective over the world.

        Args:
            trainer: what is saved.
            directory: made with the first checkpoint; all ranks see it.
            held_fixed: what a training that goes on has in common with this one.
            keep_last: older checkpoints are removed once a newer one is whole.
            in_background: train on while files are written; their tensors are held on the host so long.
            processor: folder of the processor that makes the samples; a checkpoint holds a copy.
        """
        self._trainer = trainer
        self._directory = directory
        self._held_fixed = dict(held_fixed)
        self._keep_last = keep_last
        self._in_background = in_background
        self._processor = processor
        # gloo: objects are on the host, and the groups of the training must not be used in the background.
        self._group = dist.new_group(backend="gloo", group_desc="checkpoint")
        self._writing: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self) -> Path:
        """Save the trainer's state and return the checkpoint's path; collective over the world.

        Returns when the checkpoint is whole, or in the background once everything is copied to the host. An error of
        an earlier checkpoint is raised here, or by `wait`.

        Raises:
            CheckpointError: the disk fails, or two stages hold different values of a tied parameter.
        """
        self.wait()
        num_steps = self._trainer.optimizer.num_steps
        mine: list[_Tensor] = []
        tied = []
        for shard, weight, tensors in _read(self._trainer):
            mine += tensors
            tied += [(shard, weight)] if shard.is_tied else []
        if (name := differing_copy(tied, self._group)) is not None:
            raise CheckpointError(
                f"{path_of(self._directory, num_steps)}: {name}: {COPIES_DIFFER}; nothing was saved, and the "
                "checkpoints before it are as they were"
            )
        if self._in_background:
            # A copy: on CPU ranks the host's tensor would be the weight itself, which trains on.
            mine = [replace(tensor, content=tensor.content.clone()) for tensor in mine]
            self._writing = threading.Thread(target=self._try_to_write, args=(mine, num_steps), name="checkpoint")
            self._writing.start()
        else:
            self._write(mine, num_steps)
        return path_of(self._directory, num_steps)

    def wait(self) -> None:
        """Return when nothing is being written any more; raises what ended the writing."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if (error := self._error) is not None:
            self._error = None
            raise error

    def _try_to_write(self, mine: Sequence[_Tensor], num_steps: int) -> None:
        try:
            self._write(mine, num_steps)
        except BaseException as error:
            self._error = error

    def _write(self, mine: Sequence[_Tensor], num_steps: int) -> None:
        final = path_of(self._directory, num_steps)
        temporary = temporary_of(final)
        try:
            self._write_through(temporary, final, mine, num_steps)
        except CheckpointError:
            # No rank writes any more. An unfinished checkpoint would fill the disk.
            if dist.get_rank() == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _write_through(self, temporary: Path, final: Path, mine: Sequence[_Tensor], num_steps: int) -> None:
        specs = _merge(self._gather([(tensor.file, tensor.spec) for tensor in mine]))
        rank, files = dist.get_rank(), list(specs)
        self._together(lambda: _begin(temporary, specs) if rank == 0 else None)
        self._together(lambda: _fill(temporary, mine, specs))
        # Read back, so that hashes are those of the disk; each rank reads its share.
        share = files[rank :: dist.get_world_size()]
        read = self._together(lambda: {file: stored_file(temporary / file) for file in share})
        stored = {file: found for part in self._gather(read) for file, found in part.items()}
        in_order = {file: stored[file] for file in files}
        self._together(lambda: self._finish(temporary, final, num_steps, in_order) if rank == 0 else None)

    def _together(self, work: Callable[[], _Result]) -> _Result:
        """Return the result of `work` after every rank has done its own; if one fails, no rank waits for it.

        Raises:
            CheckpointError: on every rank, saying what failed on the first of those that did.
        """
        result, problem = None, None
        try:
            result = work()
        except OSError as error:
            problem = f"{error.filename or self._directory}: {error.strerror or error}"
        except WeightsError as error:
            problem = str(error)
        failed = [found for found in self._gather(problem) if found is not None]
        if failed:
            raise CheckpointError(f"{failed[0]}; nothing was saved, and the checkpoints before it are as they were")
        return cast(_Result, result)

    def _finish(self, temporary: Path, final: Path, num_steps: int, files: dict[str, StoredFile]) -> None:
        """Write the manifests, move the checkpoint to its place, remove those that are too old."""
        config = self._trainer.config
        weights = {module: files[file_of(module, WEIGHT)] for module in config.shape.modules}
        write_manifest(temporary, manifest_of(config.shape, weights))
        start = config.weights
        # Weights that were moved away since the training began end no training.
        has_start = start is not None and (start / WEIGHTS_MANIFEST).is_file()
        complete(temporary, start=start if has_start else None, config=None, processor=self._processor)
        files[WEIGHTS_MANIFEST] = stored_file(temporary / WEIGHTS_MANIFEST)
        grids = config.layout.modules.items()
        manifest = CheckpointManifest(
            num_steps=num_steps,
            held_fixed=self._held_fixed,
            layout={
                name: {"tp": grid.tp, "pp": grid.pp, "dp": grid.dp, "ep": grid.ep, "rank_offset": grid.rank_offset}
                for name, grid in grids
            },
            files=files,
        )
        write_json(temporary / MANIFEST, manifest)
        sync_directory(temporary)
        # The same steps again, after a resume from an older one: the old one is not better.
        shutil.rmtree(final, ignore_errors=True)
        temporary.replace(final)
        sync_directory(self._directory)
        for old in outdated_in(self._directory, num_steps=num_steps, keep_last=self._keep_last):
            shutil.rmtree(old, ignore_errors=True)

    def _gather(self, mine: Any) -> list[Any]:
        """Gather an object of every rank on every rank."""
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine, group=self._group)
        return everyone


@torch.no_grad()
def _read(trainer: Trainer) -> Iterator[tuple[Shard, torch.Tensor, list[_Tensor]]]:
    """Yield each shard, its weight, and what this rank writes of it, on the host.

    Collective over tensor-parallel ranks and replicas.
    """
    state = OptimizerState(trainer.optimizer)
    for index, shard in enumerate(shards(trainer.model, trainer.topology)):
        found = state.read(shard)
        # Those that hold the parameter take turns.
        is_mine = shard.holder == index % shard.num_holders and not shard.is_copy
        whole = {kind: shard.gather(tensor) for kind, tensor in found.items()}
        written = [
            _Tensor(file=file_of(shard.module, kind), spec=shard.spec(tensor.dtype), content=tensor.cpu().contiguous())
            for kind, tensor in whole.items()
            if is_mine
        ]
        yield shard, found[WEIGHT], written


def _merge(everyone: Sequence[Sequence[tuple[str, TensorSpec]]]) -> dict[str, list[TensorSpec]]:
    """Return the tensors of each file in one order on all ranks: wide items first, for alignment."""
    files: dict[str, list[TensorSpec]] = defaultdict(list)
    for file, spec in sorted((entry for part in everyone for entry in part), key=lambda entry: entry[0]):
        files[file].append(spec)
    return {file: sorted(specs, key=lambda spec: (spec.dtype != "F32", spec.name)) for file, specs in files.items()}


def _begin(temporary: Path, specs: Mapping[str, Sequence[TensorSpec]]) -> None:
    """An empty place for the files that hold `specs`; what earlier processes did not finish is removed."""
    for old in unfinished_in(temporary.parent):
        shutil.rmtree(old, ignore_errors=True)
    temporary.mkdir(parents=True)
    for file, inside in specs.items():
        _make(temporary / file, inside)


def _make(path: Path, specs: Sequence[TensorSpec]) -> None:
    """A file in its full size with its header, its tensors still to be filled in."""
    header = header_of(specs)
    with path.open("xb") as file:
        file.write(header)
        file.truncate(len(header) + sum(spec.num_bytes for spec in specs))


def _fill(directory: Path, mine: Sequence[_Tensor], specs: Mapping[str, Sequence[TensorSpec]]) -> None:
    """Write this rank's tensors at their places."""
    for file, inside in specs.items():
        ours = {tensor.spec.name: tensor.content for tensor in mine if tensor.file == file}
        if not ours:
            continue
        with (directory / file).open("r+b") as opened:
            start = len(header_of(inside))
            for spec in inside:
                if (content := ours.get(spec.name)) is not None:
                    _write_at(opened, start, content)
                start += spec.num_bytes


def _write_at(file: BinaryIO, start: int, content: torch.Tensor) -> None:
    file.seek(start)
    file.write(content.view(-1).view(torch.uint8).numpy().data)
