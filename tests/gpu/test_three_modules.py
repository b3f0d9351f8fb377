"""Three modules on 2 GPUs train in fp32 what they train on CPU ranks, also with both encoders on one GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.running import hold_against_cpu, run

SCENARIO = """
question = "Do GPUs train three modules as CPUs do?"
model = "llava-audio-tiny"
global_batch_size = 4
global_micro_batch_size = 2
seq_length = 48
baseline = "one-span"

[steps]
parity = 3
warmup = 1
timed = 2

[training]
learning_rate = 2e-4

[[layout]]
name = "one-span"
vision = { dp = 2 }
audio = { dp = 2 }
language = { dp = 2 }

[[layout]]
name = "encoders-on-one"
vision = {}
audio = {}
language = { rank_offset = 1 }

[[layout]]
name = "one-span-tp2"
vision = { tp = 2 }
audio = { tp = 2 }
language = { tp = 2 }
settings = { sequence_parallel = true, distributed_optimizer = true }
"""


@pytest.mark.gpu(2)
def test_three_modules_train_on_gpus_what_they_train_on_cpu_ranks(tmp_path: Path) -> None:
    scenario = tmp_path / "three.toml"
    scenario.write_text(SCENARIO, encoding="utf-8")
    records = []
    for device in ("cuda", "cpu"):
        status, record = run(scenario, tmp_path / device, "--device", device, "--modes", "parity")
        assert status == 0, [(layout.name, layout.reason) for layout in record.layouts]
        records.append(record)
    hold_against_cpu(*records)
