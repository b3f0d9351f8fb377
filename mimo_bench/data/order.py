"""In which order the samples of a file are trained on: epoch by epoch, each in an order of its own."""

from __future__ import annotations

from functools import lru_cache

import torch

from mimo_bench.models import uniform


@lru_cache(maxsize=4)  # a batch may straddle two epochs
def shuffled(key: str, length: int) -> list[int]:
    """A permutation of `length` numbers; stable sorting, so that equal draws cannot make it depend on the machine."""
    order: list[int] = uniform(key, torch.arange(length)).argsort(stable=True).tolist()
    return order
