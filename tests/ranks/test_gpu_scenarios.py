"""The layouts of the scenarios for 4 and 8 GPUs on CPU ranks, with models small enough for them.

What a machine with that many GPUs will be asked to run has then passed the gate before anybody has queued for it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mimo_bench.launch import Launcher
from mimo_bench.scenario.load import load_scenario
from tests.ranks.gate import Gate

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
    """The same file with a tiny model."""
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


@pytest.mark.parametrize(
    ("name", "global_batch_size", "num_layouts"),
    [
        # At least two micro-batches of the layout that has the largest ones.
        ("gpu8", 48, 16),
        ("gpu4", 48, 12),
        ("gpu4_full", 24, 7),
        ("gpu4_heavy_encoder", 8, 5),
        ("gpu4_light_encoder", 48, 7),
    ],
)
def test_every_layout_of_a_gpu_scenario_trains_the_same_tiny_model(
    launcher: Launcher, tmp_path: Path, name: str, global_batch_size: int, num_layouts: int
) -> None:
    path = shrink(REPOSITORY / "scenarios" / f"{name}.toml", tmp_path, global_batch_size=global_batch_size)
    scenario = load_scenario(path)
    gate = Gate(launcher, scenario, tmp_path / "out")
    others = [layout for layout in scenario.names if layout != scenario.baseline]
    assert len(others) == num_layouts - 1
    ended = {layout: gate.judge(layout) for layout in others}
    assert {account.status for account in ended.values()} == {"passed"}, ended


def test_both_sizes_of_the_heavy_encoder_have_the_same_layouts() -> None:
    smaller, larger = (
        load_scenario(REPOSITORY / "scenarios" / f"gpu4_heavy_encoder{size}.toml") for size in ("", "_141gb")
    )
    assert smaller.layout == larger.layout
