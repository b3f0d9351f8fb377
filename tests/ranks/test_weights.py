"""Every layout starts from the same tensors, whichever rank holds which slice of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mimo_bench.launch import Launcher
from mimo_bench.models.kernels.rng import uniform
from mimo_bench.models.parameters import parameters
from tests.ranks.conftest import ONE_RANK, PADDED, TINY, Observed
from tests.ranks.trainer_job import run_entry

Weights = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def weights(observed: Observed) -> Callable[[str], list[Weights]]:
    """Return what the ranks of a layout hold, by canonical name."""
    return lambda layout: [rank["weights"] for rank in observed(TINY, layout)]


OTHERS = [name for name in TINY.names if name != ONE_RANK]


@pytest.mark.parametrize("layout", OTHERS)
def test_gathered_weights_are_those_of_one_rank_bit_for_bit(
    layout: str, weights: Callable[[str], list[Weights]]
) -> None:
    (one,) = weights(ONE_RANK)
    ranks = weights(layout)
    assert {name for rank in ranks for name in rank} == set(one)
    for rank in ranks:
        for name, found in rank.items():
            assert torch.equal(found["full"], one[name]["full"]), name


@pytest.mark.parametrize("layout", ["tp2", "tp4"])
def test_weights_are_the_same_however_many_elements_are_drawn_and_gathered_at_a_time(
    layout: str, weights: Callable[[str], list[Weights]], launcher: Launcher, tmp_path: Path
) -> None:
    # Some rows at a time of what is split by columns, the last ones fewer; each slice of rows in a piece of its own.
    num_ranks = run_entry(launcher, "observe", TINY, layout, tmp_path, chunk=1000)
    (one,) = weights(ONE_RANK)
    for rank in range(num_ranks):
        found = torch.load(tmp_path / f"rank{rank}.pt")["weights"]
        assert found.keys() == one.keys()
        for name in found:
            assert torch.equal(found[name]["full"], one[name]["full"]), name


@pytest.mark.parametrize("layout", ["tp2", "tp4"])
def test_the_slices_of_all_ranks_tile_every_tensor_exactly_once(
    layout: str, weights: Callable[[str], list[Weights]]
) -> None:
    (one,) = weights(ONE_RANK)
    ranks = weights(layout)
    num_split = 0
    for name, whole in one.items():
        everything = torch.arange(whole["full"].numel())
        positions = [rank[name]["positions"] for rank in ranks]
        if ranks[0][name]["is_split"]:
            num_split += 1
            assert torch.equal(torch.cat(positions).sort().values, everything), name
        else:
            assert all(torch.equal(held, everything) for held in positions), name
        for rank, held in zip(ranks, positions, strict=True):
            assert torch.equal(rank[name]["local"].flatten(), whole["full"].flatten()[held]), name
    # A layer splits qkv, proj, fc1 and fc2, and in vision the biases of qkv and fc1, too. The projector splits its two
    # weights and the first bias, the language model its embedding and its head.
    assert num_split == 4 * 6 + 4 * 4 + 3 + 2


def test_gate_and_up_projection_are_each_split_on_their_own(weights: Callable[[str], list[Weights]]) -> None:
    name = "language.decoder.layers.1.mlp.linear_fc1.weight"
    (one,) = weights(ONE_RANK)
    gate, up = one[name]["full"][:128], one[name]["full"][128:]  # [2 x 128, 64], the gate first
    assert up.shape == (128, 64)
    for rank, held in enumerate(weights("tp2")):
        rows = slice(64 * rank, 64 * (rank + 1))
        assert torch.equal(held[name]["local"], torch.cat([gate[rows], up[rows]]))


def test_a_plain_projection_is_split_by_rows_or_columns(weights: Callable[[str], list[Weights]]) -> None:
    (one,) = weights(ONE_RANK)
    layer = "vision.encoder.vit.decoder.layers.0.mlp"
    for rank, held in enumerate(weights("tp4")):
        rows = slice(32 * rank, 32 * (rank + 1))  # 128 over 4
        assert torch.equal(held[f"{layer}.linear_fc1.weight"]["local"], one[f"{layer}.linear_fc1.weight"]["full"][rows])
        assert torch.equal(held[f"{layer}.linear_fc1.bias"]["local"], one[f"{layer}.linear_fc1.bias"]["full"][rows])
        assert torch.equal(
            held[f"{layer}.linear_fc2.weight"]["local"], one[f"{layer}.linear_fc2.weight"]["full"][:, rows]
        )


def test_a_later_stage_counts_its_layers_over_the_whole_model(weights: Callable[[str], list[Weights]]) -> None:
    layers = [
        sorted({name.split(".")[3] for name in rank if name.startswith("language.decoder.layers.")})
        for rank in weights("vision-1--language-pp2")
    ]
    assert layers == [[], ["0", "1"], ["2", "3"]]


def test_weights_are_those_that_the_declared_seed_draws_and_zero_is_a_seed(
    weights: Callable[[str], list[Weights]],
) -> None:
    (one,) = weights(ONE_RANK)
    norms = [name for name, found in one.items() if found["full"].dim() == 1 and not name.endswith("bias")]
    assert len(norms) > 8
    for name in norms:
        drawn = 1.0 + (uniform(f"0/{name}", torch.arange(len(one[name]["full"]))) - 0.5) * 0.1
        assert torch.equal(one[name]["full"], drawn), name


def test_no_two_parameters_start_alike_and_none_is_constant(weights: Callable[[str], list[Weights]]) -> None:
    (one,) = weights(ONE_RANK)
    firsts = {tuple(found["full"].flatten()[:4].tolist()) for found in one.values()}
    assert len(firsts) == len(one)
    assert all(found["full"].std() > 0 for found in one.values())


def test_a_matrix_keeps_the_size_of_what_it_multiplies(weights: Callable[[str], list[Weights]]) -> None:
    (one,) = weights(ONE_RANK)
    head = one["language.output_layer.weight"]["full"]
    assert head.shape == (256, 64)
    # 1 / sqrt(64); 16,384 draws estimate it to half a percent.
    assert head.std().item() == pytest.approx(0.125, rel=0.02)
    norm = one["language.decoder.final_layernorm.weight"]["full"]
    assert norm.min() >= 0.95
    assert norm.max() <= 1.05


def test_the_table_of_weights_knows_every_parameter_and_its_shape(weights: Callable[[str], list[Weights]]) -> None:
    (one,) = weights(ONE_RANK)
    rows = {row.name: row.shape for row in parameters(TINY.shape)}
    assert {name: tuple(found["full"].shape) for name, found in one.items()} == rows


EMBEDDING = "language.embedding.word_embeddings.weight"


def test_a_vocabulary_that_does_not_divide_is_padded_with_zeros_that_no_gathering_shows(observed: Observed) -> None:
    (whole,) = (rank["weights"] for rank in observed(PADDED, ONE_RANK))
    assert {name: tuple(found["full"].shape) for name, found in whole.items()} == {
        row.name: row.shape for row in parameters(PADDED.shape)
    }
    one, ranks = whole[EMBEDDING], [rank["weights"][EMBEDDING] for rank in observed(PADDED, "tp4")]
    assert one["full"].shape == one["local"].shape == (251, 64)
    assert all(torch.equal(rank["full"], one["full"]) for rank in ranks)
    # 63 rows each, one more than there are.
    together = torch.cat([rank["local"] for rank in ranks])
    assert torch.equal(together, torch.cat([one["full"], torch.zeros(1, 64)]))


def test_both_end_stages_hold_a_tied_embedding_under_one_name(observed: Observed) -> None:
    vision, first, *middle, last = (rank["weights"] for rank in observed(PADDED, "pp4"))
    assert torch.equal(first[EMBEDDING]["full"], last[EMBEDDING]["full"])
    assert not any(EMBEDDING in rank for rank in (vision, *middle))
    assert not any("output_layer" in name for name in last)
