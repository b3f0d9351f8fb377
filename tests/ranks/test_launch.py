"""Ranks are started, watched and brought back with a reason; nothing of them outlives its launch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.launch import Job, Launcher
from mimo_bench.util.errors import LaunchError

REPOSITORY = Path(__file__).parents[2]


def job(folder: Path, entry: str, *, world_size: int = 2, hang_seconds: float = 60, **arguments: Any) -> Job:
    return Job(
        entry=f"tests.ranks.entries:{entry}",
        arguments={"folder": str(folder)} | arguments,
        world_size=world_size,
        log_dir=folder / "logs",
        hang_seconds=hang_seconds,
    )


def pids(folder: Path) -> set[int]:
    # A file without a number is just being written.
    return {int(said) for file in folder.glob("*.pid") if (said := file.read_text())}


def alive(processes: set[int]) -> set[int]:
    return {pid for pid in processes if Path(f"/proc/{pid}").exists()}


def log(folder: Path, rank: int) -> str:
    return (folder / "logs" / f"rank{rank}.log").read_text()


def wait_until(condition: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def test_ranks_meet_over_gloo_and_leave_their_results_in_files(launcher: Launcher, tmp_path: Path) -> None:
    outcome = launcher.launch(job(tmp_path, "add_up", world_size=4))
    assert (outcome.ended, outcome.reason, outcome.rank) == ("finished", "all 4 ranks finished", None)
    assert [json.loads((tmp_path / f"sum{rank}.json").read_text()) for rank in range(4)] == [1.0 + 2 + 3 + 4] * 4
    assert len(pids(tmp_path)) == 4
    assert not alive(pids(tmp_path))


def test_the_second_launch_is_warm_and_has_processes_of_its_own(launcher: Launcher, tmp_path: Path) -> None:
    launcher.launch(job(tmp_path, "do_nothing"))
    first = pids(tmp_path)
    started_at = time.monotonic()
    outcome = launcher.launch(job(tmp_path, "do_nothing"))
    assert outcome.ended == "finished"
    assert time.monotonic() - started_at < 5.0  # a fresh interpreter needs longer for torch alone
    assert len(first) == 2
    assert first.isdisjoint(pids(tmp_path))


def test_no_collection_of_a_rank_walks_through_what_the_fork_server_imported(
    launcher: Launcher, tmp_path: Path
) -> None:
    launcher.launch(job(tmp_path, "count_frozen", world_size=1))
    # torch alone makes some hundred thousand objects.
    assert json.loads((tmp_path / "frozen0.json").read_text()) > 100_000


def test_nothing_listens_where_another_machine_could_hear_it(launcher: Launcher, tmp_path: Path) -> None:
    assert launcher.launch(job(tmp_path, "list_listeners")).ended == "finished"
    for rank in range(2):
        addresses = json.loads((tmp_path / f"listeners{rank}.json").read_text())
        assert len(addresses) >= 2  # gloo in the rank, the store in the starter
        assert set(addresses) == {"0100007F"}  # 127.0.0.1


def test_whatever_a_rank_prints_is_in_its_log(launcher: Launcher, tmp_path: Path) -> None:
    assert launcher.launch(job(tmp_path, "print_from_everywhere")).ended == "finished"
    for rank in range(2):
        assert sorted(log(tmp_path, rank).splitlines()) == sorted(
            f"{voice} says {rank}" for voice in ("python", "stderr", "c", "child")
        )


def test_an_exception_names_its_rank_and_says_what_it_said(launcher: Launcher, tmp_path: Path) -> None:
    outcome = launcher.launch(job(tmp_path, "fail_in_one_rank", culprit=1, how="raise"))
    assert outcome.ended == "crashed"
    assert outcome.reason == "rank 1 raised ValueError: the loss is not a number (see rank1.log)"
    assert outcome.rank == 1
    assert "Traceback" in log(tmp_path, 1)
    failure = json.loads((tmp_path / "logs" / "rank1.failure.json").read_text())
    assert (failure["rank"], failure["type"], failure["kind"]) == (1, "ValueError", "crashed")
    assert not alive(pids(tmp_path))


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "SIGTERM", "SIGABRT"])
def test_a_signal_is_told_from_the_connections_that_peers_lose_by_it(
    launcher: Launcher, tmp_path: Path, how: str
) -> None:
    outcome = launcher.launch(job(tmp_path, "fail_in_one_rank", world_size=4, culprit=2, how=how))
    assert (outcome.ended, outcome.reason, outcome.rank) == ("crashed", f"rank 2 was killed by {how}", 2)
    assert len(pids(tmp_path)) == 4
    assert not alive(pids(tmp_path))


def test_signals_that_a_scheduler_sends_to_every_process_of_a_job_end_no_rank(
    launcher: Launcher, tmp_path: Path
) -> None:
    outcome = launcher.launch(job(tmp_path, "signal_like_a_scheduler", above=os.getpid()))
    assert (outcome.ended, outcome.reason) == ("finished", "all 2 ranks finished")
    assert len((tmp_path / "signalled0").read_text().split()) >= 4  # rank, supervisor, fork server, starter


def test_an_exit_without_an_exception_is_a_crash(launcher: Launcher, tmp_path: Path) -> None:
    outcome = launcher.launch(job(tmp_path, "fail_in_one_rank", culprit=0, how="exit"))
    assert (outcome.ended, outcome.rank) == ("crashed", 0)
    assert outcome.reason == "rank 0 exited with status 7 and no exception (see rank0.log)"


@pytest.mark.parametrize("how", ["memory", "allocate"])
def test_running_out_of_memory_is_told_from_a_crash(launcher: Launcher, tmp_path: Path, how: str) -> None:
    outcome = launcher.launch(job(tmp_path, "fail_in_one_rank", culprit=1, how=how))
    assert (outcome.ended, outcome.rank) == ("oom", 1)
    assert not alive(pids(tmp_path))


def test_a_hang_ends_in_time_and_names_the_rank_that_others_wait_for(launcher: Launcher, tmp_path: Path) -> None:
    started_at = time.monotonic()
    outcome = launcher.launch(job(tmp_path, "fail_in_one_rank", world_size=3, culprit=1, how="hang", hang_seconds=2))
    assert 2.0 < time.monotonic() - started_at < 20.0
    assert (outcome.ended, outcome.rank) == ("timeout", 1)
    assert outcome.reason.startswith("rank 1 made no progress for 2 s; last seen in ")
    assert "in sleep_for_ever" in outcome.reason
    assert "ranks 0 and 2 waited in a collective" in outcome.reason
    assert "most recent call first" in log(tmp_path, 1)
    assert len(pids(tmp_path)) == 3
    assert not alive(pids(tmp_path))


def test_a_slow_rank_lives_on_while_it_makes_progress(launcher: Launcher, tmp_path: Path) -> None:
    slow = job(tmp_path, "train_slowly", steps=8, step_seconds=0.4, beats=True, hang_seconds=2)
    assert launcher.launch(slow).ended == "finished"  # 3.2 s of work


def test_a_slow_rank_that_says_nothing_is_taken_to_hang(launcher: Launcher, tmp_path: Path) -> None:
    silent = job(tmp_path, "train_slowly", steps=120, step_seconds=0.5, beats=False, hang_seconds=2)
    outcome = launcher.launch(silent)
    assert outcome.ended == "timeout"
    assert outcome.reason.startswith("ranks 0 and 1 made no progress for 2 s; rank 0 last seen in ")


def test_a_rank_that_has_finished_need_not_make_progress(launcher: Launcher, tmp_path: Path) -> None:
    outcome = launcher.launch(job(tmp_path, "finish_one_after_another", seconds=3.5, hang_seconds=2))
    assert outcome.ended == "finished", outcome.reason


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("tests.ranks.entries:no_such_function", "no_such_function"),
        ("tests.no_such_module:main", "tests.no_such_module"),
    ],
)
def test_an_entry_that_does_not_exist_is_named(launcher: Launcher, tmp_path: Path, entry: str, said: str) -> None:
    outcome = launcher.launch(Job(entry=entry, arguments={}, world_size=1, log_dir=tmp_path, hang_seconds=60))
    assert (outcome.ended, outcome.rank) == ("crashed", 0)
    assert f"no entry {entry}" in outcome.reason
    assert said in outcome.reason


def test_the_environment_of_a_job_is_that_of_its_ranks_and_of_no_other(launcher: Launcher, tmp_path: Path) -> None:
    names = ["NCCL_ALGO", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TORCHDYNAMO_DISABLE", "WORLD_SIZE"]
    always = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TORCHDYNAMO_DISABLE": "1", "WORLD_SIZE": "2"}
    for own in ({"NCCL_ALGO": "Ring"}, {}):
        launch = Job(
            entry="tests.ranks.entries:show_environment",
            arguments={"folder": str(tmp_path), "names": names},
            world_size=2,
            log_dir=tmp_path / "logs",
            hang_seconds=60,
            environment=own,
        )
        assert launcher.launch(launch).ended == "finished"
        for rank in range(2):
            seen = json.loads((tmp_path / f"environment{rank}.json").read_text())
            assert seen == {"NCCL_ALGO": None} | always | own


def test_traces_of_an_earlier_launch_are_not_taken_for_this_one(launcher: Launcher, tmp_path: Path) -> None:
    assert launcher.launch(job(tmp_path, "fail_in_one_rank", culprit=1, how="raise")).ended == "crashed"
    assert launcher.launch(job(tmp_path, "do_nothing", world_size=1)).ended == "finished"
    assert [file.name for file in (tmp_path / "logs").iterdir()] == ["rank0.log"]


def test_children_that_a_rank_leaves_behind_do_not_stay(launcher: Launcher, tmp_path: Path) -> None:
    assert launcher.launch(job(tmp_path, "leave_children")).ended == "finished"
    assert len(pids(tmp_path)) == 2 + 4
    assert not alive(pids(tmp_path))


def test_a_log_folder_that_cannot_be_made_is_named(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder should be")
    with pytest.raises(LaunchError, match="logs: no place for the ranks' logs"):
        launcher.launch(job(tmp_path, "do_nothing"))


def test_a_preload_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    with (
        Launcher(device_kind="cpu", preload=("tests.no_such_module",)) as launcher,
        pytest.raises(LaunchError, match=r"ranks cannot import tests.no_such_module: ModuleNotFoundError"),
    ):
        launcher.launch(job(tmp_path, "do_nothing"))


def test_a_preload_that_takes_the_fork_server_down_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "takes_it_down.py").write_text("import os, sys\nprint('my last words', file=sys.stderr)\nos.abort()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        Launcher(device_kind="cpu", preload=("takes_it_down",)) as launcher,
        pytest.raises(LaunchError, match=r"(?s)my last words.*the fork server died while it imported"),
    ):
        launcher.launch(job(tmp_path, "do_nothing"))


def test_a_starter_that_dies_is_reported_and_replaced(tmp_path: Path) -> None:
    before = starters()
    with Launcher(device_kind="cpu", preload=()) as launcher:
        (own,) = starters() - before
        os.kill(own, signal.SIGKILL)
        with pytest.raises(LaunchError, match=r"the starter of ranks died \(exit code -9"):
            launcher.launch(job(tmp_path, "do_nothing"))
        assert launcher.launch(job(tmp_path, "do_nothing")).ended == "finished"


def starters(below: int | None = None) -> set[int]:
    """The starters below a process, which is this one if none is named."""
    return {pid for pid in family(below or os.getpid()) if "mimo_bench.launch.local.starter" in command_line(pid)}


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def family(ancestor: int) -> set[int]:
    """Everything below a process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {ancestor}


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Folder for temporary files of a command and its ranks; its path is short enough for a socket."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def owner(tmp_path: Path, temporary: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command of its own, with two ranks at work."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.ranks.owner", str(tmp_path)],
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(temporary)},
    ) as process:
        try:
            wait_until(lambda: len(pids(tmp_path)) == 4, seconds=60)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_a_command_that_is_ended(
    owner: subprocess.Popen[bytes], tmp_path: Path, temporary: Path, how: signal.Signals
) -> None:
    below = family(owner.pid)
    assert pids(tmp_path) < below
    assert list(temporary.rglob("listener-*"))
    assert len(below) == 9  # starter, fork server, resource tracker; two supervisors, two ranks, two children
    owner.send_signal(how)
    wait_until(lambda: owner.poll() is not None and not alive(below), seconds=10)
    assert (tmp_path / "interrupted").exists() == (how == signal.SIGINT)
    assert list(temporary.iterdir()) == []


def test_ranks_do_not_outlive_a_starter_that_is_killed(
    owner: subprocess.Popen[bytes], tmp_path: Path, temporary: Path
) -> None:
    ranks = {int((tmp_path / f"rank{rank}.pid").read_text()) for rank in range(2)}
    os.kill(max(starters(below=owner.pid)), signal.SIGKILL)
    wait_until(lambda: not alive(ranks), seconds=10)
    wait_until(lambda: list(temporary.iterdir()) == [], seconds=10)
