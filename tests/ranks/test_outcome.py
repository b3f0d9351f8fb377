"""Moments and updates are compared with the baseline's: bytes read and held for it, and the elements compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mimo_bench.launch import Launcher
from mimo_bench.layout.settings import Settings
from mimo_bench.scenario.scenario import Scenario
from tests.ranks.trainer_job import run_entry, scenario

CHUNK = 128
"""Elements that are compared at a time."""
SIZES = {
    "language.embedding.word_embeddings.weight": 256 * 64,  # split by rows
    "language.decoder.layers.0.mlp.linear_fc1.weight": 256 * 64,  # the rows of each half
    "language.decoder.layers.0.mlp.linear_fc2.weight": 64 * 128,  # split by columns
    "language.decoder.layers.0.input_layernorm.weight": 64,  # whole on every rank
}
LARGEST = max(SIZES.values())
MOST_BYTES = 4 * 2 * LARGEST + LARGEST // 8 + 12 * 8 * CHUNK
"""Two full tensors, a bit for each element, and some copies of a chunk in float64."""
LAYOUTS: dict[str, dict[str, int]] = {"one-rank": {}, "tp2-dp2": {"tp": 2, "dp": 2}}
Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def held(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Found, Path]]:
    """Return the findings of each rank of a layout and their folder; each starts once, with a distributed optimizer."""
    known: dict[str, tuple[Found, Path]] = {}

    def start(layout: str) -> tuple[Found, Path]:
        if layout not in known:
            folder = tmp_path_factory.mktemp(layout)
            made = scenario({layout: (LAYOUTS[layout], LAYOUTS[layout])})
            table = made.table(layout).model_copy(update={"settings": Settings(distributed_optimizer=True)})
            made = Scenario.model_validate({**dict(made), "layout": (table,)})
            asked = {"parameters": list(SIZES), "chunk": CHUNK, "limit": MOST_BYTES}
            num_ranks = run_entry(launcher, "hold_outcomes", made, layout, folder, module="outcome_entries", **asked)
            ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(num_ranks)]
            known[layout] = ranks, folder / "outcome"
        return known[layout]

    return start


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_the_same_to_the_last_bit_is_neither_read_nor_copied(
    layout: str, held: Callable[[str], tuple[Found, Path]]
) -> None:
    for rank in held(layout)[0]:
        assert (rank["same"]["read"], rank["same"]["copied"]) == (0, 0)
        found = rank["same"]["differences"]
        assert [[one["error_norm"] for one in found[kind]] for kind in sorted(found)] == [[0.0] * len(SIZES)] * 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_differs_is_read_once_and_nothing_is_copied(
    layout: str, held: Callable[[str], tuple[Found, Path]]
) -> None:
    ranks, _ = held(layout)
    # Two moments and the update of every parameter, over all ranks.
    assert sum(rank["other"]["read"] for rank in ranks) == 3 * 4 * sum(SIZES.values())
    assert all(rank["other"]["copied"] == 0 for rank in ranks)


@pytest.mark.parametrize(("layout", "num_gathered", "num_whole"), [("one-rank", 1, 1), ("tp2-dp2", 2, 4)])
def test_what_replicas_gathered_is_hashed_once_in_each_and_what_is_not_split_on_every_rank(
    layout: str, num_gathered: int, num_whole: int, held: Callable[[str], tuple[Found, Path]]
) -> None:
    num_bytes = 4 * (num_gathered * (sum(SIZES.values()) - 64) + num_whole * 64)
    ranks, _ = held(layout)
    assert sum(rank["weights_hashed"] for rank in ranks) == num_bytes
    # Two moments and the update.
    assert sum(rank["other"]["hashed"] for rank in ranks) == 3 * num_bytes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_beside_two_full_tensors_a_rank_holds_a_bit_for_each_element_and_chunks(
    layout: str, held: Callable[[str], tuple[Found, Path]]
) -> None:
    for rank in held(layout)[0]:
        assert LARGEST < rank["peak"] <= MOST_BYTES


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_update_is_compared_where_the_second_moment_is_more_than_a_millionth_of_its_mean(
    layout: str, held: Callable[[str], tuple[Found, Path]]
) -> None:
    (first, *_), outcome = held(layout)
    num_left_out = 0
    for one in first["other"]["differences"]["updates"]:
        second, before = (
            torch.from_file(str(outcome / kind / f"{one['parameter']}.float32"), size=SIZES[one["parameter"]]).double()
            for kind in ("exp_avg_sq", "updates")
        )
        where = second > 1e-6 * second.mean()
        num_left_out += int((~where).sum())
        assert one["baseline_norm"] == pytest.approx((before * where).norm().item(), rel=1e-12)
        if layout == "one-rank":
            update = torch.tensor(first["updates"][one["parameter"]]).double()
            off = (update - before) * where
            assert one["error_norm"] == pytest.approx(off.norm().item(), rel=1e-12)
            assert one["error_max"] == off.abs().max().item()
    assert num_left_out > 0
