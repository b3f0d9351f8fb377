"""Launches whose observations many test files read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mimo_bench.launch import Launcher
from mimo_bench.scenario.scenario import Scenario
from tests.ranks.trainer_job import run_entry, scenario

Observed = Callable[[Scenario, str], list[dict[str, Any]]]

ONE_RANK = "one-rank"
TINY = scenario(
    {
        ONE_RANK: ({}, {}),
        "tp2": ({"tp": 2}, {"tp": 2}),
        "tp4": ({"tp": 4}, {"tp": 4}),
        "colocated-vision-dp2-language-tp2": ({"dp": 2}, {"tp": 2}),
        "vision-dp2--language-tp2": ({"dp": 2}, {"tp": 2, "rank_offset": 2}),
        "vision-dp2--language-pp2": ({"dp": 2}, {"pp": 2, "rank_offset": 2}),
        "vision-1--language-dp2": ({}, {"dp": 2, "rank_offset": 1}),
        "language-dp2--vision-1": ({"rank_offset": 2}, {"dp": 2}),
        "vision-1--language-pp2": ({}, {"pp": 2, "rank_offset": 1}),
    },
    seed=0,
)
"""The layouts in which tests look at groups, weights and the first step."""
PADDED = scenario(
    {ONE_RANK: ({}, {}), "tp4": ({"tp": 4}, {"tp": 4}), "pp4": ({}, {"pp": 4, "rank_offset": 1})},
    model="siglip-qwen2-tiny",
)
"""A vocabulary that 4 does not divide, and an embedding that is also the head."""


@pytest.fixture(scope="session")
def observed(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """Return what each rank of a layout left: `groups`, `weights` and the first `step`; each layout starts once."""
    known: dict[str, list[dict[str, Any]]] = {}

    def observe(made: Scenario, layout: str) -> list[dict[str, Any]]:
        key = f"{layout} of {made.model_dump_json()}"
        if key not in known:
            folder = tmp_path_factory.mktemp(layout)
            num_ranks = run_entry(launcher, "observe", made, layout, folder)
            known[key] = [torch.load(folder / f"rank{rank}.pt") for rank in range(num_ranks)]
        return known[key]

    return observe
