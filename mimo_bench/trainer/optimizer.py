"""AdamW over all modules, clipped by one global norm; the norm of each module before clipping is kept.

No step waits for the device: norms and the clipping factor stay there until they are read. Each module
learns at its own rate, which the schedule of the training sets before every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.models.mimo.optimizer import MimoOptimizer, ModuleOptimizerInfo
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import ChainedOptimizer, Float16OptimizerWithFloat16Params, FP32Optimizer
from megatron.core.optimizer.optimizer_config import OptimizerConfig
from megatron.core.process_groups_config import ProcessGroupCollection

from mimo_bench.layout import Precision, Settings
from mimo_bench.models import DTYPES
from mimo_bench.scenario import Training
from mimo_bench.trainer.model import hosted_modules
from mimo_bench.trainer.topology import Topology
from mimo_bench.trainer.weights import Shard, has_expert_replicas


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleNorms:
    """A number for each of some modules, on the device."""

    modules: tuple[str, ...]
    values: torch.Tensor
    """float32 [modules]."""

    def read(self) -> dict[str, float]:
        """The numbers by module; waits for the device."""
        return dict(zip(self.modules, self.values.tolist(), strict=True))


class ScheduledOptimizer(MimoOptimizer):
    """megatron-core's MIMO optimizer with a schedule and the norm of each module.

    Without transformer-engine it would also copy the norm of every single gradient to the host, and wait for it.
    """

    def __init__(
        self, module_infos: dict[str, ModuleOptimizerInfo], config: OptimizerConfig, *, training: Training
    ) -> None:
        """Take over the optimizers of `module_infos`; no step has been taken."""
        super().__init__(module_infos, config)
        self._training = training
        self.num_steps = 0
        """Steps taken so far; they decide the rates of the next one."""

    def step(self) -> None:
        """Reduce the norms, clip, update; collective over the world. The loss is not scaled, so no step is skipped."""
        self._set_rates()
        with torch.no_grad():
            self.prepare_grads()
            self._norms = self._reduce_norms()
            self._clip(self._norms.norm())
            self.step_with_ready_grads()
        self.num_steps += 1

    @property
    def learning_rates(self) -> dict[str, float]:
        """The rate of the next step, by module that is trained."""
        return {name: self._training.rate_of(name, self.num_steps) for name in self._trained}

    def part_of(self, shard: Shard) -> Any:
        """megatron-core's optimizer of a parameter that this rank holds."""
        parts = list(_parts(self.module_infos[shard.module].optimizer))
        return parts[-1 if shard.has_expert_replicas else 0]

    def groups(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield each trained module that this rank hosts with its parameter groups, as torch's AdamW has them."""
        for name in self._trained:
            if (optimizer := self.module_infos[name].optimizer) is not None:
                yield name, optimizer.param_groups

    @property
    def module_grad_norms(self) -> ModuleNorms:
        """Pre-clip gradient norm of the last step, by module that is trained; on every rank."""
        return ModuleNorms(modules=tuple(self._trained), values=self._norms)

    @property
    def _trained(self) -> list[str]:
        return [name for name in self.module_infos if not self._training.is_frozen(name)]

    def _set_rates(self) -> None:
        rates = self.learning_rates
        for name, groups in self.groups():
            for group in groups:
                group["lr"] = rates[name]

    def _reduce_norms(self) -> torch.Tensor:
        """Return float32 [trained modules]: the norm of each module's whole gradient, on every rank."""
        squares = torch.zeros(len(self._trained), dtype=torch.float32, device=torch.cuda.current_device())
        for index, name in enumerate(self._trained):
            info = self.module_infos[name]
            if info.is_active and info.optimizer:
                squares[index] = sum(_squared_norm(part) for part in _parts(info.optimizer))
        # Ranks that lack a module hold 0 for it; all others hold its whole norm.
        dist.all_reduce(squares, op=dist.ReduceOp.MAX)
        return squares.sqrt()

    def _clip(self, norm: torch.Tensor) -> None:
        if not self.config.clip_grad:
            return
        # The small number is torch's and megatron-core's: it keeps a zero norm from dividing.
        factor = (self.config.clip_grad / (norm + 1e-6)).clamp(max=1.0)
        for part in (part for optimizer in self._active_optimizers for part in _parts(optimizer)):
            if _is_fused(part):
                # The kernel divides by it on its way, which spares a pass over all gradients.
                part.optimizer.grad_scale = factor.reciprocal()
            elif gradients := [parameter.grad for parameter in part.get_parameters() if parameter.grad is not None]:
                torch._foreach_mul_(gradients, factor)


def _squared_norm(part: Any) -> torch.Tensor:
    """The squared norm of one optimizer's gradients over all ranks that hold pieces of them; float32 scalar."""
    gradients = part.get_grads_for_grad_norm()
    square = torch.zeros((), dtype=torch.float32, device=torch.cuda.current_device())
    if gradients:
        square = torch.stack(torch._foreach_norm(gradients)).square().sum()
    dist.all_reduce(square, group=part.get_grad_stats_parallel_group())
    return square


def _parts(optimizer: Any) -> Iterator[Any]:
    """The optimizers that are chained for one module: one for dense parameters, one for sharded experts."""
    yield from getattr(optimizer, "chained_optimizers", [optimizer])


def _is_fused(part: Any) -> bool:
    return part.optimizer is not None and all(group["fused"] for group in part.optimizer.param_groups)


def build_optimizer(
    model: MimoModel, *, topology: Topology, training: Training, settings: Settings, precision: Precision
) -> ScheduledOptimizer:
    """The optimizer of this rank's modules; weights must be final, as master weights are copied from them.

    megatron-core's own `get_mimo_optimizer` gathers over the whole world once for each hosted module, so it hangs where
    ranks host different numbers of modules. Nothing here talks.
    """
    config = OptimizerConfig(
        optimizer="adam",
        decoupled_weight_decay=True,
        lr=training.learning_rate,
        min_lr=training.learning_rate,
        weight_decay=training.weight_decay,
        adam_beta1=training.adam_beta1,
        adam_beta2=training.adam_beta2,
        adam_eps=training.adam_epsilon,
        clip_grad=training.clip_grad_norm,
        bf16=precision == "bf16",
        params_dtype=DTYPES[precision],
        use_distributed_optimizer=settings.distributed_optimizer,
        overlap_param_gather=settings.overlap_param_gather,
    )
    hosted = {
        name: _optimizer_of(module, config, topology.groups[name], is_fused=settings.fused_optimizer)
        for name, module in hosted_modules(model)
    }
    # Every rank lists every module in the same order: norms are reduced by place.
    infos = {
        name: ModuleOptimizerInfo(
            optimizer=hosted.get(name),
            grid=topology.grids[name],
            pg_collection=topology.groups.get(name),
            is_active=name in hosted,
        )
        for name in topology.layout.modules
    }
    return ScheduledOptimizer(infos, config, training=training)


def _optimizer_of(
    module: Any, config: OptimizerConfig, groups: ProcessGroupCollection, *, is_fused: bool
) -> ChainedOptimizer:
    """AdamW over one module, with whatever precision and sharding the configuration asks for."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    dense = [parameter for parameter in trained if not has_expert_replicas(parameter)]
    experts = [parameter for parameter in trained if has_expert_replicas(parameter)]
    # Experts have replicas of their own, so they have buffers and an optimizer of their own.
    parts = [_Part(parameters=dense, buffers=module.buffers, replicas=groups.dp_cp, slices=groups.mp)]
    if experts:
        buffers = module.expert_parallel_buffers
        parts.append(_Part(parameters=experts, buffers=buffers, replicas=groups.expt_dp, slices=groups.tp_ep_pp))
    optimizers = [_adam_of(part, module, config, groups, is_fused=is_fused) for part in parts]
    for earlier in optimizers[:-1]:
        # The last one gathers the updated weights of all; each would gather them all again.
        earlier._defer_param_sync = True
    return ChainedOptimizer(optimizers)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """The parameters of a module that have the same replicas."""

    parameters: list[torch.nn.Parameter]
    buffers: list[Any]
    replicas: dist.ProcessGroup
    slices: dist.ProcessGroup
    """The ranks that together hold every parameter once."""


def _adam_of(
    part: _Part, module: Any, config: OptimizerConfig, groups: ProcessGroupCollection, *, is_fused: bool
) -> Any:
    adam = torch.optim.AdamW(
        [{"params": part.parameters, **_GROUP, "max_lr": config.lr, "min_lr": config.min_lr}],
        lr=config.lr,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
    )
    if config.use_distributed_optimizer:
        optimizer = DistributedOptimizer(
            adam,
            config,
            None,
            _start_moments,
            model_chunks=[module],
            per_model_buffers={0: part.buffers},
            data_parallel_group=part.replicas,
            data_parallel_group_gloo=None,
            data_parallel_group_idx=part.slices.rank(),
            distributed_optimizer_instance_id=0,
        )
        # Each rank holds a piece of the reduced gradients, so their norm is summed over the whole module.
        optimizer.grad_stats_parallel_group = groups.intra_dist_opt
    else:
        if config.bf16:
            optimizer = Float16OptimizerWithFloat16Params(adam, config, None, _start_moments)
        else:
            optimizer = FP32Optimizer(adam, config, _start_moments)
        optimizer.grad_stats_parallel_group = part.slices
    # A parameter that ranks share is counted in the norm by one of them alone.
    optimizer.tp_group, optimizer.expert_tp_group = groups.tp, groups.expt_tp
    if is_fused:
        fuse(adam)
    return optimizer


_GROUP = {"wd_mult": 1.0, "lr_mult": 1.0, "is_expert_parallel": False, "is_decoupled_lr": False, "default_config": True}
"""What megatron-core's optimizers expect to read in a group of parameters."""


def _start_moments(adam: torch.optim.Optimizer, _: object = None) -> None:
    """Give every parameter the state that AdamW gives it on its first step, so that there is something to load into."""
    for parameter in (parameter for group in adam.param_groups for parameter in group["params"]):
        state = adam.state[parameter]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)


def fuse(adam: torch.optim.Optimizer) -> None:
    """Let AdamW do its update in one kernel that reads every number once."""
    for group in adam.param_groups:
        group.update(fused=True, foreach=False)
