"""A user's own images train alike in two layouts: the example's, with bad samples left out, and photographs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from examples import own_images
from mimo_bench.cli.app import main
from mimo_bench.launch import Launcher
from mimo_bench.scenario.load import load_scenario
from tests.ranks.gate import Gate
from tests.support.pictures import write_folder

REPOSITORY = Path(__file__).parents[2]
PHOTOGRAPHS = """
question = "Do photographs train alike?"
model = "llava-tiny"
global_batch_size = 8
global_micro_batch_size = 4
seq_length = 64
baseline = "one-rank"
steps = { parity = 3 }

[data]
provider = "huggingface"
path = "train.jsonl"
validation = "train[75%:]"
processor = "processor"

[[layout]]
name = "one-rank"
vision = {}
language = {}

[[layout]]
name = "vision-dp2--language-tp2"
vision = { dp = 2 }
language = { tp = 2, rank_offset = 2 }
"""


def test_images_of_the_example_train_alike_in_two_layouts_and_bad_samples_are_counted(
    launcher: Launcher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = REPOSITORY / "examples" / "own_images.py"
    said = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "own")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    # What it says to type next is typed here; the second is what the gate below does of a run.
    check, run = (shlex.split(line)[1:] for line in said.stdout.splitlines())
    assert main(check) == 0
    told = capsys.readouterr().out
    assert "2 layouts of our-llava/config.json" in told
    assert "train has 24 samples of up to 2 images" in told
    assert "warning" not in told
    assert run == ["run", check[1], "--device", "cpu"]

    bad = {**own_images.conversation(0), "images": ["nothing.png"]}
    samples = tmp_path / "own/train.jsonl"
    line = json.dumps(bad) + "\n"
    # One of those that are trained on, and one of those that are held out.
    samples.write_text(line + samples.read_text(encoding="utf-8") + line, encoding="utf-8")
    gate = Gate(launcher, load_scenario(Path(check[1])), tmp_path / "run", hang_seconds=120.0)
    account = gate.judge("fan-in")
    assert (account.status, account.reason.split(":")[0]) == ("passed", "2 steps agree")
    for rank in (*gate.baseline.ranks, *account.ranks):
        assert rank.skipped_samples == {"train": 1, "validation": 1}
    log = (tmp_path / "run/layouts/fan-in/parity/rank2.log").read_text()
    for row in (1, 34):
        assert f"row {row} of the file, counted from 1 ('sample-0'): image {tmp_path / 'own/nothing.png'} does" in log


def test_photographs_train_alike_in_two_layouts(launcher: Launcher, tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "photographs.toml").write_text(PHOTOGRAPHS, encoding="utf-8")
    gate = Gate(launcher, load_scenario(tmp_path / "photographs.toml"), tmp_path / "run", hang_seconds=120.0)
    account = gate.judge("vision-dp2--language-tp2")
    assert (account.status, account.reason.split(":")[0]) == ("passed", "3 steps agree")
    # Three steps are an epoch: 24 conversations of one image, two, none and one.
    assert sum(gate.baseline.ranks[0].items["vision"]) == 24 // 4 * (1 + 2 + 0 + 1)
