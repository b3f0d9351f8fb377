"""On CPU ranks whatever names a CUDA device gets the CPU: megatron-core's code, ours, that of a user's provider."""

from __future__ import annotations

from pathlib import Path

from mimo_bench.launch import Job, Launcher


def test_what_names_a_cuda_device_gets_the_cpu_and_other_devices_stay(launcher: Launcher, tmp_path: Path) -> None:
    entry = "tests.ranks.cpu_entries:redirect"
    outcome = launcher.launch(Job(entry=entry, arguments={}, world_size=1, log_dir=tmp_path, hang_seconds=60.0))
    assert outcome.ended == "finished", (tmp_path / "rank0.log").read_text()
