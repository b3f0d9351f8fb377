"""The layouts of the scenarios for 4 and 8 GPUs on CPU ranks, with models small enough for them.

What a machine with that many GPUs will be asked to run has then passed the gate before anybody has queued for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from mimo_bench.launch import Launcher
from mimo_bench.scenario.load import load_scenario
from tests.ranks.gate import Gate
from tests.support.pairs import Case, Facets, cases_of, pairwise_cover, parameters

REPOSITORY = Path(__file__).parents[2]


def tiny_llava() -> dict[str, object]:
    """Eight key-value groups, as the widest layout asks for a TP of 8."""
    config = json.loads((REPOSITORY / "tests" / "configs" / "clip_llama.json").read_text(encoding="utf-8"))
    config["text_config"]["num_key_value_heads"] = 8
    config["vision_config"]["num_hidden_layers"] = 3  # two of them are used
    return dict(config)


def tiny_voxtral() -> dict[str, object]:
    """As many key-value groups as the widest layout has tensor-parallel ranks."""
    config = json.loads((REPOSITORY / "tests" / "configs" / "voxtral.json").read_text(encoding="utf-8"))
    config["text_config"]["num_key_value_heads"] = 4
    return dict(config)


def shrink(scenario: Path, folder: Path, *, global_batch_size: int) -> Path:
    """Write a copy of the file with a tiny model; return its path."""
    text = scenario.read_text(encoding="utf-8")
    config = tiny_voxtral() if 'model = "models/audio' in text else tiny_llava()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tiny = {
        "model": '"config.json"',
        "seq_length": "32",
        "precision": '"fp32"',
        "global_batch_size": str(global_batch_size),
    }
    for key, value in tiny.items():
        text, found = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert found == 1, key
    # Kernels that take nothing but bf16.
    text = re.sub(r'attention = "(cudnn|flash)"', 'attention = "default"', text)
    path = folder / scenario.name
    path.write_text(text, encoding="utf-8")
    return path


BATCHES = {"gpu8": 48, "gpu4": 48, "gpu4_full": 24, "gpu4_heavy_encoder": 8, "gpu4_light_encoder": 48}
"""Global batch size by scenario: at least two micro-batches of the layout that has the largest ones."""
SHIPPED = {name: load_scenario(REPOSITORY / "scenarios" / f"{name}.toml") for name in BATCHES}
CASES: dict[Case, Facets] = {}
for _name, _scenario in SHIPPED.items():
    CASES |= cases_of(_scenario, name=_name, family="voxtral" if "audio" in _scenario.model else "llava")
COVER = pairwise_cover(
    CASES, {(name, layout): SHIPPED[name].table(layout).grids().world_size for name, layout in CASES}
)


@pytest.fixture(scope="module")
def gates(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Gate]:
    """Return the gate of a scenario with a tiny model; its baseline trains once."""

    @cache
    def gate(name: str) -> Gate:
        folder = tmp_path_factory.mktemp(name)
        path = shrink(REPOSITORY / "scenarios" / f"{name}.toml", folder, global_batch_size=BATCHES[name])
        return Gate(launcher, load_scenario(path), folder / "out")

    return gate


@pytest.mark.parametrize(("name", "layout"), parameters(CASES, COVER))
def test_every_layout_of_a_gpu_scenario_trains_the_same_tiny_model(
    gates: Callable[[str], Gate], name: str, layout: str
) -> None:
    gate = gates(name)
    if layout == SHIPPED[name].baseline:
        assert gate.baseline.finished
    else:
        account = gate.judge(layout)
        assert account.status == "passed", account


def test_both_sizes_of_the_heavy_encoder_have_the_same_layouts() -> None:
    smaller, larger = (
        load_scenario(REPOSITORY / "scenarios" / f"gpu4_heavy_encoder{size}.toml") for size in ("", "_141gb")
    )
    assert smaller.layout == larger.layout
