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
    from mimo_bench.models.kernels.swiglu import gate, ungate
    from mimo_bench.models.kernels.triton import launch_gate, launch_ungate

    both, gradient = torch.randn(3, 2, 2 * 1500), torch.randn(3, 2, 1500)
    gated, of_both = torch.empty_like(gradient), torch.empty_like(both)
    launch_gate(both, gated)
    launch_ungate(both, gradient, of_both)
    torch.testing.assert_close(gated, gate(both))
    torch.testing.assert_close(of_both, ungate(both, gradient))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_are_those_of_the_formula(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(5, 3, 32, generator=generator).to(dtype).requires_grad_()
    weights = torch.randn(5, 3, 16, generator=generator).to(dtype)
    found = swiglu(both, None)
    (found * weights).sum().backward()
    exact = both.detach().double().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    expected = torch.nn.functional.silu(gate) * up
    (expected * weights.double()).sum().backward()
    assert found.dtype == dtype
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=1e-6)
    assert both.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(both.grad.double(), exact.grad, rtol=tolerance, atol=1e-6)


def test_kernels_compute_what_the_formula_does_also_behind_the_end_of_a_block(
    launcher: Launcher, tmp_path: Path
) -> None:
    run_kernels(launcher, tmp_path)
