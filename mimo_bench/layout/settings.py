"""Settings of a layout: how it trains, never what."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from mimo_bench.layout import limits
from mimo_bench.layout.layout import Layout
from mimo_bench.util import LayoutError, Table

Precision = Literal["fp32", "bf16"]
AttentionBackend = Literal["default", "math", "flash", "cudnn"]


class Settings(Table):
    """Settings of a layout; none of them changes the model that comes out."""

    distributed_optimizer: bool = False
    """Shard the optimizer state of each module over its data-parallel ranks."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass still runs."""
    overlap_param_gather: bool = False
    """Gather updated parameters while the next forward pass already runs; needs the distributed optimizer.

    Together with `compile_layers` it is slower than without: its hooks break up every layer's graph (on two H200s
    456 against 302 ms a step)."""
    sequence_parallel: bool = False
    """Shard the language model's norms and residuals over its tensor-parallel ranks along the sequence."""
    fused_optimizer: bool = False
    """Clip and update the weights of a module in one kernel, instead of one for each operation of AdamW."""
    fused_loss: bool = False
    """Compute the loss from logits as they are, in three kernels, without fp32 probabilities of the vocabulary."""
    fused_gradient_accumulation: bool = False
    """Let matrix products add each weight gradient to its fp32 buffer, instead of an operation of its own for every
    micro-batch."""
    fused_activation: bool = False
    """Compute the language model's SwiGLU in one kernel forward and one backward."""
    fused_rope: bool = False
    """Take queries, keys and values of the language model apart and rotate them in one kernel forward and one
    backward."""
    recompute_activations: bool = False
    """Recompute every transformer layer in the backward pass instead of keeping its activations."""
    compile_layers: bool = False
    """Run every transformer layer through `torch.compile`; CPU ranks leave it as it is."""
    attention: AttentionBackend = "default"
    """The attention kernel on GPUs: PyTorch's own choice, FlashAttention or cuDNN's; the latter two take bf16 only."""

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.overlap_param_gather and not (self.distributed_optimizer and self.overlap_grad_reduce):
            raise ValueError(
                "overlap_param_gather needs distributed_optimizer = true and overlap_grad_reduce = true; set both"
            )
        limits.refuse_compiled_sequence_parallel(
            sequence_parallel=self.sequence_parallel, compile_layers=self.compile_layers
        )
        return self

    def check(
        self, layout: Layout, *, has_experts: bool, precision: Precision, seq_length: int, counts_vary: bool
    ) -> None:
        """Refuse a layout that cannot be trained with these settings.

        Args:
            layout: the grids.
            has_experts: whether the language model has experts.
            precision: of parameters and activations.
            seq_length: of the language model.
            counts_vary: whether samples differ in how many items they have.

        Raises:
            LayoutError: with setting, reason and remedy.
        """
        tp = layout.language.tp
        limits.check_attention(self, precision=precision)
        limits.check_compiled_layers(self, has_experts=has_experts, counts_vary=counts_vary)
        if has_experts:
            limits.check_expert_settings(self, tp=tp)
        if self.sequence_parallel and seq_length % tp:
            raise LayoutError(
                f"settings.sequence_parallel: seq_length = {seq_length} does not split over language.tp = {tp}; use a "
                "multiple of it"
            )

    def for_parity(self) -> Settings:
        """Return the settings of parity mode: nothing overlapped or compiled, the plainest kernels."""
        off = (
            *("overlap_grad_reduce", "overlap_param_gather", "compile_layers"),
            *("fused_optimizer", "fused_loss", "fused_gradient_accumulation", "fused_activation", "fused_rope"),
        )
        return self.model_copy(update={**dict.fromkeys(off, False), "attention": "math"})
