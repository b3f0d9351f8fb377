"""The layouts of the largest GPU scenario on CPU ranks, with a model small enough for them.

What a machine with that many GPUs will be asked to run has then passed the gate before anybody has queued for it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mimo_bench import cli
from mimo_bench.record.files import read_run

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


@pytest.mark.usefixtures("warm_commands")
def test_every_layout_of_the_8_gpu_scenario_trains_the_same_tiny_model(tmp_path: Path) -> None:
    scenario = shrink(REPOSITORY / "scenarios" / "gpu8.toml", tmp_path)
    options = ["--device", "cpu", "--modes", "parity", "--out", str(tmp_path / "out")]
    assert cli.main(["run", str(scenario), *options]) == 0
    ended = {layout.name: layout.status for layout in read_run(tmp_path / "out").layouts}
    assert len(ended) == 16
    assert set(ended.values()) == {"passed"}
