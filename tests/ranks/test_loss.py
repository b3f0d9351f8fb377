"""The fused loss is the cross entropy that torch computes, on one rank and over a vocabulary that two share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mimo_bench.launch import Launcher
from mimo_bench.models.kernels.cross_entropy import FusedCrossEntropy
from mimo_bench.trainer.device import join
from tests.support.ranks import on_ranks

# Half a unit in the last place of what a gradient is rounded to, and a few for sums in float32.
BOUNDS = {"torch.float32": 1e-6, "torch.bfloat16": 2.0**-8}


def take_losses() -> dict[str, dict[str, float]]:
    """Return how far losses and gradients over a shared vocabulary are from torch's own in float64, by dtype."""
    join("cpu")
    world = dist.group.WORLD
    assert world is not None
    rank, world_size = world.rank(), world.size()
    num_words, num_real = 6 * world_size, 6 * world_size - 2
    generator = torch.Generator().manual_seed(1)
    whole = 50 * torch.randn(5, 3, num_words, generator=generator)
    whole[..., num_real:] = -torch.inf
    labels = torch.randint(num_real, (5, 3), generator=generator)
    weights = torch.rand(5, 3, generator=generator)
    errors = {}
    for dtype in (torch.float32, torch.bfloat16):
        rounded = whole.to(dtype)
        expected = rounded.double().requires_grad_()
        losses = torch.nn.functional.cross_entropy(expected.flatten(0, 1), labels.flatten(), reduction="none")
        (losses.view(5, 3) * weights).sum().backward()
        assert expected.grad is not None
        mine = rounded.chunk(world_size, dim=-1)[rank].clone().requires_grad_()
        found = FusedCrossEntropy(world)(mine, labels)
        assert found.dtype == torch.float32
        (found * weights).sum().backward()
        assert mine.grad is not None
        assert mine.grad.dtype == dtype
        errors[str(dtype)] = {
            "loss": relative(found, losses.view(5, 3)),
            "gradient": relative(mine.grad, expected.grad.chunk(world_size, dim=-1)[rank]),
        }
    return errors


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_losses_and_gradients_are_torchs_own_with_logits_that_overflow_and_words_that_do_not_exist(
    launcher: Launcher, tmp_path: Path, num_ranks: int
) -> None:
    for errors in on_ranks(num_ranks)(take_losses)(launcher, tmp_path):
        assert errors.keys() == BOUNDS.keys()
        for dtype, error in errors.items():
            assert error["loss"] <= 1e-6, dtype
            assert error["gradient"] <= BOUNDS[dtype], dtype
