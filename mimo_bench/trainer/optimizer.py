"""AdamW over all modules, clipped by one global norm; the norm of each module before clipping is kept.

Nothing in a step waits for the device: norms and the clipping factor stay there until somebody reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.models.mimo.optimizer import MimoOptimizer, get_mimo_optimizer
from megatron.core.optimizer.optimizer_config import OptimizerConfig

from mimo_bench.scenario import Precision, Settings, Training
from mimo_bench.trainer.models.config import DTYPES


class NormKeepingOptimizer(MimoOptimizer):
    """megatron-core's MIMO optimizer, which tells only the sum of its modules' norms and waits for it on the way.

    Without transformer-engine it also copies the norm of every single gradient to the host.
    """

    def step(self) -> None:
        """Reduce the norms, clip, update; collective over the world. The loss is not scaled, so no step is skipped."""
        with torch.no_grad():
            self.prepare_grads()
            self._norms = self._reduce_norms()
            self._clip(self._norms.norm())
            self.step_with_ready_grads()

    @property
    def module_grad_norms(self) -> dict[str, float]:
        """Pre-clip gradient norm of the last step, by module; the same on every rank. Waits for the device."""
        return dict(zip(self.module_infos, self._norms.tolist(), strict=True))

    def _reduce_norms(self) -> torch.Tensor:
        """float32 [modules]: the norm of each module's whole gradient, on every rank."""
        squares = torch.zeros(len(self.module_infos), dtype=torch.float32, device=torch.cuda.current_device())
        for index, info in enumerate(self.module_infos.values()):
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
) -> NormKeepingOptimizer:
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
    return NormKeepingOptimizer(built.module_infos, built.config)


def fuse(optimizer: Any) -> None:
    """Let each AdamW inside do its update in one kernel that reads every number once."""
    for part in _parts(optimizer):
        if part.optimizer is not None:
            for group in part.optimizer.param_groups:
                group.update(fused=True, foreach=False)
