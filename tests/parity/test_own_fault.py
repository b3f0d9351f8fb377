"""The recipe for a fault: its example is found, declared and planted as the page says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mimo_bench.parity.faults.catalogue import KNOWN, fault, faults_in, find_fault
from mimo_bench.parity.faults.sites import Site
from mimo_bench.record.files import read_run
from mimo_bench.scenario.load import load_scenario
from tests.support.installed import installed
from tests.test_readme import fences

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "own_fault"
RECIPE = (REPOSITORY / "docs" / "contributing" / "fault.md").read_text(encoding="utf-8")
NAME, PLACE = "encoder-gradient-halved", "own_fault.faults:encoder_gradient_halved"


def test_the_recipe_shows_the_example() -> None:
    assert fences("python", RECIPE) == [(EXAMPLE / "own_fault" / "faults.py").read_text(encoding="utf-8")]
    (registered,) = fences("toml", RECIPE)
    assert registered in (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")


def test_a_file_in_the_folder_of_faults_is_all_that_a_fault_takes() -> None:
    ((name, place, declared),) = faults_in(EXAMPLE / "own_fault", "own_fault")
    assert (name, place, declared.caught_by, declared.alone) == (NAME, PLACE, "gradients", False)
    smoke = load_scenario(REPOSITORY / "scenarios" / "cpu_smoke.toml")
    shown = [layout for layout in smoke.names if declared.shows_in(Site.of(smoke, layout))]
    assert "colocated-1-rank" not in shown
    assert "vision-dp2--language-tp2" in shown


def test_a_decorator_that_uses_a_name_of_its_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("CHECK = 'gradients'\n@fault(caught_by=CHECK)\ndef mine(context): ...\n")
    with pytest.raises(NameError, match="CHECK"):
        list(faults_in(tmp_path, "mine"))


def test_the_recipe_lists_every_argument_of_the_decorator() -> None:
    shown = [line.split("`")[1] for line in RECIPE.partition("| argument of")[2].partition("\n\n")[0].splitlines()[2:]]
    assert sorted(shown) == sorted(fault.__dataclass_fields__)


def test_a_fault_of_another_package_is_planted_on_ranks_and_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = installed(EXAMPLE, tmp_path / "site")
    for place in places:
        monkeypatch.syspath_prepend(place)
    assert find_fault(NAME) == PLACE
    assert NAME not in KNOWN
    command = ["run", str(EXAMPLE / "scenario.toml"), "--plant", NAME, "--device", "cpu", "--modes", "parity"]
    ended = subprocess.run(
        [sys.executable, "-m", "mimo_bench", *command, "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *places])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    baseline, layout = read_run(tmp_path / "out").layouts
    assert baseline.status == "passed"
    assert layout.parity is not None
    assert layout.parity.failed_check == "gradients"
    assert "gradients of vision.* are 0.5 x the baseline's, uniformly" in layout.reason
