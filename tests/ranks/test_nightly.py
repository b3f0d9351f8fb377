"""Two nights by the nightly workflow's own commands, on CPU ranks; in the second one a rank dawdles."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from mimo_bench.cli import app as cli
from mimo_bench.record.files import read_run
from tests.ranks.killing import SCENARIO

REPOSITORY = Path(__file__).parents[2]
WORKFLOW = REPOSITORY / ".github" / "workflows" / "nightly.yml"


def steps() -> dict[str, str]:
    """The commands of the workflow, by the name of their step."""
    content: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    return {step["name"]: step["run"] for step in content["jobs"]["nightly"]["steps"] if "run" in step}


def night(folder: Path, monkeypatch: pytest.MonkeyPatch, *, options: str) -> tuple[int, str]:
    """Run the workflow's commands in `folder`; return the exit status of the run and the summary."""
    summary = folder / "summary.md"
    environment = {
        "SCENARIO": str(folder.parent / "tiny.toml"),
        "OPTIONS": f"--device cpu --modes timing {options}",
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    run, tell = steps()["Run"], steps()["Summary"]
    monkeypatch.chdir(folder)
    # The one command of the step as bash would split it, on warm ranks.
    program, *arguments = shlex.split(Template(run).substitute(environment))
    assert program == ".nox/environment/bin/mimo-bench"
    status = cli.main(arguments)
    subprocess.run(["bash", "-e", "-c", tell], cwd=folder, env=os.environ | environment, check=True)
    return status, summary.read_text(encoding="utf-8")


@pytest.mark.usefixtures("warm_commands")
def test_a_slow_second_night_ends_with_4_and_page_summary_and_trend_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = SCENARIO.replace("global_micro_batch_size = 2", "global_micro_batch_size = 1")
    tiny = many.replace("warmup = 1", "warmup = 0") + "[loader]\nnum_watched_steps = 0\n"
    (tmp_path / "tiny.toml").write_text(tiny, encoding="utf-8")
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    status, summary = night(first, monkeypatch, options="")
    assert status == 0, summary
    assert "Not compared: the history holds no earlier run of this scenario" in summary

    # What the workflow's cache does between two nights.
    shutil.copytree(first / "nights", second / "nights")
    status, summary = night(second, monkeypatch, options="--plant slow-rank@disjoint")
    assert status == 4, summary
    held = read_run(second / "tonight").history
    assert held is not None
    (found,) = (each for each in held.held if each.layout == "disjoint")
    assert found.verdict == "regressed"
    assert "Mann-Whitney, 5 launches against 5" in found.reason
    page = (second / "tonight" / "report.html").read_text(encoding="ascii")
    assert "regressed: step time" in page
    assert "regressed: step time" in summary
    trend = (second / "nights" / "trend.html").read_text(encoding="ascii")
    assert '<span class="verdict regressed">regressed</span> <b>disjoint</b>' in trend


def test_workflow_and_batch_script_run_what_the_documentation_says() -> None:
    page = (REPOSITORY / "docs" / "history.md").read_text(encoding="utf-8")
    assert steps()["Install"] in page
    assert steps()["Run"].replace("$SCENARIO", "scenarios/cpu_smoke.toml").replace(" $OPTIONS", "") in page
    assert "sbatch --gpus-per-node=4 examples/slurm/nightly.sbatch scenarios/gpu4.toml" in page


@pytest.mark.parametrize("words", [[], ["scenarios/gpu4.toml"]])
def test_the_batch_script_is_a_script_and_wants_a_scenario(words: list[str]) -> None:
    script = REPOSITORY / "examples" / "slurm" / "nightly.sbatch"
    environment = {"MIMO_BENCH": "echo", "SLURM_JOB_ID": "7", "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(["bash", script, *words], env=environment, capture_output=True, text=True, check=False)
    if not words:
        assert ran.returncode != 0
        assert "name a scenario" in ran.stderr
    else:
        expected = "run scenarios/gpu4.toml --launches 5 --history nights --gate-performance --resume"
        assert ran.stdout.strip() == f"{expected} --out reports/local/job7"
