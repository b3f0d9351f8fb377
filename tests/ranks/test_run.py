"""`mimo-bench run` from the command line to the exit status, with real ranks on gloo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import pytest

from mimo_bench.cli import app as cli
from mimo_bench.launch import Launcher
from mimo_bench.parity.faults.catalogue import known_faults
from mimo_bench.predict.validate import validate
from mimo_bench.record.files import read_run
from mimo_bench.scenario.scenario import Scenario
from tests.ranks.gate import Gate
from tests.ranks.killing import SCENARIO

REPOSITORY = Path(__file__).parents[2]
HANG_SECONDS = 4.0
"""Without a sign of progress; ranks on a busy machine need a second or two until their first."""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "two.toml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


def start(scenario: Path, out: Path, *options: str, temporary: str | None = None) -> subprocess.Popen[str]:
    """`mimo-bench run` on CPU ranks, in a process of its own; its temporary files go to `temporary`."""
    environment = dict(os.environ)
    # torch, once imported here, names the folder that it would compile into, which would then not be a new process's.
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    if temporary is not None:
        environment["TMPDIR"] = temporary
    command = [sys.executable, "-m", "mimo_bench", "run", str(scenario), "--device", "cpu", "--out", str(out), *options]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(scenario: Path, out: Path, *options: str) -> int:
    """The exit status of `mimo-bench run` in parity mode on CPU ranks, in this process."""
    return cli.main(["run", str(scenario), "--device", "cpu", "--modes", "parity", "--out", str(out), *options])


def statuses(directory: Path) -> dict[str, str]:
    """Return the status of each layout of the record."""
    return {layout.name: layout.status for layout in read_run(directory).layouts}


def test_layouts_that_agree_end_with_0_and_a_valid_record(scenario: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        with start(scenario, tmp_path / "out", temporary=temporary) as command:
            _, err = command.communicate(timeout=300)
        assert (command.returncode, err) == (0, "")
        assert list(Path(temporary).iterdir()) == []
    assert statuses(tmp_path / "out") == {"colocated": "passed", "disjoint": "passed"}
    validate(tmp_path / "out")


@pytest.mark.usefixtures("warm_commands")
def test_a_planted_fault_fails_parity_and_ends_with_1(scenario: Path, tmp_path: Path) -> None:
    assert run(scenario, tmp_path / "out", "--plant", "bridge-gradient-doubled") == 1
    assert statuses(tmp_path / "out") == {"colocated": "passed", "disjoint": "parity_failed"}
    validate(tmp_path / "out")


@pytest.mark.usefixtures("warm_commands")
def test_a_killed_rank_ends_with_3_and_says_which(scenario: Path, tmp_path: Path) -> None:
    assert run(scenario, tmp_path / "out", "--plant", "kill-rank@disjoint") == 3
    assert statuses(tmp_path / "out") == {"colocated": "passed", "disjoint": "crashed"}
    validate(tmp_path / "out")


@pytest.fixture(scope="module")
def gate(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    # The exit status of each way to end is in tests/cli: here, one launch shows each.
    made = Scenario.model_validate(tomllib.loads(SCENARIO))
    return Gate(launcher, made, tmp_path_factory.mktemp("run"), hang_seconds=HANG_SECONDS)


def test_a_rank_that_hangs_is_named_with_its_place_and_with_the_rank_that_waits_for_it(gate: Gate) -> None:
    hung = gate.judge("disjoint", known_faults()["hang-rank"])
    assert hung.status == "timeout"
    # The language rank stands still by itself; the vision rank waits to send it what it encoded.
    assert hung.reason.startswith(f"rank 1 made no progress for {HANG_SECONDS:g} s; last seen in mimo_bench/parity/")
    assert "faults/ends.py" in hung.reason
    assert hung.reason.endswith("; rank 0 waited in a collective (see rank1.log)")


def test_a_rank_without_memory_is_named_and_the_layout_passes_without_the_fault(gate: Gate) -> None:
    starved = gate.judge("disjoint", known_faults()["exhaust-memory"])
    assert starved.status == "oom"
    assert starved.reason.startswith("rank 1 ")
    assert gate.judge("disjoint").status == "passed"


def test_a_typo_in_the_scenario_ends_with_2_and_nothing_is_written(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario.write_text(SCENARIO.replace("seq_length", "seq_lenght"), encoding="utf-8")
    assert run(scenario, tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "two.toml: seq_lenght" in err
    assert "seq_length" in err
    assert list(tmp_path.iterdir()) == [scenario]


def test_an_interrupt_ends_with_130_and_a_record_of_what_ran(scenario: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary, start(scenario, tmp_path / "out", temporary=temporary) as command:
        ranks = tmp_path / "out" / "layouts" / "colocated" / "parity" / "rank0.log"
        deadline = time.monotonic() + 300
        while not ranks.exists():
            assert command.poll() is None, "ended before the first rank started"
            assert time.monotonic() < deadline, "no rank started"
            time.sleep(0.05)
        command.send_signal(signal.SIGINT)
        out, _ = command.communicate(timeout=60)
        assert list(Path(temporary).iterdir()) == []
    assert command.returncode == 130
    assert f"to finish it, give the same command with --resume --out {tmp_path / 'out'}\n" in out
    record = read_run(tmp_path / "out")
    assert {layout.status for layout in record.layouts} <= {"interrupted", "not_run"}
    validate(tmp_path / "out")


@pytest.mark.usefixtures("warm_commands")
def test_timing_alone_is_still_held_against_the_baseline_as_timed(scenario: Path, tmp_path: Path) -> None:
    command = ["run", str(scenario), "--device", "cpu", "--modes", "timing"]
    assert cli.main([*command, "--out", str(tmp_path / "clean")]) == 0
    record = read_run(tmp_path / "clean")
    for layout in record.layouts:
        assert (layout.status, layout.parity and layout.parity.verdict) == ("unjudged", "unjudged")
        assert layout.parity is not None
        assert layout.parity.as_timed is not None
        assert layout.parity.as_timed.verdict == ("baseline" if layout.name == record.baseline else "passed")
    assert cli.main([*command, "--out", str(tmp_path / "planted"), "--plant", "vision-layer-skipped"]) == 1
    failed = {layout.name: layout.status for layout in read_run(tmp_path / "planted").layouts}
    assert set(failed.values()) == {"unjudged", "parity_failed"}
