"""Imported weights reach every rank in its own slices, and come back from there whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mimo_bench.launch import Launcher
from mimo_bench.models import read_model_shape
from mimo_bench.models.hf.convert import import_weights
from mimo_bench.models.hf.directory import read_manifest
from tests.ranks.trainer_job import run_entry, scenario
from tests.support.checkpoints import CONFIGS, save_random

LAYOUTS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "one-rank": ({}, {}),
    "tp4": ({"tp": 4}, {"tp": 4}),
    "vision-tp2--language-tp2-pp2": ({"tp": 2}, {"tp": 2, "pp": 2, "rank_offset": 2}),
    "vision-1--language-dp2": ({}, {"dp": 2, "rank_offset": 1}),
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of weights by family."""
    root = tmp_path_factory.mktemp("weights")
    for family in ("clip_llama", "siglip_qwen2"):
        import_weights(save_random(CONFIGS / f"{family}.json", root / f"{family}-saved"), root / family)
    return {family: root / family for family in ("clip_llama", "siglip_qwen2")}


@pytest.mark.parametrize("family", ["clip_llama", "siglip_qwen2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_that_ranks_read_and_write_again_are_the_same_files(
    family: str, layout: str, imported: dict[str, Path], launcher: Launcher, tmp_path: Path
) -> None:
    config = CONFIGS / f"{family}.json"
    made = scenario(LAYOUTS, model=str(config), configured=read_model_shape(config))
    run_entry(launcher, "pass_weights_on", made, layout, tmp_path, weights=str(imported[family]))
    before = {name: file.sha256 for name, file in read_manifest(imported[family]).files.items() if name != "aside"}
    assert json.loads((tmp_path / "rank0.json").read_text(encoding="utf-8")) == before
