"""What a rank computes on, and how its ranks talk: gloo on CPU, NCCL on GPUs. The rest of the trainer is neutral."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import initialize_rng_tracker

from mimo_bench.devices import ranks_per_gpu
from mimo_bench.trainer import cpu

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Longer than any hang limit: the launcher ends a hanging layout with tracebacks, the collective would only abort."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankDevice:
    """One rank's device."""

    kind: Literal["cpu", "cuda"]
    index: int

    @property
    def torch_device(self) -> torch.device:
        """Where tensors live."""
        return torch.device("cpu") if self.kind == "cpu" else torch.device("cuda", self.index)

    @property
    def backend(self) -> str:
        """The communication backend."""
        return "gloo" if self.kind == "cpu" else "nccl"


def join(kind: Literal["cpu", "cuda"]) -> RankDevice:
    """Take this rank's device and join the world that the launcher's environment describes.

    Ranks are numbered by `RANK` of `WORLD_SIZE`; on a node, `LOCAL_RANK` picks the GPU. Where ranks share GPUs, they
    are dealt out in turn.
    """
    device = RankDevice(kind=kind, index=int(os.environ["LOCAL_RANK"]))
    if kind == "cpu":
        torch.set_num_threads(1)
        cpu.install()
        dist.init_process_group("gloo", timeout=COLLECTIVE_TIMEOUT)
    else:
        if ranks_per_gpu() > 1:
            device = replace(device, index=device.index % torch.cuda.device_count())
            # NCCL refuses two ranks on one GPU of a host; those of different hosts it connects over the network.
            os.environ["NCCL_HOSTID"] = f"rank{os.environ['RANK']}"
        torch.cuda.set_device(device.index)
        # fp32 means fp32: convolutions would round to TF32 by default.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        # Without a device id NCCL connects a group on its first use: most of a layout's groups never are used.
        dist.init_process_group("nccl", timeout=COLLECTIVE_TIMEOUT)
    # Nothing is random in the model: no dropout, and weights are drawn by name. This tracker keeps no states.
    initialize_rng_tracker(inference_rng_tracker=True)
    # Sequence parallelism gathers into a buffer that only megatron-core's own initialisation would make.
    parallel_state._set_global_memory_buffer()
    return device
