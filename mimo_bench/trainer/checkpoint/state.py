"""Optimizer state of one parameter on one rank: fp32 weight and Adam's moments, read and replaced.

megatron-core keeps them in three ways: at the parameter itself (fp32), at an fp32 copy (bf16), or in flat pieces
that the distributed optimizer shards over replicas. Here all three are slices in the parameter's shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist

from mimo_bench.trainer.optimizer import ScheduledOptimizer
from mimo_bench.trainer.weights import Shard

WEIGHT: Final = "weight"
MOMENTS: Final = ("exp_avg", "exp_avg_sq")
"""By the names of torch's Adam."""


def file_of(module: str, kind: str) -> str:
    """Return the name of the file that holds the weights of `module`, or one kind of its moments."""
    return f"{module}.safetensors" if kind == WEIGHT else f"{module}.{kind}.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    """The flat piece of a parameter that this rank's optimizer updates."""

    adam: Any
    main: torch.Tensor
    """The fp32 weight that is updated."""
    piece: slice
    """Its range in the flattened slice of the rank."""


class OptimizerState:
    """The state of one rank's optimizers, by parameter."""

    def __init__(self, optimizer: ScheduledOptimizer) -> None:
        """Read from and write to `optimizer`."""
        self._optimizer = optimizer

    def read(self, shard: Shard) -> dict[str, torch.Tensor]:
        """Weight and moments in the shape of the rank's slice; of a frozen parameter its weight alone, as it is held.

        Collective over the shard's replicas where the distributed optimizer deals state out.
        """
        if not shard.parameter.requires_grad:
            return {WEIGHT: shard.parameter.detach()}
        return {kind: self.read_one(shard, kind) for kind in (WEIGHT, *MOMENTS)}

    def read_one(self, shard: Shard, kind: str) -> torch.Tensor:
        """Return the weight or a moment of a trained parameter; moments are zero before the first step. Collective."""
        held = self._held(shard)
        part = None if held is None else _tensor(held, kind)
        if not self._is_dealt_out(shard):
            assert part is not None
            return part.detach().view(shard.parameter.shape)
        whole = torch.zeros(shard.parameter.numel(), dtype=torch.float32, device=shard.parameter.device)
        if held is not None and part is not None:
            whole[held.piece].copy_(part.view(-1))
        # Each element is one rank's and zero elsewhere; as integers, so that not even a zero loses its sign.
        dist.all_reduce(whole.view(torch.int32), group=shard.replicas)
        return whole.view(shard.parameter.shape)

    def write(self, shard: Shard, tensors: dict[str, torch.Tensor], *, num_steps: int) -> None:
        """Replace weight and moments by `tensors`, slices in the shape of the rank's; moments may lack.

        A parameter that has moments has taken `num_steps` steps; one that has none starts anew.
        """
        shard.parameter.data.copy_(tensors[WEIGHT])
        if not shard.parameter.requires_grad or (held := self._held(shard)) is None:
            return
        if held.main is not shard.parameter:
            held.main.data.view(-1).copy_(tensors[WEIGHT].reshape(-1)[held.piece])
        if not all(kind in tensors for kind in MOMENTS):
            return
        moments = {kind: tensors[kind].reshape(-1)[held.piece].view(held.main.shape) for kind in MOMENTS}
        held.adam.state[held.main] = {
            "step": _step_counter(held, num_steps),
            **{kind: moment.to(held.main.device, torch.float32, copy=True) for kind, moment in moments.items()},
        }

    def _held(self, shard: Shard) -> _Held | None:
        """The piece that this rank updates; None where other replicas update all of the slice."""
        owner, parameter = self._optimizer.part_of(shard), shard.parameter
        if not self._is_dealt_out(shard):
            main = getattr(parameter, "main_param", parameter)
            return _Held(adam=owner.optimizer, main=main, piece=slice(0, parameter.numel()))
        if parameter not in owner.model_param_group_index_map:
            return None
        group, index = owner.model_param_group_index_map[parameter]
        owned = owner._get_model_param_range_map(parameter)["param"]
        main = owner.optimizer.param_groups[group]["params"][index]
        return _Held(adam=owner.optimizer, main=main, piece=slice(owned.start, owned.end))

    def _is_dealt_out(self, shard: Shard) -> bool:
        return hasattr(self._optimizer.part_of(shard), "model_param_group_index_map")


def _tensor(held: _Held, kind: str) -> torch.Tensor:
    if kind == WEIGHT:
        return held.main
    # Adam makes its state in the first step.
    state: dict[str, torch.Tensor] = held.adam.state.get(held.main, {})
    return state[kind] if kind in state else torch.zeros_like(held.main)


def _step_counter(held: _Held, num_steps: int) -> torch.Tensor:
    """As torch's Adam counts: on the host, but with the fused kernel on the weight's device."""
    is_fused = any(group.get("fused") for group in held.adam.param_groups)
    return torch.tensor(float(num_steps), dtype=torch.float32, device=held.main.device if is_fused else "cpu")
