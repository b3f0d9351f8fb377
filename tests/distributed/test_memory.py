"""The parts of memory belong to the step that held the peak, whichever of the window's steps that was."""

from __future__ import annotations

import json
from pathlib import Path

from mimo_bench.launch import Launcher
from tests.distributed.trainer_job import run_entry, scenario

NUM_STEPS = 3
SCENARIO = scenario(
    {"colocated": ({}, {}), "disjoint": ({}, {"rank_offset": 1})},
    data={"provider": "synthetic", "items_per_sample": {"vision": (3, 1, 1, 1, 2)}},
    seq_length=96,
    steps={"parity": 1, "warmup": 1, "timed": NUM_STEPS},
)


def test_the_watched_step_is_the_one_that_held_the_peak_of_a_window_of_uneven_images(
    launcher: Launcher, tmp_path: Path
) -> None:
    run_entry(launcher, "watch_memory", SCENARIO, "disjoint", tmp_path, module="memory_entries", num_steps=NUM_STEPS)
    encoder, language = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    most = max(encoder["images"])
    assert encoder["images"][-1] < most, "samples of another seed are needed: the last batch is the largest"
    assert encoder["step"] == encoder["images"].index(most)
    for found in (encoder, language):
        assert found["unmeasured"] == {}
        assert found["watched"] == found["peak"] > 0
