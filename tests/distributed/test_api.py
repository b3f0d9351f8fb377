"""A user's own script trains under plain torchrun, evaluates, logs, survives `kill -9` and goes on elsewhere."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.launch import Job, Launcher
from mimo_bench.launch.job import Outcome
from mimo_bench.trainer.metrics import read_metrics
from tests.distributed.trainer_job import run_entry, scenario

REPOSITORY = Path(__file__).parents[2]
LAYOUTS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "one-rank": ({}, {}),
    "vision-dp2--language-pp2": ({"dp": 2}, {"pp": 2, "rank_offset": 2}),
}
SCENARIO = scenario(LAYOUTS)


def train(launcher: Launcher, folder: Path, layout: str, *, num_steps: int = 3, **asked: Any) -> list[Any]:
    asked = {"validate_every": None, "num_steps": num_steps} | asked
    num_ranks = run_entry(launcher, "train", SCENARIO, layout, folder, module="api_entries", **asked)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(num_ranks)]


def test_an_evaluation_in_any_layout_is_that_of_one_process_and_leaves_the_training_as_it_is(
    launcher: Launcher, tmp_path: Path
) -> None:
    (one,) = train(launcher, tmp_path / "one", "one-rank", validate_every=2)
    (plain,) = train(launcher, tmp_path / "plain", "one-rank")
    assert plain == {"losses": one["losses"], "evaluation": None}
    ranks = train(launcher, tmp_path / "apart", "vision-dp2--language-pp2", validate_every=2)
    # Loss and evaluation reach every rank, although only the last one computes them.
    assert all(rank == ranks[0] for rank in ranks)
    assert ranks[0]["evaluation"] == [pytest.approx(one["evaluation"][0], rel=1e-6), 8]
    curves = [
        [line["validation_loss"] for line in read_metrics(tmp_path / run) if "validation_loss" in line]
        for run in ("one", "apart")
    ]
    # After the second step, as asked for, and after the last.
    assert len(curves[0]) == 2
    assert curves[1] == pytest.approx(curves[0], rel=1e-6)


def test_every_step_is_logged_with_its_rates(launcher: Launcher, tmp_path: Path) -> None:
    (told,) = train(launcher, tmp_path, "one-rank")
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["loss"] for line in lines] == told["losses"]
    for line in lines:
        assert line["learning_rate"] == {"vision": 1e-3, "language": 1e-3}
        assert line["grad_norm"] == pytest.approx(sum(norm**2 for norm in line["grad_norms"].values()) ** 0.5)
        assert line["samples_per_second"] == pytest.approx(4 / line["step_seconds"])
    said = re.findall(r"step (\d)/3: loss \d\.\d{6}, .* tokens/s, .* ends in 0:\d\d:\d\d", log(tmp_path))
    assert said == ["2", "3"]


def test_a_training_that_has_ended_takes_no_further_step(launcher: Launcher, tmp_path: Path) -> None:
    (first,) = train(launcher, tmp_path, "one-rank", num_steps=2, save=True)
    (again,) = train(launcher, tmp_path, "one-rank", num_steps=2, save=True)
    assert (len(first["losses"]), again["losses"]) == (2, [])
    assert len(read_metrics(tmp_path)) == 2


def test_two_stages_go_on_in_another_layout_after_kill_9_as_if_nothing_had_happened(
    launcher: Launcher, tmp_path: Path
) -> None:
    def stage(number: int, layout: str, out: Path, *, num_steps: int, kill_after: int = 0) -> Outcome:
        arguments = {"out": str(out), "stage": number, "layout": layout, "num_steps": num_steps}
        return launcher.launch(
            Job(
                entry="tests.distributed.api_entries:stage",
                arguments=arguments | {"kill_after": kill_after},
                world_size=2,
                log_dir=tmp_path / "logs",
                hang_seconds=60.0,
            )
        )

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert stage(1, "colocated", whole, num_steps=2).ended == "finished"
    killed.mkdir()
    (killed / "stage1").symlink_to(whole / "stage1")
    assert stage(2, "colocated", whole, num_steps=8).ended == "finished"
    died = stage(2, "colocated", killed, num_steps=8, kill_after=5)
    assert (died.ended, died.reason) == ("crashed", "rank 0 was killed by SIGKILL")
    assert stage(2, "disjoint", killed, num_steps=8).ended == "finished"
    curve, expected = (
        {(line["step"], key): line[key] for line in read_metrics(out / "stage2") for key in line if "loss" in key}
        for out in (killed, whole)
    )
    # Eight training losses and four held-out ones: none missing, none twice, all the same but for rounding.
    assert len(expected) == 12
    assert curve == {key: pytest.approx(loss, rel=1e-5) for key, loss in expected.items()}
    assert expected[8, "loss"] < 0.9 * expected[1, "loss"]


def test_a_script_of_a_users_own_trains_under_torchrun_on_two_nodes(tmp_path: Path) -> None:
    script = REPOSITORY / "examples" / "own_model.py"
    assert len(script.read_text().splitlines()) < 40
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    meet = [f"--rdzv-id=own-{os.getpid()}", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    agents = [
        subprocess.Popen(
            [*torchrun, *meet, "--local-addr=127.0.0.1", str(script), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        said = [agent.communicate(timeout=600)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.terminate()  # ends its ranks, too; nothing where it has ended
    assert [agent.returncode for agent in agents] == [0, 0], said
    # Every rank is told the same, wherever the loss is computed.
    told = [re.findall(r"EvaluationTotals\(loss=([\d.]+)", output) for output in said]
    assert told[0] == told[1]
    assert len(told[0]) == 1
    losses = [line["loss"] for line in read_metrics(tmp_path) if "loss" in line]
    assert len(losses) == 20
    assert losses[-1] < losses[0]
    assert (tmp_path / "checkpoints" / "step-00000020" / "checkpoint.json").exists()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def log(folder: Path) -> str:
    return (folder / "rank0.log").read_text()
