"""AdamW over all modules, clipped by one global norm; the norm of each module before clipping is kept.

Nothing in a step waits for the device: norms and the clipping factor stay there until somebody reads them. Each module
learns at its own rate, which the schedule of the training sets before every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.models.mimo.optimizer import MimoOptimizer, ModuleOptimizerInfo, get_mimo_optimizer
from megatron.core.optimizer.optimizer_config import OptimizerConfig

from mimo_bench.scenario import Precision, Settings
from mimo_bench.trainer.models.config import DTYPES
from mimo_bench.training import Training


class ScheduledOptimizer(MimoOptimizer):
    """megatron-core's MIMO optimizer with a schedule, and with each module's norm, of which it tells only the sum.

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

    @property
    def module_grad_norms(self) -> dict[str, float]:
        """Pre-clip gradient norm of the last step, by module that is trained; on every rank. Waits for the device."""
        return dict(zip(self._trained, self._norms.tolist(), strict=True))

    @property
    def _trained(self) -> list[str]:
        return [name for name in self.module_infos if not self._training.is_frozen(name)]

    def _set_rates(self) -> None:
        for name, rate in self.learning_rates.items():
            if (optimizer := self.module_infos[name].optimizer) is not None:
                for group in optimizer.param_groups:
                    group["lr"] = rate

    def _reduce_norms(self) -> torch.Tensor:
        """float32 [modules that are trained]: the norm of each one's whole gradient, on every rank."""
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
    """The optimizers that megatron-core chains for one module: one for dense parameters, one for experts."""
    yield from getattr(optimizer, "chained_optimizers", [optimizer])


def _is_fused(part: Any) -> bool:
    return part.optimizer is not None and all(group["fused"] for group in part.optimizer.param_groups)


def build_optimizer(
    model: MimoModel, *, training: Training, settings: Settings, precision: Precision
) -> ScheduledOptimizer:
    """The optimizer of this rank's modules; weights must be final, as master weights are copied from them."""
    built = get_mimo_optimizer(
        model,
        OptimizerConfig(
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
        ),
    )
    if settings.fused_optimizer:
        for info in built.module_infos.values():
            if info.is_active and info.optimizer:
                fuse(info.optimizer)
    return ScheduledOptimizer(built.module_infos, built.config, training=training)


def fuse(optimizer: Any) -> None:
    """Let each AdamW inside do its update in one kernel that reads every number once."""
    for part in _parts(optimizer):
        if part.optimizer is not None:
            for group in part.optimizer.param_groups:
                group.update(fused=True, foreach=False)
