"""What a GPU draws and hashes is what a CPU does, to the bit."""

from __future__ import annotations

import subprocess
import sys

import pytest

HASHES = """
import torch
from mimo_bench.models.kernels.rng import digest

for dtype in (torch.float32, torch.bfloat16, torch.int64):
    values = (torch.randn(3, 100_003, generator=torch.Generator().manual_seed(1)) * 1000).to(dtype)
    assert digest(values.cuda()) == digest(values)
    assert digest(values.cuda().mT) == digest(values.mT)
"""

DRAWS = """
from concurrent.futures import ThreadPoolExecutor

import torch
from mimo_bench.models.kernels.rng import uniform

positions = torch.arange(0, 2**40, 2**40 // 100_003)
for key in "abcd":  # of which some start below zero
    assert torch.equal(uniform(key, positions.cuda()).cpu(), uniform(key, positions))
# A thread has no device of its own: it draws on the one that it is given.
with ThreadPoolExecutor(1) as pool:
    drawn = pool.submit(uniform, "a", positions.to(f"cuda:{torch.cuda.device_count() - 1}")).result()
assert torch.equal(drawn.cpu(), uniform("a", positions))
"""


@pytest.mark.gpu(2)
@pytest.mark.parametrize("program", [HASHES, DRAWS], ids=["hashes", "draws"])
def test_a_gpu_computes_the_same_integers_as_a_cpu(program: str) -> None:
    # In a process of its own: one that holds memory of a GPU would taint the runs of other tests.
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
