"""Predictions equal, to the byte, what a layout's trainer holds and what its ranks send each other."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.data.config import SyntheticData
from mimo_bench.data.synthetic import SyntheticDataset
from mimo_bench.launch import Launcher
from mimo_bench.predict import predict_communication, predict_memory
from mimo_bench.predict.step import Items
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from tests.ranks.trainer_job import run_entry
from tests.support.pairs import Case, Facets, facets_of, pairwise_cover, parameters

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
    ("three_modules", "encoders-share-their-ranks"),
    ("uneven_images", "colocated-vision-dp2-language-tp2"),
    ("uneven_images", "vision-1--language-dp2"),
    ("experts", "colocated-tp2"),
    ("experts", "colocated-tp2-ep2"),
    ("experts", "colocated-tp2-dp2-ep2"),
    ("experts", "vision-dp2--language-dp4-ep2"),
    ("experts", "vision-1--language-pp2-dp2-ep2"),
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

[[layout]]
name = "encoders-share-their-ranks"
vision = { tp = 2 }
audio = { dp = 2 }
language = { tp = 2, rank_offset = 2 }
settings = { sequence_parallel = true, overlap_grad_reduce = true }

[training]
freeze = ["vision.encoder"]
"""


SCENARIO_FILES = ("cpu_smoke", "siglip_qwen2", "uneven_images", "experts")
LOADED = {name: load_scenario(SCENARIOS / f"{name}.toml") for name in SCENARIO_FILES}
LOADED["three_modules"] = Scenario.model_validate(tomllib.loads(THREE_MODULES))
CASES: dict[Case, Facets] = {(file, name): facets_of(LOADED[file].table(name), family=file) for file, name in LAYOUTS}
COVER = pairwise_cover(CASES, {(file, name): LOADED[file].table(name).grids().world_size for file, name in LAYOUTS})

Metered = Callable[[str, str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def metered(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Metered:
    """Return what every rank of a layout left of one step; each layout is run once."""
    known: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def meter(file: str, layout: str) -> list[dict[str, Any]]:
        if (file, layout) not in known:
            folder = tmp_path_factory.mktemp("metered")
            world_size = run_entry(launcher, "meter_a_step", LOADED[file], layout, folder)
            known[file, layout] = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world_size)]
        return known[file, layout]

    return meter


@pytest.mark.parametrize(("file", "layout"), parameters(CASES, COVER))
def test_a_rank_holds_the_bytes_that_were_predicted(metered: Metered, file: str, layout: str) -> None:
    ranks = metered(file, layout)
    predictions = predict_memory(LOADED[file], layout)
    assert len(predictions) == len(ranks)
    for found, predicted in zip(ranks, predictions, strict=True):
        for module, held in found["held"].items():
            expected = predicted.modules[module]
            assert {field: getattr(expected, field) for field in held} == held, (predicted.rank, module)


@pytest.mark.parametrize(("file", "layout"), parameters(CASES, COVER))
def test_ranks_call_what_was_predicted_with_as_many_bytes(metered: Metered, file: str, layout: str) -> None:
    calls, num_bytes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for call in (call for rank in metered(file, layout) for call in rank["calls"]):
        calls[call["role"], call["collective"]] += 1
        num_bytes[call["role"], call["collective"]] += call["bytes"]
    scenario = LOADED[file]
    predicted = predict_communication(scenario, layout, items=[items_of_the_first_batch(scenario)])
    assert predicted.left_out == {}
    assert {(row.role, row.collective): (row.num_calls, row.num_bytes) for row in predicted.rows} == {
        key: (count, num_bytes[key]) for key, count in calls.items()
    }


def items_of_the_first_batch(scenario: Scenario) -> Items:
    """Return the items of each sample of the first batch, by module."""
    assert isinstance(scenario.data, SyntheticData)
    data = SyntheticDataset(scenario.data, shape=scenario.shape, seq_length=scenario.seq_length, seed=scenario.seed)
    ids = range(scenario.global_batch_size)
    return {module: [data.num_items(module, "train", one) for one in ids] for module in scenario.shape.encoders}
