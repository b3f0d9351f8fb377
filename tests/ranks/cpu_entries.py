"""Entry for the test of calls that name a CUDA device: they are redirected for good, in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mimo_bench.trainer.megatron import cpu


def redirect(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Make and move tensors in every way there is; raises where one does not lie where it should."""
    cpu.install()
    tensor = torch.ones(2)
    for made in (
        torch.empty(2, device="cuda"),
        torch.asarray([1], device="cuda"),
        torch.tril_indices(3, 3, device="cuda"),
        torch.hann_window(4, device=torch.device("cuda", 1)),
        torch.logspace(0, 1, 3, device=0),
        torch.zeros_like(tensor, device="cuda"),
        torch.randint_like(tensor, 3, device="cuda"),
        tensor.new_zeros(2, device="cuda"),
        tensor.to("cuda:0"),
        tensor.to(0, torch.float64),
        tensor.to(device="cuda"),
        tensor.cuda(),
        torch.nn.Linear(2, 2, device="cuda").weight,
        torch.nn.Linear(2, 2).cuda().weight,
    ):
        assert made.device.type == "cpu"
    assert tensor.to(torch.float64).dtype == tensor.to("cuda", torch.float64).dtype == torch.float64
    assert tensor.type() == "torch.cuda.FloatTensor"
    assert tensor.type(torch.float64).dtype == torch.float64
    with torch.device("meta"):
        assert torch.empty(2).is_meta
        assert torch.nn.Linear(2, 2).weight.is_meta
