"""A weight gradient is added to what earlier micro-batches gave, in the precision of the buffer."""

from __future__ import annotations

import pytest
import torch

from mimo_bench.trainer.models.accumulation import add_weight_gradient


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
