"""`mimo-bench run` on real GPUs: the same training as on CPU ranks, and the same order when a rank fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mimo_bench.parity.differences import relative
from mimo_bench.parity.noise import PARITY_FLOOR
from mimo_bench.record.files import read_run
from mimo_bench.record.schema import LayoutRecord, RunRecord
from mimo_bench.record.validate import validate

REPOSITORY = Path(__file__).parents[2]

SCENARIO = """
question = "Does a GPU train what a CPU trains?"
model = "llava-tiny"
global_batch_size = 4
global_micro_batch_size = 2
seq_length = 32
baseline = "colocated"

[steps]
parity = 3
warmup = 1
timed = 2

[[layout]]
name = "colocated"
vision = { dp = 2 }
language = { dp = 2 }

[[layout]]
name = "fan-in"
vision = { dp = 2 }
language = { tp = 2 }
settings = { sequence_parallel = true, distributed_optimizer = true }

[[layout]]
name = "disjoint"
vision = {}
language = { rank_offset = 1 }
settings = { recompute_activations = true }
"""


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "three.toml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


def run(scenario: Path, out: Path, *options: str) -> tuple[int, RunRecord]:
    """`mimo-bench run` in a process of its own: its exit status and its record."""
    command = [sys.executable, "-m", "mimo_bench", "run", str(scenario), "--out", str(out), *options]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=False)
    assert "Traceback" not in ended.stderr, ended.stderr
    validate(out)
    return ended.returncode, read_run(out)


def by_name(record: RunRecord) -> dict[str, LayoutRecord]:
    return {layout.name: layout for layout in record.layouts}


@pytest.mark.gpu(2)
def test_every_layout_trains_on_gpus_what_it_trains_on_cpu_ranks(scenario: Path, tmp_path: Path) -> None:
    status, on_gpus = run(scenario, tmp_path / "gpu", "--device", "cuda", "--modes", "parity,timing,comm")
    assert status == 0
    assert run(scenario, tmp_path / "cpu", "--device", "cpu", "--modes", "parity")[0] == 0
    on_cpu = by_name(read_run(tmp_path / "cpu"))
    for name, layout in by_name(on_gpus).items():
        for found, expected in zip(layout.losses, on_cpu[name].losses, strict=True):
            error = relative(found, expected)
            assert error is not None
            assert error <= PARITY_FLOOR.loss_rel, name
        for module, norms in layout.grad_norms.items():
            for found, expected in zip(norms, on_cpu[name].grad_norms[module], strict=True):
                error = relative(found, expected)
                assert error is not None
                assert error <= PARITY_FLOOR.grad_norm_rel, (name, module)


@pytest.mark.gpu(2)
def test_memory_and_communication_are_recorded_by_rank_and_by_group_role(scenario: Path, tmp_path: Path) -> None:
    _, record = run(scenario, tmp_path / "out", "--device", "cuda", "--modes", "timing,comm")
    layouts = by_name(record)
    for layout in layouts.values():
        assert layout.memory is not None
        assert {memory.device_uuid for memory in layout.memory.ranks} == {
            device.uuid for device in record.environment.devices[: layout.world_size]
        }
        for memory in layout.memory.ranks:
            assert 0 < memory.peak_allocated_bytes <= memory.peak_reserved_bytes <= memory.device_used_bytes
    roles = {name: {entry.role for entry in layout.communication} for name, layout in layouts.items()}
    assert "bridge.vision->language" in roles["disjoint"]
    assert {"bridge.vision->language", "language.tp", "vision.dp-cp"} <= roles["fan-in"]


@pytest.mark.gpu(2)
@pytest.mark.parametrize(
    ("fault", "ended", "reason"),
    [
        ("kill-rank", "crashed", "SIGKILL"),
        ("hang-rank", "timeout", "no progress"),
        ("exhaust-memory", "oom", "rank 1"),
    ],
)
def test_a_rank_that_fails_ends_its_layout_alone(
    scenario: Path, tmp_path: Path, fault: str, ended: str, reason: str
) -> None:
    status, record = run(
        scenario, tmp_path / "out", "--device", "cuda", "--modes", "parity",
        "--hang-limit", "30", "--plant", f"{fault}@fan-in",
    )  # fmt: skip
    layouts = by_name(record)
    assert status == 3
    assert layouts["fan-in"].status == ended
    assert reason in layouts["fan-in"].reason
    assert layouts["disjoint"].status == layouts["colocated"].status == "passed"
