"""A matrix that is killed without warning, over and over, and what it leaves: used by a test and by `nox -s kills`.

    python -m tests.ranks.killing --kills 20

kills one two-layout matrix at twenty random points, resumes it after each, and says what it found.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mimo_bench.predict.validate import validate
from mimo_bench.record.files import RUN_FILE, read_run

REPOSITORY = Path(__file__).parents[2]

GONE_SECONDS = 20.0
"""Until the last process of a killed command is gone; a starter that imports torch notices when it has."""

SCENARIO = """
question = "Does a killed matrix go on?"
model = "llava-tiny"
global_batch_size = 4
global_micro_batch_size = 2
seq_length = 32
baseline = "colocated"

[steps]
parity = 2
warmup = 1
timed = 2

[[layout]]
name = "colocated"
vision = {}
language = {}

[[layout]]
name = "disjoint"
vision = {}
language = { rank_offset = 1 }
"""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """One scenario run into one directory by as many invocations as it takes."""

    scenario: Path
    out: Path
    options: tuple[str, ...] = ()
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    """In the environment of every process that the matrix starts."""

    def start(self) -> subprocess.Popen[bytes]:
        """`mimo-bench run --resume`, as a batch script repeats it."""
        command = [sys.executable, "-m", "mimo_bench", "run", str(self.scenario), "--device", "cpu"]
        return subprocess.Popen(
            [*command, "--out", str(self.out), "--resume", *self.options],
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"MIMO_BENCH_TEST_MARK": self.mark},
        )

    def finish(self) -> int:
        """Run to the end; the exit status."""
        with self.start() as command:
            _, err = command.communicate(timeout=600)
        assert err == b"", err.decode()
        return command.returncode

    def processes(self) -> list[int]:
        """Whatever of the matrix still runs."""
        marked = f"MIMO_BENCH_TEST_MARK={self.mark}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):  # it ended meanwhile
                if folder.name.isdecimal() and marked in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found

    def check_left_behind(self) -> None:
        """No process, and no record or a valid one."""
        deadline = time.monotonic() + GONE_SECONDS
        while left := self.processes():
            assert time.monotonic() < deadline, f"processes {left} outlived the command"
            time.sleep(0.05)
        if (self.out / RUN_FILE).exists():
            validate(self.out)


def kill_after(matrix: Matrix, seconds: float) -> bool:
    """Kill the command that long after its start, and hold what it left to the promise; False if it was done first."""
    with matrix.start() as command:
        try:
            command.wait(seconds)
        except subprocess.TimeoutExpired:
            command.send_signal(signal.SIGKILL)
        command.communicate()
    matrix.check_left_behind()
    return command.returncode == -signal.SIGKILL


def main() -> None:
    """Kill as often as asked, resume each time, then let it finish."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder, "two.toml")
        scenario.write_text(SCENARIO, encoding="utf-8")
        began = time.monotonic()
        whole = Matrix(scenario=scenario, out=Path(folder, "whole"))
        assert whole.finish() == 0
        duration = time.monotonic() - began
        num_killed, draw = 0, random.Random(asked.seed)
        out = 0
        while num_killed < asked.kills:
            matrix = Matrix(scenario=scenario, out=Path(folder, f"run{out}"))
            # A handful of kills for each directory, so that some hit a run that was resumed before.
            for _ in range(min(5, asked.kills - num_killed)):
                moment = draw.uniform(0.0, duration)
                killed = kill_after(matrix, moment)
                num_killed += killed
                said = "no record yet"
                if (matrix.out / RUN_FILE).exists():
                    said = ", ".join(f"{layout.name} {layout.status}" for layout in read_run(matrix.out).layouts)
                print(f"{'killed' if killed else 'done'} after {moment:5.2f} s of {duration:.2f}: {said}", flush=True)
                if not killed:
                    break
            assert matrix.finish() == 0
            matrix.check_left_behind()
            record = read_run(matrix.out)
            assert {layout.status for layout in record.layouts} == {"passed"}
            print(f"resumed: complete, after {len(record.resumptions)} resumptions", flush=True)
            out += 1
    print(f"{num_killed} kills in {out} matrices: every record readable, no process left, every matrix completed")


if __name__ == "__main__":
    main()
