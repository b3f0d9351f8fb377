"""Photographs with conversations, read by `datasets`, train alike in two layouts, with bad samples left out."""

from __future__ import annotations

import json
from pathlib import Path

from mimo_bench.launch import Launcher
from mimo_bench.scenario import load_scenario
from tests.distributed.gate import Gate
from tests.pictures import row, write_folder

SCENARIO = """
question = "Do our own photographs train alike?"
model = "llava-tiny"
global_batch_size = 8
global_micro_batch_size = 4
seq_length = 64
baseline = "one-rank"

[data]
provider = "huggingface"
path = "train.jsonl"
validation = "train[75%:]"
processor = "processor"
on_bad_sample = "skip"

[steps]
parity = 2
learning = 1
warmup = 1
timed = 1

[[layout]]
name = "one-rank"
vision = {}
language = {}

[[layout]]
name = "fan-in"
vision = { dp = 2 }
language = { rank_offset = 2 }
"""


def test_photographs_train_alike_in_two_layouts_and_bad_samples_are_counted(launcher: Launcher, tmp_path: Path) -> None:
    jsonl = write_folder(tmp_path)
    with jsonl.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**row(0), "images": ["pictures/nothing.png"]}) + "\n")
    (tmp_path / "own.toml").write_text(SCENARIO, encoding="utf-8")
    gate = Gate(launcher, load_scenario(tmp_path / "own.toml"), tmp_path / "run", hang_seconds=120.0)
    account = gate.judge("fan-in")
    assert (account.status, account.reason.split(":")[0]) == ("passed", "2 steps agree")
    for rank in (*gate.baseline.ranks, *account.ranks):
        assert rank.skipped_samples == {"train": 1, "validation": 1}
    assert "nothing.png does not exist" in (tmp_path / "run/layouts/fan-in/parity/rank2.log").read_text()
