"""A weight gradient is added to what earlier micro-batches gave, in the precision of the buffer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from mimo_bench.launch import Launcher
from mimo_bench.models.kernels.linear import add_weight_gradient
from tests.support.ranks import on_ranks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_added_and_rounded_only_to_the_buffers_precision(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, gradient, earlier = (torch.randn(*shape, generator=generator) for shape in ((96, 24), (96, 40), (40, 24)))
    inputs, gradient = inputs.to(dtype), gradient.to(dtype)
    buffer = earlier.clone()
    add_weight_gradient(buffer, gradient, inputs)
    expected = earlier.double() + gradient.double().t() @ inputs.double()
    assert buffer.dtype == torch.float32
    assert float((buffer - expected).norm() / expected.norm()) < 1e-6


@on_ranks(1, environment={"TORCHDYNAMO_DISABLE": "0"})
def compile_and_compare() -> None:
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from mimo_bench.models.kernels.linear import _Product

    # A group of two that sends nothing: its other rank adds zeros.
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)

    def gradients(product: Callable[..., Any]) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(0)
        parts = [torch.randn(*shape, generator=generator, requires_grad=True) for shape in ((4, 8), (6, 8))]
        inputs, weight = cast("list[Any]", parts)
        weight.main_grad = torch.zeros(6, 8)
        product(inputs, weight, weight.main_grad).square().sum().backward()
        return inputs.grad, weight.main_grad

    def product(inputs: Any, weight: Any, main_gradient: Any) -> Any:
        apply: Any = _Product.apply
        return apply(inputs * 2, weight, main_gradient, dist.group.WORLD)

    # Whole, or it raises.
    compiled = torch.compile(product, backend="aot_eager", fullgraph=True)
    for plain, same in zip(gradients(product), gradients(compiled), strict=True):
        assert plain.abs().sum() > 0
        assert torch.equal(plain, same)


def test_a_tensor_parallel_product_is_compiled_whole_and_computes_the_same(launcher: Launcher, tmp_path: Path) -> None:
    # In a process of its own, as its group is the world.
    compile_and_compare(launcher, tmp_path)
