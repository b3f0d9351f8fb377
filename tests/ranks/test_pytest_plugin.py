"""Scenarios as tests, with real ranks on gloo, and sessions of pytest that have nothing to do with them."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

from tests.ranks.killing import SCENARIO

REPOSITORY = Path(__file__).parents[2]


def pytest_(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A session of its own, in `folder`, with the plugin as an installed mimo-bench would have it."""
    # Installed, the entry point loads it; a second load under its module's name would register it twice.
    plugin = [] if _is_installed() else ["-p", "mimo_bench.cli.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider", *arguments]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def _is_installed() -> bool:
    return any(entry.value == "mimo_bench.cli.pytest_plugin" for entry in entry_points(group="pytest11"))


def test_each_layout_is_a_test_and_its_steps_are_benchmarks(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(SCENARIO, encoding="utf-8")
    common = ["two.toml", "--mimo-device", "cpu", "--mimo-modes", "timing", "-k", "disjoint"]
    common += ["--benchmark-storage", "stored"]
    first = pytest_(*common, "--mimo-out", "one", "--junitxml", "j.xml", "--benchmark-save", "night", folder=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "1 passed, 1 deselected" in first.stdout
    (case,) = ElementTree.parse(tmp_path / "j.xml").getroot().iter("testcase")
    assert case.get("name") == "disjoint"
    (stored,) = (tmp_path / "stored").rglob("*.json")
    content = json.loads(stored.read_text())
    (benchmark,) = content["benchmarks"]
    timing = next(
        layout["timing"]
        for layout in json.loads((tmp_path / "one" / "run.json").read_text())["layouts"]
        if layout["name"] == "disjoint"
    )
    assert benchmark["stats"]["rounds"] == len(timing["step_seconds"]) == 2
    assert abs(benchmark["stats"]["max"] - max(timing["step_seconds"])) < 1e-9

    # The same night again, said to have been stored on other GPUs: nothing is compared.
    content["machine_info"]["mimo_bench"] = "4 x NVIDIA H200, some processor"
    stored.write_text(json.dumps(content))
    again = pytest_(*common, "--mimo-out", "two", "--benchmark-compare", folder=tmp_path)
    assert again.returncode == 4, again.stdout + again.stderr
    assert "step times were stored on 4 x NVIDIA H200, some processor and are now of" in again.stdout + again.stderr


MADE_UP_RUN = """
import time
import mimo_bench.bench
from mimo_bench.report import LayoutEnded, MatrixStarted
from tests.support import golden

def run_matrix(request, *, on_event):
    on_event(MatrixStarted(scenario=request.scenario, names=request.names, modes=request.modes, device_kind="cpu",
                           directory=request.directory))
    passed = golden.record().layouts[0]
    layouts = tuple(passed.model_copy(update={"name": name}) for name in request.names)
    for seconds, layout in zip((0.4, 0.1), layouts, strict=True):
        time.sleep(seconds)
        on_event(LayoutEnded(layout=layout))
    return golden.record().model_copy(update={"layouts": layouts})

mimo_bench.bench.run_matrix = run_matrix
"""


def test_each_layout_is_reported_with_its_own_time(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(SCENARIO, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(MADE_UP_RUN, encoding="utf-8")
    ran = pytest_("two.toml", "--mimo-device", "cpu", "--mimo-out", "out", "--junitxml", "j.xml", folder=tmp_path)
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
    times = [float(case.get("time", 0.0)) for case in ElementTree.parse(tmp_path / "j.xml").getroot().iter("testcase")]
    assert 0.4 <= times[0] < 0.5
    assert 0.1 <= times[1] < 0.2


def test_a_fault_to_plant_is_looked_up_as_in_run(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(SCENARIO, encoding="utf-8")
    ran = pytest_("two.toml", "--mimo-device", "cpu", "--mimo-plant", "no-such-fault", folder=tmp_path)
    assert ran.returncode == 1
    assert "no-such-fault" in ran.stdout
    assert "Traceback" not in ran.stdout


def test_a_scenario_that_nobody_named_is_not_collected(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(SCENARIO, encoding="utf-8")
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n", encoding="utf-8")
    ran = pytest_("--collect-only", "-q", folder=tmp_path)
    assert ran.stdout.splitlines()[0] == "test_own.py::test_own"
    assert "two.toml" not in ran.stdout
    asked = pytest_("--collect-only", "-q", "--mimo-scenarios", folder=tmp_path)
    assert "two.toml::colocated" in asked.stdout
    assert "two.toml::disjoint" in asked.stdout


def test_a_scenario_with_a_mistake_is_told_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(SCENARIO.replace("seq_length", "seq_lenght"), encoding="utf-8")
    ran = pytest_("two.toml", folder=tmp_path)
    assert ran.returncode == 2
    assert "did you mean 'seq_length'" in ran.stdout
    assert "Traceback" not in ran.stdout
