"""Weight gradients that the matrix product itself adds to their fp32 buffer: no bf16 gradient, and no pass to add it.

megatron-core calls a CUDA extension of apex for this, by the name `wgrad_gemm_accum_fp32`. cuBLAS can do it without:
torch's `addmm` takes bf16 factors and sums into fp32. The two products in bf16, and the addition, took 2.9 % of a step
on an H200 (micro-batches of 16,384 positions, 4096 wide).
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from megatron.core.tensor_parallel import layers


def install() -> None:
    """Let megatron-core's linear layers find what `gradient_accumulation_fusion` asks for, in this process."""
    layers.fused_weight_gradient_mlp_cuda = SimpleNamespace(wgrad_gemm_accum_fp32=add_weight_gradient)
    layers._grad_accum_fusion_available = True


def add_weight_gradient(inputs: torch.Tensor, gradient: torch.Tensor, main_gradient: torch.Tensor) -> None:
    """Add a linear layer's weight gradient to what earlier micro-batches gave.

    Args:
        inputs: [positions, input size], of the layer.
        gradient: [positions, output size], of what it gave, in the same dtype.
        main_gradient: float32 [output size, input size]; changed.
    """
    if inputs.dtype == main_gradient.dtype:
        main_gradient.addmm_(gradient.t(), inputs)
    elif inputs.is_cuda:
        torch.addmm(main_gradient, gradient.t(), inputs, out_dtype=torch.float32, out=main_gradient)
    else:
        # The product that sums in another dtype is there on GPUs alone.
        main_gradient.addmm_(gradient.t().float(), inputs.float())
