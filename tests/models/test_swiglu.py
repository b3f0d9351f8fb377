"""SwiGLU in one kernel each way is silu(gate) * up, rounded once; its kernels are run by Triton's interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mimo_bench.launch import Launcher
from mimo_bench.models.kernels.swiglu import swiglu
from tests.support.ranks import on_ranks


@on_ranks(1, environment={"TRITON_INTERPRET": "1"})
def run_kernels() -> None:
    from mimo_bench.models.kernels.swiglu import swiglu_backward, swiglu_forward
    from mimo_bench.models.kernels.triton import launch_swiglu, launch_swiglu_backward

    gate_up, gradient = torch.randn(3, 2, 2 * 1500), torch.randn(3, 2, 1500)
    gated, of_gate_up = torch.empty_like(gradient), torch.empty_like(gate_up)
    launch_swiglu(gate_up, gated)
    launch_swiglu_backward(gate_up, gradient, of_gate_up)
    torch.testing.assert_close(gated, swiglu_forward(gate_up))
    torch.testing.assert_close(of_gate_up, swiglu_backward(gate_up, gradient))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_are_those_of_the_formula(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    gate_up = torch.randn(5, 3, 32, generator=generator).to(dtype).requires_grad_()
    weights = torch.randn(5, 3, 16, generator=generator).to(dtype)
    found = swiglu(gate_up, None)
    (found * weights).sum().backward()
    exact = gate_up.detach().double().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    expected = torch.nn.functional.silu(gate) * up
    (expected * weights.double()).sum().backward()
    assert found.dtype == dtype
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=1e-6)
    assert gate_up.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(gate_up.grad.double(), exact.grad, rtol=tolerance, atol=1e-6)


def test_kernels_compute_what_the_formula_does_also_behind_the_end_of_a_block(
    launcher: Launcher, tmp_path: Path
) -> None:
    run_kernels(launcher, tmp_path)
