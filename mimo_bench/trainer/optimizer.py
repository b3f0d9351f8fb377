"""AdamW over all modules, clipped by one global norm; the norm of each module before clipping is kept."""

from __future__ import annotations

import torch
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.models.mimo.optimizer import MimoOptimizer, get_mimo_optimizer
from megatron.core.optimizer.optimizer_config import OptimizerConfig

from mimo_bench.scenario import Precision, Settings, Training
from mimo_bench.trainer.models.config import DTYPES


class NormKeepingOptimizer(MimoOptimizer):
    """megatron-core's MIMO optimizer, which reduces a norm per module and tells only their sum."""

    module_grad_norms: dict[str, float]
    """Pre-clip gradient norm of the last step, by module; the same on every rank."""

    @torch.no_grad()
    def get_grad_norm(self) -> float:
        """The global norm, from the norms of all modules; collective over the world."""
        names = list(self.module_infos)
        norms = torch.zeros(len(names), dtype=torch.float32, device=torch.cuda.current_device())
        for index, name in enumerate(names):
            info = self.module_infos[name]
            if info.is_active and info.optimizer:
                norms[index] = info.optimizer.get_grad_norm() or 0.0
        # Ranks that lack a module hold 0 for it; all others hold its whole norm.
        torch.distributed.all_reduce(norms, op=torch.distributed.ReduceOp.MAX)
        self.module_grad_norms = dict(zip(names, norms.tolist(), strict=True))
        return float(norms.norm())


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
    return NormKeepingOptimizer(built.module_infos, built.config)
