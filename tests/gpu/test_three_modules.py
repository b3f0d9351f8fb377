"""Three modules on 2 GPUs train in fp32 what they train on CPU ranks, also with both encoders on one GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_bench.parity.differences import relative
from mimo_bench.parity.noise import PARITY_FLOOR
from tests.gpu.test_run import by_name, run

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
        status, record = run(scenario, tmp_path / device, "--device", device, "--modes", "parity,timing")
        assert status == 0, [(layout.name, layout.reason) for layout in record.layouts]
        records.append(by_name(record))
    on_gpus, on_cpu = records
    for name, layout in on_gpus.items():
        pairs = list(zip(layout.losses, on_cpu[name].losses, strict=True))
        assert all((relative(found, expected) or 0.0) <= PARITY_FLOOR.loss_rel for found, expected in pairs), (
            name,
            pairs,
        )
        for module, norms in layout.grad_norms.items():
            pairs = list(zip(norms, on_cpu[name].grad_norms[module], strict=True))
            assert all((relative(found, expected) or 0.0) <= PARITY_FLOOR.grad_norm_rel for found, expected in pairs), (
                name,
                module,
                pairs,
            )
