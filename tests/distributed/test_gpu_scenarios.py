"""The layouts of the largest GPU scenario on CPU ranks, with a model small enough for them.

What a machine with that many GPUs will be asked to run has then passed the gate before anybody has queued for it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from mimo_bench.launch import Launcher
from mimo_bench.scenario import load_scenario
from tests.distributed.gate import Gate

REPOSITORY = Path(__file__).parents[2]


TINY = {
    "model": '"config.json"',
    "seq_length": "32",
    "precision": '"fp32"',
    "global_batch_size": "48",  # two micro-batches
}


def shrink(scenario: Path, folder: Path) -> Path:
    """The same file with a tiny model: eight key-value groups, as the widest layout asks for a TP of 8."""
    config = json.loads((REPOSITORY / "tests" / "configs" / "clip_llama.json").read_text(encoding="utf-8"))
    config["text_config"]["num_key_value_heads"] = 8
    config["vision_config"]["num_hidden_layers"] = 3  # two of them are used
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    text = scenario.read_text(encoding="utf-8")
    for key, value in TINY.items():
        text, found = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert found == 1, key
    # Kernels that take nothing but bf16.
    text = re.sub(r'attention = "(cudnn|flash)"', 'attention = "default"', text)
    path = folder / scenario.name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_layout_of_the_8_gpu_scenario_trains_the_same_tiny_model(launcher: Launcher, tmp_path: Path) -> None:
    scenario = load_scenario(shrink(REPOSITORY / "scenarios" / "gpu8.toml", tmp_path))
    gate = Gate(launcher, scenario, tmp_path / "out")
    others = [name for name in scenario.names if name != scenario.baseline]
    assert len(others) == 15
    ended = {name: gate.judge(name) for name in others}
    assert {account.status for account in ended.values()} == {"passed"}, ended
