"""Numbers depend on key and position alone, and a digest sees every value and its place."""

from __future__ import annotations

import hashlib

import pytest
import torch

from mimo_bench.models.kernels.rng import digest, uniform
from mimo_bench.util.rng import first_of

WORD = 1 << 64


def splitmix64(state: int) -> int:
    """The finaliser as its authors print it, in Python's own integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % WORD
    return state ^ (state >> 31)


def test_the_numbers_are_those_of_splitmix64_in_plain_integers() -> None:
    start = int.from_bytes(hashlib.sha256(b"0/language.a").digest()[:8], "big")
    positions = [0, 1, 2, 1000, 2**40]
    expected = [(splitmix64((start + p * 0x9E3779B97F4A7C15) % WORD) >> 40) / 2**24 for p in positions]
    assert uniform("0/language.a", torch.tensor(positions)).tolist() == expected


def test_the_first_number_can_be_told_without_torch() -> None:
    keys = [f"7/train/{sample}/vision.count" for sample in range(200)]
    assert [first_of(key) for key in keys] == [float(uniform(key, torch.tensor([0]))) for key in keys]


def test_a_number_depends_on_its_position_alone_not_on_its_neighbours() -> None:
    whole = uniform("key", torch.arange(12).view(3, 4))
    assert whole.shape == (3, 4)
    assert torch.equal(whole[:, 1::2], uniform("key", torch.tensor([[1, 3], [5, 7], [9, 11]])))
    assert torch.equal(whole.flatten().flip(0), uniform("key", torch.arange(11, -1, -1)))


def test_other_keys_give_other_numbers() -> None:
    positions = torch.arange(1000)
    drawn = {key: uniform(key, positions) for key in ("0/a", "1/a", "0/b", "")}
    # Two of 2**24 values are equal once in 16 million draws.
    assert all((drawn["0/a"] == drawn[other]).sum() <= 1 for other in ("1/a", "0/b", ""))


def test_the_numbers_fill_0_to_1_evenly() -> None:
    numbers = uniform("even", torch.arange(100_000)).double()
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    # The mean of 100,000 lies within 5 standard errors, sqrt(1/12/100,000) = 9.1e-4, of 1/2.
    assert numbers.mean().item() == pytest.approx(1 / 2, abs=5e-3)
    assert numbers.var().item() == pytest.approx(1 / 12, rel=0.02)
    assert (numbers[:-1] - 0.5).dot(numbers[1:] - 0.5).item() / len(numbers) == pytest.approx(0.0, abs=2e-3)
    # Each tenth holds 10,000 +- 95.
    assert all(9_500 < count < 10_500 for count in torch.histc(numbers, 10, 0.0, 1.0).tolist())


VALUES = {
    "float32": torch.tensor([[0.5, -1.0, 3.0], [0.0, 1e-30, 2.0]]),
    "int64": torch.tensor([[5, -1, 3], [0, 2**40, 2]]),
}


@pytest.mark.parametrize("kind", VALUES)
def test_equal_tensors_have_equal_digests_however_they_lie_in_memory(kind: str) -> None:
    values = VALUES[kind]
    assert digest(values) == digest(values.clone()) == digest(values.t().contiguous().t())
    assert len(digest(values)) == 16
    assert int(digest(values), 16) >= 0


@pytest.mark.parametrize("kind", VALUES)
def test_any_value_that_changes_changes_the_digest(kind: str) -> None:
    values = VALUES[kind]
    digests = {digest(values)}
    for position in range(values.numel()):
        changed = values.clone().flatten()
        changed[position] += 1
        digests.add(digest(changed))
    assert len(digests) == 1 + 6


def test_one_unit_in_the_last_place_changes_the_digest() -> None:
    values = VALUES["float32"]
    changed = values.clone()
    changed[0, 2] = torch.nextafter(changed[0, 2], torch.tensor(4.0))
    assert digest(changed) != digest(values)


@pytest.mark.parametrize("kind", VALUES)
def test_any_two_values_that_swap_places_change_the_digest(kind: str) -> None:
    flat = VALUES[kind].flatten()
    digests = {digest(flat)}
    for first in range(6):
        for second in range(first + 1, 6):
            order = list(range(6))
            order[first], order[second] = second, first
            digests.add(digest(flat[order]))
    assert len(digests) == 1 + 15  # pairs of six


@pytest.mark.parametrize("kind", VALUES)
def test_a_row_that_moves_changes_the_digest(kind: str) -> None:
    values = VALUES[kind]
    assert digest(values.roll(1, dims=0)) != digest(values)
    assert digest(values[:1]) != digest(values[1:])


def test_bf16_is_hashed_by_value() -> None:
    values = torch.tensor([0.5, -1.25, 3.0])
    assert digest(values.bfloat16()) == digest(values)
