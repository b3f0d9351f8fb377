"""Device and backend of a rank: gloo on CPU, NCCL on GPUs. The rest of the trainer is neutral."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from typing import Literal

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import initialize_rng_tracker
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from mimo_bench.launch import ranks_per_gpu
from mimo_bench.trainer.megatron import cpu
from mimo_bench.util import UsageError

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Longer than any hang limit: the launcher ends a hanging layout with tracebacks, the collective would only abort."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankDevice:
    """One rank's device."""

    kind: Literal["cpu", "cuda"]
    index: int

    @property
    def torch_device(self) -> torch.device:
        """Device of tensors."""
        return torch.device("cpu") if self.kind == "cpu" else torch.device("cuda", self.index)

    @property
    def backend(self) -> str:
        """The communication backend."""
        return "gloo" if self.kind == "cpu" else "nccl"


def join(kind: Literal["auto", "cpu", "cuda"]) -> RankDevice:
    """Take this rank's device and join the world that torchrun's or the launcher's environment describes.

    Ranks are numbered by `RANK` of `WORLD_SIZE`; on a node, `LOCAL_RANK` picks the GPU; ranks that share GPUs
    take turns. A world that the script itself has joined is taken as it is. `auto` takes GPUs where there
    are any.

    Raises:
        UsageError: no ranks were started.
    """
    if (local_rank := os.environ.get("LOCAL_RANK")) is None:
        raise UsageError("LOCAL_RANK is not set, so there are no ranks; start the script with torchrun")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    device = RankDevice(kind=kind, index=int(local_rank))
    if kind == "cpu":
        torch.set_num_threads(1)
        cpu.install()
    else:
        if ranks_per_gpu() > 1:
            device = replace(device, index=device.index % torch.cuda.device_count())
            # NCCL refuses two ranks on one GPU of a host; those of different hosts it connects over the network.
            os.environ["NCCL_HOSTID"] = f"rank{os.environ['RANK']}"
        torch.cuda.set_device(device.index)
        # fp32 means fp32: convolutions would round to TF32 by default.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    if not dist.is_initialized():
        _join_world(device.backend)
    # Nothing is random in the model: no dropout, and weights are drawn by name. This tracker keeps no states.
    initialize_rng_tracker(inference_rng_tracker=True)
    if parallel_state._GLOBAL_MEMORY_BUFFER is None:
        # Sequence parallelism gathers into a buffer that only megatron-core's own initialisation would make.
        parallel_state._set_global_memory_buffer()
    return device


def _join_world(backend: str) -> None:
    store, rank, world_size = next(rendezvous("env://", timeout=COLLECTIVE_TIMEOUT))
    # A second world of the same ranks would otherwise find the keys of the first and wait for ever.
    store = PrefixStore(f"world{next(_NUM_WORLDS)}", store)
    # Without a device id NCCL connects a group on its first use: most of a layout's groups never are used.
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=COLLECTIVE_TIMEOUT)


_NUM_WORLDS = count()
"""Worlds that this process has joined; the same on every rank."""
