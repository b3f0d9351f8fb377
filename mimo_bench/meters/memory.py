"""Device memory of one rank: the allocator's peaks, what held them, and what the whole device holds.

Peaks are the allocator's over the timed window and cost nothing. What they consist of is found behind it, where
`memory_watch` takes the step that held the peak again: parameters, gradient buffers and optimizer state are counted by
their storages; what a forward pass leaves behind is activations; the rest of the busiest moment is workspace.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pynvml
import torch

from mimo_bench.meters.memory_watch import Allocator, MemoryWatch
from mimo_bench.record import MemoryParts, RankMemory
from mimo_bench.trainer import Trainer, hosted_modules


def reset_peaks() -> None:
    """Start a window: peaks before it do not count. Nothing waits."""
    torch.cuda.reset_peak_memory_stats()


def read_memory() -> RankMemory:
    """Peaks since the window began, and the device now; one NVML query, nothing waits for the device."""
    reserved = torch.cuda.max_memory_reserved()
    return RankMemory(
        device_uuid=device_uuid(),
        peak_allocated_bytes=torch.cuda.max_memory_allocated(),
        peak_reserved_bytes=reserved,
        device_used_bytes=_device_used_bytes(),
        fragmentation_bytes=max(0, reserved - torch.cuda.max_memory_allocated()),
    )


@dataclass(slots=True)
class ExtraMemory:
    """Peak memory that some parts of a launch add to what the device holds when they begin."""

    allocator: Allocator
    peak: int = 0
    """Bytes, of the part that took most so far."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """One of the parts; peaks of the allocator count from its begin."""
        before = self.allocator.allocated()
        self.allocator.reset_peak()
        yield
        self.peak = max(self.peak, self.allocator.peak() - before)


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Bytes that one module keeps from step to step."""

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes


def held_by_module(trainer: Trainer) -> dict[str, Held]:
    """Return the memory that each hosted module keeps from step to step, by the storages of its tensors, each once.

    A storage counts with all of its bytes, padding included: the distributed optimizer keeps parameters in buffers.
    """
    seen: set[int] = set()
    found = {}
    for name, module in hosted_modules(trainer.model):
        optimizer = trainer.optimizer.module_infos[name].optimizer
        buffers = (*module.buffers, *module.expert_parallel_buffers)
        parameters = [*module.parameters(), *(b.param_data for b in buffers if b.param_data is not None)]
        found[name] = Held(
            parameters_bytes=_new_bytes(parameters, seen),
            gradients_bytes=_new_bytes((buffer.grad_data for buffer in buffers), seen),
            optimizer_bytes=_new_bytes(_optimizer_tensors(optimizer), seen),
        )
    return found


def _optimizer_tensors(optimizer: Any) -> Iterator[torch.Tensor]:
    """Moments and master weights; model parameters among them are known already."""
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        inner = getattr(part, "optimizer", None)
        if inner is None:
            continue
        for group in inner.param_groups:
            yield from group["params"]
        for state in inner.state.values():
            # Step counters are single numbers on the host.
            yield from (value for value in state.values() if isinstance(value, torch.Tensor) and value.dim())


def _new_bytes(tensors: Iterable[torch.Tensor], seen: set[int]) -> int:
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total


def with_parts(memory: RankMemory, watch: MemoryWatch, held: Mapping[str, Held]) -> RankMemory:
    """`memory` with what its peak consists of."""
    return memory.model_copy(
        update={
            "busiest": watch.busiest.during,
            "parts": _parts_of_rank(held, watch),
            "modules_parts": {
                name: MemoryParts(
                    parameters_bytes=kept.parameters_bytes,
                    gradients_bytes=kept.gradients_bytes,
                    optimizer_bytes=kept.optimizer_bytes,
                    activations_bytes=watch.most_activations[name],
                    workspace_bytes=max(0, watch.by_module[name].workspace),
                )
                for name, kept in held.items()
            },
        }
    )


def _parts_of_rank(held: Mapping[str, Held], watch: MemoryWatch) -> MemoryParts:
    kept = sum(one.total for one in held.values())
    # What rests between steps and is none of these: batches that wait, tables of positions.
    others = max(0, watch.resting - kept)
    return MemoryParts(
        parameters_bytes=sum(one.parameters_bytes for one in held.values()),
        gradients_bytes=sum(one.gradients_bytes for one in held.values()),
        optimizer_bytes=sum(one.optimizer_bytes for one in held.values()),
        activations_bytes=watch.busiest.activations,
        workspace_bytes=max(0, watch.busiest.workspace) + others,
    )


@contextmanager
def snapshot_if_out_of_memory(trainer: Trainer | None, directory: Path) -> Iterator[None]:
    """Write down what held the memory if the device runs out of it, and let the failure pass.

    `rank<k>.memory.json` has the bytes of each module, `rank<k>.memory.pickle` every block of the allocator for torch's
    memory viewer.

    Args:
        trainer: None while it is being built, when no module is known yet.
        directory: takes both files.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        rank = torch.distributed.get_rank()
        with suppress(Exception):  # the failure to report is the one of memory
            held, blocks = (directory / f"rank{rank}.memory.{suffix}" for suffix in ("json", "pickle"))
            held.write_text(json.dumps(_held_now(trainer), indent=2))
            torch.cuda.memory._dump_snapshot(str(blocks))
            print(f"out of memory: {held.name} says what was held, {blocks.name} opens in torch's memory viewer")
        raise


def _held_now(trainer: Trainer | None) -> dict[str, Any]:
    modules = {} if trainer is None else held_by_module(trainer)
    return {
        "modules": {name: asdict(held) for name, held in modules.items()},
        "allocated_bytes": torch.cuda.memory_allocated(),
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.memory_reserved(),
        "device_bytes": torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory,
    }


def device_uuid() -> str:
    """The UUID of this rank's device; an index would mean another device under CUDA_VISIBLE_DEVICES."""
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def _device_used_bytes() -> int:
    pynvml.nvmlInit()
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(device_uuid())).used)
    finally:
        pynvml.nvmlShutdown()
