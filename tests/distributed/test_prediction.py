"""What is predicted of a layout is what its trainer holds, byte by byte, and what its ranks send each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.launch import Launcher
from mimo_bench.prediction import predict_memory
from mimo_bench.scenario import Scenario, load_scenario
from tests.distributed.trainer_job import run_entry

SCENARIOS = Path(__file__).parents[2] / "scenarios"

LAYOUTS = [
    ("cpu_smoke", "colocated-1-rank"),
    ("cpu_smoke", "colocated-vision-tp2-language-dp2"),
    ("cpu_smoke", "colocated-vision-dp2-language-tp2"),
    ("cpu_smoke", "colocated-tp2-dp2"),
    ("cpu_smoke", "vision-dp2--language-tp2"),
    ("cpu_smoke", "vision-dp1--language-dp2"),
    ("cpu_smoke", "vision-tp2--language-dp2"),
    ("cpu_smoke", "vision-tp2-dp2--language-tp2-pp2"),
    ("cpu_smoke", "vision-pp2-dp2--language-tp2"),
    ("siglip_qwen2", "colocated-vision-dp2-language-tp2"),
    ("siglip_qwen2", "vision-dp2--language-pp2"),
    ("siglip_qwen2", "vision-1--language-dp2-pp2"),
    ("siglip_qwen2", "vision-1--language-tp4"),
    ("three_modules", "colocated"),
    ("three_modules", "disjoint"),
]

THREE_MODULES = """
question = "Is every module counted?"
model = "llava-audio-tiny"
global_batch_size = 4
global_micro_batch_size = 2
seq_length = 64
precision = "bf16"
baseline = "colocated"

[[layout]]
name = "colocated"
vision = { dp = 2 }
audio = { tp = 2 }
language = { dp = 2 }

[[layout]]
name = "disjoint"
vision = {}
audio = { tp = 2, rank_offset = 1 }
language = { dp = 2, rank_offset = 3 }
settings = { distributed_optimizer = true }

[training]
freeze = ["vision.encoder"]
"""


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    own = tmp_path_factory.mktemp("scenario") / "three_modules.toml"
    own.write_text(THREE_MODULES, encoding="utf-8")
    paths = (SCENARIOS / "cpu_smoke.toml", SCENARIOS / "siglip_qwen2.toml", own)
    return {path.stem: load_scenario(path) for path in paths}


def metered(launcher: Launcher, scenario: Scenario, layout: str, folder: Path) -> list[dict[str, Any]]:
    """What every rank left of one step."""
    world_size = run_entry(launcher, "meter_a_step", scenario, layout, folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world_size)]


@pytest.mark.parametrize(("file", "layout"), LAYOUTS)
def test_a_rank_holds_the_bytes_that_were_predicted(
    launcher: Launcher, scenarios: dict[str, Scenario], tmp_path: Path, file: str, layout: str
) -> None:
    ranks = metered(launcher, scenarios[file], layout, tmp_path)
    predictions = predict_memory(scenarios[file], layout)
    assert len(predictions) == len(ranks)
    for found, predicted in zip(ranks, predictions, strict=True):
        for module, held in found["held"].items():
            expected = predicted.modules[module]
            assert {field: getattr(expected, field) for field in held} == held, (predicted.rank, module)
