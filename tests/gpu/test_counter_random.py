"""What a GPU draws and hashes is what a CPU does, to the bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mimo_bench.trainer.counter_random import digest, uniform

POSITIONS = torch.arange(0, 2**40, 2**40 // 100_003)


@pytest.mark.gpu(1)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_a_gpu_hashes_what_a_cpu_hashes(dtype: torch.dtype) -> None:
    values = (torch.randn(3, 100_003, generator=torch.Generator().manual_seed(1)) * 1000).to(dtype)
    assert digest(values.cuda()) == digest(values)
    assert digest(values.cuda().mT) == digest(values.mT)


@pytest.mark.gpu(1)
def test_a_gpu_draws_what_a_cpu_draws() -> None:
    for key in "abcd":  # of which some start below zero
        assert torch.equal(uniform(key, POSITIONS.cuda()).cpu(), uniform(key, POSITIONS))


@pytest.mark.gpu(2)
def test_a_thread_draws_on_the_gpu_that_it_is_given() -> None:
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(uniform, "a", POSITIONS.to("cuda:1")).result()
    assert torch.equal(drawn.cpu(), uniform("a", POSITIONS))
