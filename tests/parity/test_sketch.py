"""A sketch of a tensor says how far it is from another, without either."""

from __future__ import annotations

import pytest
import torch

from mimo_bench.parity.probes import tensors
from mimo_bench.parity.probes.sketch import NUM_SUMS, sketch, sketched_difference


def tensor(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_sketch_is_that_of_the_sum_of_two_tensors_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tensor(0, 700, 9), tensor(1, 700, 9)
    whole = sketch("a", one)
    assert torch.allclose(whole + sketch("a", other), sketch("a", one.double().add(other)), rtol=0, atol=1e-9)
    monkeypatch.setattr(tensors, "CHUNK", 100)
    assert torch.allclose(sketch("a", one), whole, rtol=0, atol=1e-9)
    assert not torch.allclose(sketch("b", one), whole)


def test_a_small_tensor_is_kept_and_its_difference_is_exact() -> None:
    one = tensor(0, NUM_SUMS)
    off = one + 1e-3 * tensor(1, NUM_SUMS)
    found = sketched_difference("vision.a", sketch("a", off).tolist(), sketch("a", one).tolist())
    assert found.module == "vision"
    assert found.error_norm == pytest.approx((off - one).double().norm().item())
    assert found.baseline_norm == pytest.approx(one.double().norm().item())


@pytest.mark.parametrize("share", [1e-4, 0.1, 1.0])
def test_the_norm_of_a_difference_comes_out_to_some_per_cent(share: float) -> None:
    one, error = tensor(0, 300, 400), tensor(1, 300, 400)
    found = sketched_difference("v.a", sketch("a", one.double() + share * error).tolist(), sketch("a", one).tolist())
    assert found.error_norm == pytest.approx(share * error.double().norm().item(), rel=0.15)


@pytest.mark.parametrize("factor", [0.0, -1.0, 0.5])
def test_a_factor_is_exact(factor: float) -> None:
    one = sketch("a", tensor(0, 300, 400))
    found = sketched_difference("v.a", (factor * one).tolist(), one.tolist())
    assert found.scale == pytest.approx(factor)
    assert found.unscaled_error_norm == pytest.approx(0.0, abs=1e-6)


def test_one_wrong_number_or_none_is_seen() -> None:
    one = tensor(0, 300, 400)
    broken = one.clone()
    broken[7, 7] = torch.nan
    assert sketched_difference("v.a", sketch("a", broken).tolist(), sketch("a", one).tolist()).error_norm is None
    broken[7, 7] = one[7, 7] + 0.5
    found = sketched_difference("v.a", sketch("a", broken).tolist(), sketch("a", one).tolist())
    assert found.error_norm == pytest.approx(0.5, rel=1e-4)
