"""A baseline's tensors come back from disk as they were, in chunks and out of order of reading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mimo_bench.models.kernels import rng as counter_random
from mimo_bench.models.kernels.rng import digest
from mimo_bench.parity.probes import tensors

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks, the last one short."""
    monkeypatch.setattr(tensors, "CHUNK", 7)


def test_a_tensor_comes_back_in_its_order(tmp_path: Path) -> None:
    tensor = torch.randn(23, 11).t()
    tensors.write(tmp_path / "tensor", tensor)
    parts = list(tensors.stream(tmp_path / "tensor", CPU))
    assert [len(part) for part in parts] == [7] * 36 + [1]
    assert torch.equal(torch.cat(parts), tensor.flatten())


def test_a_file_that_ends_early_is_no_tensor(tmp_path: Path) -> None:
    tensors.write(tmp_path / "tensor", torch.ones(100))
    parts = tensors.stream(tmp_path / "tensor", CPU)
    next(parts)
    with (tmp_path / "tensor").open("r+b") as file:
        file.truncate(320)
    with pytest.raises(EOFError, match="tensor ended while it was read"):
        list(parts)


def test_a_digest_does_not_depend_on_how_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(100)
    whole, swapped = digest(tensor), tensor.clone()
    swapped[[3, 98]] = tensor[[98, 3]]
    monkeypatch.setattr(counter_random, "CHUNK", 7)
    assert digest(tensor) == whole
    assert digest(swapped) != whole
