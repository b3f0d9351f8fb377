"""A matrix that was killed goes on where it stood, with real ranks on gloo."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from mimo_bench.cli import app as cli
from mimo_bench.predict.validate import validate
from mimo_bench.record.files import read_run, write_run
from mimo_bench.util.files import locked
from tests.ranks.killing import SCENARIO, Matrix, kill_after

THIRD = """
[[layout]]
name = "tp2"
vision = { tp = 2 }
language = { tp = 2 }
"""


def wait_until_settled(matrix: Matrix, command: subprocess.Popen[bytes], name: str) -> None:
    while command.poll() is None:
        if (matrix.out / "run.json").exists():
            statuses = {layout.name: layout.status for layout in read_run(matrix.out).layouts}
            if statuses[name] == "passed":
                return
        time.sleep(0.01)
    raise AssertionError(f"the command ended, and {name} has no verdict")


def finish(matrix: Matrix) -> int:
    """Run the matrix to its end in this process; return the exit status."""
    command = ["run", str(matrix.scenario), "--device", "cpu", "--out", str(matrix.out), "--resume"]
    return cli.main([*command, *matrix.options])


@pytest.mark.usefixtures("warm_commands")
def test_a_killed_matrix_is_readable_leaves_nothing_and_goes_on_without_redoing_what_was_judged(tmp_path: Path) -> None:
    scenario = tmp_path / "three.toml"
    scenario.write_text(SCENARIO + THIRD, encoding="utf-8")
    matrix = Matrix(scenario=scenario, out=tmp_path / "out", options=("--modes", "parity"))
    kill_after(matrix, 0.5)  # while it still imports, or writes its first record
    with matrix.start() as command:
        wait_until_settled(matrix, command, "disjoint")
        command.send_signal(signal.SIGKILL)
        command.communicate()
    matrix.check_left_behind()
    before = {layout.name: layout for layout in read_run(matrix.out).layouts}
    assert before["tp2"].status in ("not_run", "interrupted")
    log = matrix.out / "layouts" / "disjoint" / "parity" / "rank0.log"
    written_at = log.stat().st_mtime_ns

    assert finish(matrix) == 0
    record = read_run(matrix.out)
    validate(matrix.out)
    assert [layout.status for layout in record.layouts] == ["passed"] * 3
    assert record.resumptions[-1].kept == ("disjoint",)
    assert "the baseline, trained again for the others, is the same" in record.resumptions[-1].reason
    assert {layout.name: layout for layout in record.layouts}["disjoint"] == before["disjoint"]
    assert log.stat().st_mtime_ns == written_at
    assert not (matrix.out / "baseline").exists()

    # Nothing is left to do: no rank starts, and the end is the same.
    assert finish(matrix) == 0
    record = read_run(matrix.out)
    assert record.resumptions[-1].kept == ("colocated", "disjoint", "tp2")

    # A baseline that trains otherwise than it did is no reference for what was judged: every layout is trained again.
    baseline, disjoint, tp2 = record.layouts
    assert None not in baseline.losses
    moved = baseline.model_copy(update={"losses": tuple(1.01 * loss for loss in baseline.losses if loss is not None)})
    open_ = tp2.model_copy(update={"status": "not_run", "reason": "the run was stopped before it"})
    write_run(matrix.out, record.model_copy(update={"layouts": (moved, disjoint, open_)}))
    assert finish(matrix) == 0
    record = read_run(matrix.out)
    assert record.resumptions[-1].kept == ()
    assert "came out different" in record.resumptions[-1].reason
    assert log.stat().st_mtime_ns > written_at
    assert record.layouts[0] != moved


def test_two_commands_do_not_run_into_one_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "two.toml"
    scenario.write_text(SCENARIO, encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    with locked(out):
        assert cli.main(["run", str(scenario), "--device", "cpu", "--out", str(out)]) == 2
    assert "another mimo-bench is running into" in capsys.readouterr().err
    assert list(out.iterdir()) == []
