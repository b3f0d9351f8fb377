"""Standard output that is closed, full or of another encoding ends no command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mimo_bench.cli.exits import BUG

REPOSITORY = Path(__file__).parents[2]


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in which `$BENCH` is mimo-bench, and return its exit status and output."""
    variables = {"BENCH": f"{sys.executable} -m mimo_bench", "PATH": "/usr/bin:/bin"} | environment
    program = ["bash", "-o", "pipefail", "-c", command]
    return subprocess.run(program, cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=False)


def test_a_full_disk_under_standard_output_is_said_and_the_command_goes_on() -> None:
    ended = shell("$BENCH schema run >/dev/full")
    message = "mimo-bench: standard output: No space left on device; the rest is not shown\n"
    assert (ended.returncode, ended.stderr) == (BUG, message)


@pytest.mark.parametrize("command", ["$BENCH schema run >&-", "$BENCH schema run | head -c1", "$BENCH schema run 2>&-"])
def test_closed_streams_and_readers_that_leave_change_nothing(command: str) -> None:
    ended = shell(command)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    program = (
        "import sys; from mimo_bench.cli import app, streams\n"
        "with streams.lasting_output(), open(sys.argv[1], 'w') as file: print('not for the file'); file.write('whole')"
    )
    path = tmp_path / "file"
    assert shell(f'{sys.executable} -c "{program}" {path} >&- 2>&- <&-').returncode == 0
    assert path.read_text() == "whole"


def test_a_console_without_a_character_shows_another(tmp_path: Path) -> None:
    scenario = (REPOSITORY / "scenarios" / "cpu_smoke.toml").read_text(encoding="utf-8")
    path = tmp_path / "s.toml"
    path.write_text(scenario.replace('question = "', 'question = "Größe ≤ 1: ', 1), encoding="utf-8")
    ended = shell(f"$BENCH check {path}", PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Gr??e ? 1: " in ended.stdout
