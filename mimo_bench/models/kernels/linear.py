"""Weight gradients that the matrix product itself adds to their fp32 buffer: no bf16 gradient, and no pass to add it.

megatron-core leaves this to a CUDA extension of apex, and torch.compile cannot look into that. cuBLAS does it without:
torch's `addmm` takes bf16 factors and sums into fp32. As an operation that torch knows it also stands inside of a
compiled layer. On an H200 adding gradients took 2.8 % of a step (micro-batches of 16,384 positions, 4096 wide).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.tensor_parallel import layers
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear


@torch.library.custom_op("mimo_bench::add_weight_gradient", mutates_args={"main_gradient"})
def add_weight_gradient(main_gradient: torch.Tensor, gradient: torch.Tensor, inputs: torch.Tensor) -> None:
    """Add a linear layer's weight gradient to what earlier micro-batches gave.

    Args:
        main_gradient: float32 [output size, input size]; changed.
        gradient: [positions, output size], of what the layer gave.
        inputs: [positions, input size], of the layer, in the same dtype.
    """
    if inputs.dtype == main_gradient.dtype:
        main_gradient.addmm_(gradient.t(), inputs)
    elif inputs.is_cuda:
        torch.addmm(main_gradient, gradient.t(), inputs, out_dtype=torch.float32, out=main_gradient)
    else:
        # The product that sums in another dtype is there on GPUs alone.
        main_gradient.addmm_(gradient.t().float(), inputs.float())


class _Product(torch.autograd.Function):
    """inputs @ weight.t(), whose backward leaves the weight's gradient in `main_gradient`."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, main_gradient: torch.Tensor, group: Any
    ) -> torch.Tensor:
        ctx.save_for_backward(inputs, weight)
        # Not saved: another micro-batch may change it before this backward, which reads nothing of it.
        ctx.main_gradient = main_gradient
        ctx.group = group
        return inputs.matmul(weight.t())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        inputs, weight = ctx.saved_tensors
        to_inputs = gradient.matmul(weight)
        reduction = None
        if ctx.group is not None and torch.compiler.is_compiling():
            # A handle to wait for would break the layer's graph in two; the compiler starts it and waits by itself.
            dist.all_reduce(to_inputs, group=ctx.group)
        elif ctx.group is not None:
            # While the weight's gradient is computed.
            reduction = dist.all_reduce(to_inputs, group=ctx.group, async_op=True)
        add_weight_gradient(ctx.main_gradient, gradient.flatten(0, -2), inputs.flatten(0, -2))
        if reduction is not None:
            reduction.wait()
        # A gradient without a reader, so that the hooks of the weight fire.
        return to_inputs, torch.empty_like(weight), None, None


class _Accumulating:
    """A linear layer of megatron-core whose products add weight gradients, where its configuration asks for that."""

    weight: torch.nn.Parameter
    gradient_accumulation_fusion: bool
    sequence_parallel: bool
    gathers_inputs: bool
    """Whether it gathers its inputs under sequence parallelism, as megatron-core's own product does again backward."""

    @property
    def adds_gradients(self) -> bool:
        """True if its product adds the weight's gradient by itself."""
        return self.gradient_accumulation_fusion and not (self.gathers_inputs and self.sequence_parallel)

    def _forward_impl(
        self,
        input: torch.Tensor,  # megatron-core's name for it
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        gradient_accumulation_fusion: bool,
        allreduce_dgrad: bool,
        sequence_parallel: bool,
        tp_group: Any,
        **options: Any,
    ) -> torch.Tensor:
        if not (self.adds_gradients and weight.requires_grad and hasattr(weight, "main_grad")):
            output: torch.Tensor = super()._forward_impl(  # type: ignore[misc]
                input,
                weight,
                bias=bias,
                gradient_accumulation_fusion=gradient_accumulation_fusion,
                allreduce_dgrad=allreduce_dgrad,
                sequence_parallel=sequence_parallel,
                tp_group=tp_group,
                **options,
            )
            return output
        output = _Product.apply(input, weight, weight.main_grad, tp_group if allreduce_dgrad else None)  # type: ignore[no-untyped-call]
        return output if bias is None else output + bias


class ColumnLinear(_Accumulating, ColumnParallelLinear):
    """Splits its output over the tensor-parallel ranks."""

    gathers_inputs = True


class RowLinear(_Accumulating, RowParallelLinear):
    """Splits its input over the tensor-parallel ranks."""

    gathers_inputs = False


class Replica(DistributedDataParallel):
    """A module and its gradient buffers, which some products add to by themselves."""

    def zero_grad_buffer(self) -> None:
        """Start a new global batch."""
        super().zero_grad_buffer()
        for product in self.module.modules():
            if isinstance(product, _Accumulating) and product.adds_gradients:
                product.weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]


def install_accumulation() -> None:
    """Let megatron-core's own linear layers find what `gradient_accumulation_fusion` asks for, in this process."""

    def add(inputs: torch.Tensor, gradient: torch.Tensor, main_gradient: torch.Tensor) -> None:
        add_weight_gradient(main_gradient, gradient, inputs)

    layers.fused_weight_gradient_mlp_cuda = SimpleNamespace(wgrad_gemm_accum_fp32=add)
    layers._grad_accum_fusion_available = True
