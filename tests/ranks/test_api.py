"""A user's own script trains under plain torchrun, evaluates, logs, survives `kill -9` and goes on elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples import stop_and_go
from mimo_bench.data.config import HuggingFaceData, locate
from mimo_bench.launch import Job, Launcher
from mimo_bench.launch.job import Outcome
from mimo_bench.layout.settings import Settings
from mimo_bench.models.hf.directory import read_manifest, tensors_of
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.scenario.training import Training
from mimo_bench.trainer import join
from mimo_bench.trainer.logging import read_metrics
from mimo_bench.util.errors import LayoutError, UsageError
from tests.ranks.trainer_job import launch_entry, run_entry, scenario
from tests.support.pictures import row, write_folder

REPOSITORY = Path(__file__).parents[2]
LAYOUTS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "one-rank": ({}, {}),
    "vision-dp2--language-pp2": ({"dp": 2}, {"pp": 2, "rank_offset": 2}),
    "disjoint": ({}, {"rank_offset": 1}),
}
SCENARIO = scenario(LAYOUTS)


def train(
    launcher: Launcher, folder: Path, layout: str, *, made: Scenario = SCENARIO, num_steps: int = 3, **asked: Any
) -> list[Any]:
    asked = {"validate_every": None, "num_steps": num_steps} | asked
    num_ranks = run_entry(launcher, "train", made, layout, folder, module="api_entries", **asked)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(num_ranks)]


def test_an_evaluation_in_any_layout_is_that_of_one_process_and_leaves_the_training_as_it_is(
    launcher: Launcher, tmp_path: Path
) -> None:
    (one,) = train(launcher, tmp_path / "one", "one-rank", validate_every=2)
    (plain,) = train(launcher, tmp_path / "plain", "one-rank")
    assert plain == {"losses": one["losses"], "evaluation": None, "test": None}
    ranks = train(launcher, tmp_path / "apart", "vision-dp2--language-pp2", validate_every=2)
    # Loss and evaluation reach every rank, although only the last one computes them.
    assert all(rank == ranks[0] for rank in ranks)
    assert ranks[0]["evaluation"] == [pytest.approx(one["evaluation"][0], rel=1e-6), 8]
    # Test samples are others, and a later evaluation scores them alike.
    assert ranks[0]["test"] == ranks[0]["test_again"] == [pytest.approx(one["test"][0], rel=1e-6), 4]
    assert abs(one["test"][0] - one["evaluation"][0]) > 1e-4
    curves = [
        [line["validation_loss"] for line in read_metrics(tmp_path / run) if "validation_loss" in line]
        for run in ("one", "apart")
    ]
    # After the second step, as asked for, and after the last.
    assert len(curves[0]) == 2
    assert curves[1] == pytest.approx(curves[0], rel=1e-6)
    assert [line["test_loss"] for line in read_metrics(tmp_path / "one") if "test_loss" in line] == [one["test"][0]]


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


def test_a_bf16_training_starts_from_the_fp32_weights_that_another_has_left(launcher: Launcher, tmp_path: Path) -> None:
    checkpoints = []
    for name, more in (("first", {}), ("second", {"weights": str(tmp_path / "first/checkpoints/step-00000001")})):
        # The second moves no weight by a bit: what it saves is what it started from.
        training = Training(learning_rate=1e-30 if more else 1e-3)
        made = scenario({"one-rank": ({}, {})}, precision="bf16", training=training)
        train(launcher, tmp_path / name, "one-rank", made=made, num_steps=1, save=True, **more)
        checkpoints.append(read_manifest(tmp_path / name / "checkpoints" / "step-00000001"))
    assert checkpoints[1].content_hash == checkpoints[0].content_hash


@pytest.fixture
def photographs(tmp_path: Path) -> Callable[..., Scenario]:
    """Makes scenarios on a user's own 24 conversations and a further one, whose image is missing."""
    with write_folder(tmp_path / "own").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**row(0), "images": ["pictures/nothing.png"]}) + "\n")

    def make(**changes: str) -> Scenario:
        said = {"provider": "huggingface", "path": "train.jsonl", "processor": "processor"}
        splits = {"validation": "train[20:]", "test": "train[:8]"}
        data = HuggingFaceData.model_validate(locate(said | splits | changes, folder=tmp_path / "own"))
        return scenario(LAYOUTS, global_batch_size=8, seq_length=64, data=data)

    return make


def test_bad_samples_are_left_out_alike_on_all_ranks_and_the_first_one_says_which(
    launcher: Launcher, tmp_path: Path, photographs: Callable[..., Scenario]
) -> None:
    found = [
        train(
            launcher, tmp_path / layout, layout, made=photographs(on_bad_sample="skip"), num_steps=4, validate_every=4
        )
        for layout in ("one-rank", "disjoint")
    ]
    for told in found[1]:
        assert told["losses"] == pytest.approx(found[0][0]["losses"], rel=1e-5)
        assert told["evaluation"] == [pytest.approx(found[0][0]["evaluation"][0], rel=1e-5), 16]
    said = log(tmp_path / "disjoint").splitlines()
    for split in ("train", "validation"):
        index = said.index(f"bad samples left out of {split}: 1")
        assert "nothing.png does not exist" in said[index + 1]
    assert "left out" not in (tmp_path / "disjoint" / "rank1.log").read_text()


def test_a_training_goes_on_from_moved_files_and_not_from_files_with_another_answer(
    launcher: Launcher, tmp_path: Path, photographs: Callable[..., Scenario]
) -> None:
    train(launcher, tmp_path, "disjoint", made=photographs(on_bad_sample="skip"), num_steps=1, save=True)
    file = Path(shutil.copytree(tmp_path / "own", tmp_path / "moved"), "train.jsonl")
    (tmp_path / "own/train.jsonl").unlink()
    moved = photographs(on_bad_sample="skip", path=str(file))
    (told, _) = train(launcher, tmp_path, "disjoint", made=moved, num_steps=2, save=True)
    assert len(told["losses"]) == 1
    file.write_text(file.read_text(encoding="utf-8").replace("a flower", "a rocket", 1), encoding="utf-8")
    asked: dict[str, Any] = {"module": "api_entries", "num_steps": 3, "validate_every": None, "save": True}
    outcome = launch_entry(launcher, "train", moved, "disjoint", tmp_path, **asked)
    assert outcome.ended == "crashed"
    assert "step-00000002: is of another training: data.fingerprint.files.train.jsonl.sha256 = " in outcome.reason


def test_settings_that_a_scenario_would_refuse_are_refused_in_the_same_words(
    launcher: Launcher, tmp_path: Path
) -> None:
    made = scenario(LAYOUTS)
    (table,) = (table for table in made.layout if table.name == "one-rank")
    flash = table.model_copy(update={"settings": Settings(attention="flash")})
    # Not checked, as a user's script would not check it.
    unchecked = made.model_copy(update={"layout": (flash,)})
    asked: dict[str, Any] = {"module": "api_entries", "num_steps": 1, "validate_every": None}
    outcome = launch_entry(launcher, "train", unchecked, "one-rank", tmp_path, **asked)
    assert outcome.ended == "crashed"
    with pytest.raises(LayoutError) as refused:
        Scenario.model_validate({**dict(made), "layout": (flash,), "baseline": "one-rank"}).check()
    assert str(refused.value).removeprefix("layout 'one-rank': ") in outcome.reason


def test_a_bad_sample_that_is_not_left_out_ends_all_ranks_with_its_name(
    launcher: Launcher, tmp_path: Path, photographs: Callable[..., Scenario]
) -> None:
    asked: dict[str, Any] = {"module": "api_entries", "num_steps": 4, "validate_every": None}
    outcome = launch_entry(launcher, "train", photographs(), "disjoint", tmp_path, **asked)
    bad = re.compile(
        r"train\.jsonl, split 'train', row 25 of the file, counted from 1 \('sample-0'\): "
        r"image \S+nothing\.png does not exist"
    )
    assert outcome.ended == "crashed"
    assert re.match(rf"rank 0 raised DataError: {bad.pattern}", outcome.reason)
    # The rank that reads it has no worker left; the launcher has seen the end of the others.
    (told,) = [json.loads(path.read_text()) for path in tmp_path.glob("rank*.json") if "problem" in path.read_text()]
    assert bad.match(told["problem"])
    assert told["workers"] == []


def test_two_stages_go_on_in_another_layout_after_kill_9_as_if_nothing_had_happened(
    launcher: Launcher, tmp_path: Path
) -> None:
    def stage(number: int, layout: str, out: Path, *, num_steps: int, kill_after: int = 0) -> Outcome:
        asked = {"stage": number, "layout": layout, "num_steps": num_steps, "kill_after": kill_after}
        return launcher.launch(of_example("stage", out, tmp_path / "logs", **asked))

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


def test_one_script_trains_one_stage_after_the_other_in_a_world_of_its_own_or_in_the_one_that_it_has_joined(
    launcher: Launcher, tmp_path: Path
) -> None:
    curves = []
    for joins in (False, True):
        out = tmp_path / str(joins)
        outcome = launcher.launch(of_example("both_stages", out, tmp_path / "logs", joins=joins))
        assert outcome.ended == "finished", outcome
        curves.append([line["loss"] for line in read_metrics(out / "stage2") if "loss" in line])
    assert curves[0] == curves[1]
    assert len(curves[0]) == 2


def test_a_training_that_has_ended_leaves_the_device_to_the_next(launcher: Launcher, tmp_path: Path) -> None:
    run_entry(launcher, "leave_nothing", SCENARIO, "disjoint", tmp_path, module="api_entries")


def test_a_model_of_a_users_own_drops_the_same_when_it_goes_on_and_on_all_ranks_of_a_replica_and_nothing_when_scored(
    launcher: Launcher, tmp_path: Path
) -> None:
    made = scenario({"one": ({}, {}), "tp2": ({"tp": 2}, {"tp": 2}), "fan-in": ({"dp": 2}, {"rank_offset": 2})})
    found = {}
    for layout in made.names:
        run_entry(launcher, "drop", made, layout, tmp_path / layout, module="api_entries")
        found[layout] = json.loads((tmp_path / layout / "rank0.json").read_text())
        assert found[layout]["halves"] == found[layout]["whole"]
        assert found[layout]["drops_in_training_alone"]
    # What two ranks hold of the same activations is dropped alike; replicas drop other ones.
    assert found["tp2"]["whole"] == pytest.approx(found["one"]["whole"], rel=1e-5)
    assert abs(found["fan-in"]["whole"][0] - found["one"]["whole"][0]) > 1e-3
    (plain,) = train(launcher, tmp_path / "plain", "one", made=made, num_steps=4)
    assert abs(plain["losses"][0] - found["one"]["whole"][0]) > 1e-3


def test_a_provider_of_another_kind_of_model_is_told_so(launcher: Launcher, tmp_path: Path) -> None:
    outcome = launch_entry(launcher, "build_another", SCENARIO, "one-rank", tmp_path, module="api_entries")
    assert outcome.ended == "crashed"
    assert "raised DataError: Linear is no MimoModel" in outcome.reason


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [
        ((), [True, True]),
        (("vision.projector",), [False, True]),
        # In all its parts: nothing of the module is reduced, so nothing of it may be trained.
        (("vision.projector", "vision.encoder"), [False, False]),
    ],
)
def test_what_a_provider_adds_is_saved_and_is_frozen_with_what_it_is_added_to(
    launcher: Launcher, tmp_path: Path, freeze: tuple[str, ...], trained: list[bool]
) -> None:
    made = scenario(LAYOUTS, training=Training(freeze=freeze))
    run_entry(launcher, "add_parameters", made, "one-rank", tmp_path, module="api_entries")
    found = json.loads((tmp_path / "rank0.json").read_text())
    assert found["trained"] == trained
    resumed, started = found["problems"]
    assert resumed.startswith("CheckpointError: ")
    assert started.startswith("WeightsError: ")
    for problem in found["problems"]:
        assert "vision.safetensors: vision.gain: the model has no such parameter; build it with the provider" in problem
    saved = tensors_of(tmp_path / "checkpoints" / "step-00000001", "vision")
    assert {"vision.projector.gain", "vision.gain"} <= set(saved)


def test_a_script_that_was_started_without_torchrun_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UsageError, match="there are no ranks; start the script with torchrun"):
        join("cpu")


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
    # One rank tells, on whichever of the nodes it is.
    assert "".join(said).count("step 20: validation loss ") == 1
    losses = [line["loss"] for line in read_metrics(tmp_path) if "loss" in line]
    assert len(losses) == 20
    assert losses[-1] < losses[0]
    assert (tmp_path / "checkpoints" / "step-00000020" / "checkpoint.json").exists()


def test_the_layouts_of_full_depth_stop_half_way_and_go_on_and_come_out_alike(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (REPOSITORY / "scenarios" / "full_depth.toml").read_text(encoding="utf-8")
    for large, small in (('"llava-1.5-7b"', '"llava-tiny"'), ("= 640", "= 24"), ('"bf16"', '"fp32"')):
        assert large in text
        text = text.replace(large, small)
    (tmp_path / "small.toml").write_text(text, encoding="utf-8")
    made = load_scenario(tmp_path / "small.toml")

    def run_warm_ranks(asked: Namespace, layout: str, *, num_ranks: int, num_steps: int, folder: Path) -> None:
        place = {"steps": num_steps, "checkpoints": str(asked.checkpoints / layout)}
        assert run_entry(launcher, "train_example", made, layout, folder, module="api_entries", **place) == num_ranks

    monkeypatch.setattr(stop_and_go, "run_ranks", run_warm_ranks)
    first, *others = made.names
    out = tmp_path / "out"
    # The second call adds to what the first one found.
    for layouts in ([first], others):
        picked = [word for layout in layouts for word in ("--layout", layout)]
        command = ["stop_and_go.py", str(tmp_path / "small.toml"), str(out), "--steps", "4", *picked]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            stop_and_go.main()
        assert ended.value.code == 0
        said = capsys.readouterr().out
    assert "llava-tiny, fp32, 4 steps in two processes on 1 node(s). All layouts agree" in said
    assert said == (out / "stop_and_go.md").read_text(encoding="utf-8") + "\n"
    found = json.loads((out / "stop_and_go.json").read_text(encoding="utf-8"))
    assert [each["layout"] for each in found] == list(made.names)
    assert len(set(found[0]["losses"])) == 4
    for each in found:
        assert each["losses"] == pytest.approx(found[0]["losses"], rel=1e-5)
        assert each["num_ranks"] == made.table(each["layout"]).grids().world_size
    # A checkpoint may be large: none is left.
    assert list((out / "checkpoints").iterdir()) == []


@pytest.mark.nightly
def test_layouts_that_stop_half_way_on_two_nodes_and_go_on_come_out_alike(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "examples" / "stop_and_go.py"), "scenarios/cpu_smoke.toml"]
    command += [str(tmp_path / "out"), "--steps", "4", "--nodes", "2"]
    # As `mimo-bench` starts its CPU ranks: what compiles takes longer to import than four steps take.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": "", "TORCHDYNAMO_DISABLE": "1"}
    # The second call adds to what the first one found. Of its three ranks one node holds two.
    for layout in ("colocated-dp2", "vision-dp1--language-dp2"):
        said = subprocess.run(
            [*command, "--layout", layout],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        ).stdout
    assert "llava-tiny, fp32, 4 steps in two processes on 2 node(s). All layouts agree" in said
    assert said == (tmp_path / "out" / "stop_and_go.md").read_text(encoding="utf-8") + "\n"
    one, other = json.loads((tmp_path / "out" / "stop_and_go.json").read_text(encoding="utf-8"))
    assert (one["num_ranks"], other["num_ranks"], len(set(one["losses"]))) == (2, 3, 4)
    assert other["losses"] == pytest.approx(one["losses"], rel=1e-5)
    # A checkpoint may be large: none is left.
    assert list((tmp_path / "out" / "checkpoints").iterdir()) == []


def of_example(entry: str, out: Path, log_dir: Path, **arguments: Any) -> Job:
    """An entry that runs stages of the example on two ranks."""
    return Job(
        entry=f"tests.ranks.api_entries:{entry}",
        arguments={"out": str(out)} | arguments,
        world_size=2,
        log_dir=log_dir,
        hang_seconds=60.0,
    )


def free_port() -> int:
    """Return a port that no process listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def log(folder: Path) -> str:
    return (folder / "rank0.log").read_text()


def test_steps_are_taken_by_hand_in_a_script_of_a_users_own(launcher: Launcher, tmp_path: Path) -> None:
    run_entry(launcher, "run_script", SCENARIO, "disjoint", tmp_path, module="api_entries", script="own_loop.py")
    said = log(tmp_path).splitlines()
    (told,) = [line for line in said if line.startswith("losses ")]
    losses = [float(loss) for loss in told.split("[")[1].split("]")[0].split(",")]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert "over 8 samples" in told
