"""Four GPUs call what shapes give, and their traces can be shortened and read on their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_bench.record.files import read_rank
from tests.gpu.running import run
from tests.support import traces

SCENARIO = """
question = "Do traces of four GPUs say what their ranks called?"
model = "llava-tiny"
global_batch_size = 8
global_micro_batch_size = 4
seq_length = 48
precision = "bf16"
baseline = "colocated"

[steps]
parity = 2
warmup = 2
timed = 3

[[layout]]
name = "colocated"
vision = { dp = 4 }
language = { tp = 2, dp = 2 }
settings = { sequence_parallel = true, distributed_optimizer = true }

[[layout]]
name = "fan-in"
vision = { dp = 2 }
language = { tp = 2, rank_offset = 2 }
settings = { recompute_activations = true }
"""


@pytest.mark.gpu(4)
def test_traces_of_four_gpus_say_what_their_ranks_called(tmp_path: Path) -> None:
    scenario, out = tmp_path / "four.toml", tmp_path / "out"
    scenario.write_text(SCENARIO, encoding="utf-8")
    # The record is held against its identities: calls and bytes are those that shapes give.
    status, record = run(scenario, out, "--device", "cuda", "--modes", "comm")
    assert status == 0
    for layout in record.layouts:
        for rank in range(layout.world_size):
            place = out / "layouts" / layout.name / "comm"
            short = tmp_path / "short" / layout.name / f"rank{rank}.trace.json.gz"
            traces.shorten(place / f"rank{rank}.trace.json.gz", short)
            found, told = traces.read(short), read_rank(place / f"rank{rank}.json")
            roles = {key.removesuffix(f" {traces.COALESCED}") for key in found}
            assert {row.role for row in told.communication} <= roles, (layout.name, rank)
            assert found["compute"] > 0
