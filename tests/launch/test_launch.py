"""What launching decides without starting anything: first causes, environments, signs of progress."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mimo_bench.launch import Job, progress
from mimo_bench.launch.failure import Failure, exit_failure, root_cause
from mimo_bench.launch.launcher import starter_environment
from mimo_bench.launch.local.starter import explain
from mimo_bench.launch.watchdog import Place

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:4242")


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


def job(folder: Path) -> Job:
    return Job(
        entry="a:b", arguments={"seed": 0}, world_size=4, log_dir=folder, hang_seconds=1.5, environment={"A": "1"}
    )


def test_a_lost_connection_is_never_the_first_cause_though_it_came_first() -> None:
    peer = Failure.of(LOST, rank=0, unix_time=1.0)
    culprit = Failure.of(ValueError("boom"), rank=3, unix_time=2.0)
    assert root_cause([peer, culprit]) is culprit


def test_a_kill_comes_before_an_exception_that_it_caused() -> None:
    strange = Failure.of(RuntimeError("an unknown way to miss a peer"), rank=0, unix_time=1.0)
    killed = exit_failure(-9, rank=2, unix_time=2.0)
    assert root_cause([strange, killed]) is killed


def test_an_abort_after_an_exception_is_a_consequence() -> None:
    culprit = Failure.of(ValueError("boom"), rank=1, unix_time=1.0)
    aborted = exit_failure(-6, rank=0, unix_time=2.0)
    assert root_cause([aborted, culprit]) is culprit
    assert root_cause([aborted, Failure.of(LOST, rank=1, unix_time=1.0)]) is aborted


def test_of_equals_the_earliest_counts() -> None:
    failures = [Failure.of(ValueError(str(rank)), rank=rank, unix_time=10.0 - rank) for rank in range(3)]
    assert root_cause(failures).rank == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "oom"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "oom"),
        (RuntimeError("CUDA error: out of memory"), "oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "oom"),
        (ValueError("the memory of it"), "crashed"),
    ],
)
def test_out_of_memory_is_known_by_its_class_or_its_words(error: Exception, kind: str) -> None:
    assert Failure.of(error, rank=0, unix_time=0.0).kind == kind


def test_a_failure_survives_its_file_and_reads_as_one_line(tmp_path: Path) -> None:
    failure = Failure.of(ValueError("first line\nsecond line"), rank=1, unix_time=1.25)
    failure.write(tmp_path / "rank1.failure.json")
    assert Failure.read(tmp_path / "rank1.failure.json") == failure
    assert [file.name for file in tmp_path.iterdir()] == ["rank1.failure.json"]
    assert failure.sentence == "rank 1 raised ValueError: first line (see rank1.log)"
    assert Failure.read(tmp_path / "rank2.failure.json") is None


def test_a_kill_is_called_out_of_memory_only_if_the_kernel_says_so(tmp_path: Path) -> None:
    exit_failure(-9, rank=2, unix_time=1.0).write(job(tmp_path).files(2).failure)
    guess = explain(job(tmp_path), {2: 1}, oom_killed=False)
    assert (guess.ended, guess.reason, guess.rank) == ("crashed", "rank 2 was killed by SIGKILL", 2)
    known = explain(job(tmp_path), {2: 1}, oom_killed=True)
    assert (known.ended, known.rank) == ("oom", 2)


def test_ranks_that_leave_no_word_are_known_by_what_the_agent_saw(tmp_path: Path) -> None:
    outcome = explain(job(tmp_path), {3: -9}, oom_killed=False)
    assert (outcome.ended, outcome.reason) == ("crashed", "rank 3 was killed by SIGKILL")


def test_a_job_survives_the_pipe(tmp_path: Path) -> None:
    assert Job.from_json(job(tmp_path).to_json()) == job(tmp_path)


def test_a_beat_outside_a_launch_does_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(progress.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    progress.beat()
    assert list(tmp_path.iterdir()) == []


def test_every_beat_is_one_more_sign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(progress.VARIABLE, "undone by the fixture")
    file = tmp_path / "rank0.progress"
    assert progress.signs(file) is None
    assert progress.process_id(file) is None
    progress.begin(file)
    before = progress.signs(file)
    progress.beat()
    progress.beat()
    assert before is not None
    assert progress.signs(file) == before + 2
    assert progress.process_id(file) == os.getpid()
    progress.end(file)
    assert progress.signs(file) == 0
    assert progress.process_id(file) is None


def test_cpu_ranks_see_no_gpu_and_use_one_thread_each() -> None:
    environment = starter_environment({"CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "8", "HOME": "/h"}, "cpu")
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["OMP_NUM_THREADS"] == environment["TORCHDYNAMO_DISABLE"] == "1"
    assert environment["HOME"] == "/h"
    assert environment["PYTHONPATH"].split(os.pathsep)[-1] == sys.path[-1]


def test_gpu_ranks_keep_what_the_user_set_but_for_what_breaks_machines() -> None:
    environment = starter_environment(
        {"CUDA_VISIBLE_DEVICES": "2,3", "OMP_NUM_THREADS": "8", "NCCL_NVLS_ENABLE": "1", "NCCL_SOCKET_IFNAME": "eth1"},
        "cuda",
    )
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert environment["OMP_NUM_THREADS"] == "8"
    assert environment["NCCL_SOCKET_IFNAME"] == "eth1"
    assert environment["NCCL_NVLS_ENABLE"] == "0"
    assert environment["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"
    assert "TORCHDYNAMO_DISABLE" not in environment


def test_a_place_in_a_package_is_told_without_where_the_package_is_installed() -> None:
    installed = Place(file="/home/somebody/env/lib/python3.12/site-packages/torch/random.py", line=7, function="fork")
    assert str(installed) == "torch/random.py, line 7 in fork"
    assert (
        str(Place(file="/home/somebody/train.py", line=7, function="main")) == "/home/somebody/train.py, line 7 in main"
    )
