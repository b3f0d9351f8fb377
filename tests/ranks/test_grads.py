"""Gradients are summed over replicas and divided by one global count, and every rank learns of the same step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.launch import Launcher
from tests.ranks.conftest import ONE_RANK, TINY, Observed
from tests.ranks.trainer_job import run_entry

LAST = "vision-1--language-dp2"
OTHERS = ("vision-dp2--language-tp2", LAST, "language-dp2--vision-1", "vision-1--language-pp2")
Step = dict[str, Any]


@pytest.fixture(scope="module")
def step(observed: Observed) -> Callable[[str], list[Step]]:
    """Return the first step of a layout as each rank knows it."""
    return lambda layout: [rank["step"] for rank in observed(TINY, layout)]


@pytest.mark.parametrize("layout", OTHERS)
def test_every_module_gets_the_gradient_that_it_gets_on_one_rank(
    layout: str, step: Callable[[str], list[Step]]
) -> None:
    (one,), found = step(ONE_RANK), step(layout)[0]
    assert one["grad_norms"].keys() == {"vision", "language"}
    assert found["grad_norms"] == {module: pytest.approx(norm, rel=1e-5) for module, norm in one["grad_norms"].items()}
    assert found["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert min(one["grad_norms"].values()) > 0.01


def test_replicas_score_different_numbers_of_tokens_so_that_a_local_count_would_show(
    step: Callable[[str], list[Step]],
) -> None:
    _, *language = (rank["scored_here"] for rank in step(LAST))
    assert len(set(language)) == 2
    assert sum(language) == step(ONE_RANK)[0]["scored_here"]


@pytest.mark.parametrize("layout", OTHERS)
def test_every_rank_knows_loss_and_totals_wherever_the_loss_is_computed(
    layout: str, step: Callable[[str], list[Step]]
) -> None:
    first, *others = ({key: value for key, value in rank.items() if key != "scored_here"} for rank in step(layout))
    assert all(other == first for other in others)
    assert first["loss"] == first["totals"]["loss"] / first["totals"]["scored_tokens"] > 0


@pytest.mark.parametrize("layout", [ONE_RANK, *OTHERS])
def test_every_sample_is_counted_once(layout: str, step: Callable[[str], list[Step]]) -> None:
    for rank in step(layout):
        assert rank["num_items"] == {"vision": TINY.global_batch_size} == {"vision": 4}
        assert rank["totals"]["scored_tokens"] == step(ONE_RANK)[0]["scored_here"]
        assert rank["num_tokens"] == step(ONE_RANK)[0]["num_tokens"]
        assert rank["num_token_pairs"] == step(ONE_RANK)[0]["num_token_pairs"]


def test_the_wish_to_reduce_whole_gradients_reaches_every_module_over_its_own_groups(
    launcher: Launcher, tmp_path: Path
) -> None:
    run_entry(launcher, "finish_gradients_twice", TINY, ONE_RANK, tmp_path)
    calls = json.loads((tmp_path / "rank0.json").read_text())
    # megatron-core must not divide: that happens once, by the global count.
    assert calls == [
        {"module": module, "force": force, "own_groups": True, "divides": False}
        for force in (True, False)
        for module in ("vision", "language")
    ]
