"""The parts of memory belong to the step that held the peak, and a rank out of memory says what held it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mimo_bench.bench.attempt import Attempts
from mimo_bench.launch import Launcher
from mimo_bench.layout.settings import Settings
from mimo_bench.scenario.scenario import Scenario
from tests.ranks.trainer_job import run_entry, scenario

CHUNK = 256
NUM_STEPS = 3
SCENARIO = scenario(
    {"colocated": ({}, {}), "disjoint": ({}, {"rank_offset": 1})},
    data={"provider": "synthetic", "items_per_sample": {"vision": (3, 1, 1, 1, 2)}},
    seq_length=96,
    steps={"parity": 2, "warmup": 1, "timed": NUM_STEPS},
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


def test_gradients_that_the_distributed_optimizer_dealt_out_are_collected_without_a_copy(
    launcher: Launcher, tmp_path: Path
) -> None:
    made = scenario({"replicas": ({"dp": 2}, {"dp": 2})})
    dealt = made.table("replicas").model_copy(update={"settings": Settings(distributed_optimizer=True)})
    made = Scenario.model_validate({**dict(made), "layout": (dealt,)})
    run_entry(launcher, "collect_gradients", made, "replicas", tmp_path, module="memory_entries")
    for rank in range(2):
        # One buffer for each of two modules.
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == [True, True]


def test_a_tensor_is_drawn_and_gathered_in_no_more_memory_than_it_takes_and_a_few_chunks(
    launcher: Launcher, tmp_path: Path
) -> None:
    made = scenario({"tp2": ({"tp": 2}, {"tp": 2})})
    run_entry(launcher, "draw_and_gather", made, "tp2", tmp_path, module="memory_entries", chunk=CHUNK)
    for rank in range(2):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert max(one["gathered"] for one in found.values()) == 256 * 64  # gate and up projection
        for name, one in found.items():
            # Positions of a chunk are int64, and a few of them are mixed at a time.
            assert one["drawing"] <= 4 * one["local"] + 8 * 8 * CHUNK, name
            assert one["gathering"] <= 4 * (one["local"] + one["gathered"] + CHUNK), name


def test_a_trainer_that_does_not_fit_leaves_what_was_held_and_a_snapshot(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimo_bench.bench.attempt.WORKER", "tests.ranks.memory_entries:run_out_while_building")
    attempts = Attempts(launcher, scenario=SCENARIO, directory=tmp_path, device_kind="cpu", hang_seconds=60)
    attempt = attempts.run(SCENARIO.case("colocated"), "parity", fault=None)
    place = tmp_path / "layouts" / "colocated" / "parity"
    assert attempt.outcome.ended == "oom"
    assert json.loads((place / "rank0.memory.json").read_text()) == {
        "modules": {},
        "allocated_bytes": 7,
        "peak_allocated_bytes": 7,
        "reserved_bytes": 7,
        "device_bytes": 10,
    }
    assert (place / "rank0.memory.pickle").read_bytes() == b"blocks"
    assert "out of memory: rank0.memory.json says what was held" in (place / "rank0.log").read_text()
    # Before its first call to a device, as libraries look at the setting only once.
    assert json.loads((place / "deterministic0.json").read_text()) is True
