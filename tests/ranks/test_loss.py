"""The fused loss is the cross entropy that torch computes, on one rank and over a vocabulary that two share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mimo_bench.launch import Launcher
from tests.ranks.trainer_job import run_entry, scenario

LAYOUTS: dict[str, tuple[dict[str, int], dict[str, int]]] = {"one-rank": ({}, {}), "tp2": ({"tp": 2}, {"tp": 2})}

# Half a unit in the last place of what a gradient is rounded to, and a few for sums in float32.
BOUNDS = {"torch.float32": 1e-6, "torch.bfloat16": 2.0**-8}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_and_gradients_are_torchs_own_with_logits_that_overflow_and_words_that_do_not_exist(
    launcher: Launcher, tmp_path: Path, layout: str
) -> None:
    for rank in range(run_entry(launcher, "take_losses", scenario(LAYOUTS), layout, tmp_path)):
        for dtype, errors in json.loads((tmp_path / f"rank{rank}.json").read_text()).items():
            assert errors["loss"] <= 1e-6, dtype
            assert errors["gradient"] <= BOUNDS[dtype], dtype
