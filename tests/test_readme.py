"""What the README tells people to type is what CI executes, and what it shows is accepted."""

from __future__ import annotations

import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from mimo_bench.cli import app as cli
from mimo_bench.models import PRESETS
from mimo_bench.scenario.load import load_scenario

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DOCS = REPOSITORY / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}


def fences(info: str, page: str = README) -> list[str]:
    """The contents of a page's code fences with this info string."""
    return re.findall(rf"^```{re.escape(info)}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


def shown_commands() -> list[str]:
    """Every `mimo-bench ...` line of the examples of README and docs, without the limit of time that it may have."""
    blocks = [block for page in (README, *PAGES.values()) for block in fences("bash", page)]
    lines = [re.sub(r"^timeout --foreground \d+ ", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("mimo-bench ")]


def shown_runs() -> list[list[str]]:
    """The arguments of every `mimo-bench run` of the page for GPUs."""
    page = fences("bash", PAGES["gpu-runs.md"])
    return [shlex.split(line)[2:] for line in shown_commands() if "mimo-bench run" in line and line in "".join(page)]


def test_ci_executes_the_commands_of_the_readme() -> None:
    executed = subprocess.run(
        [REPOSITORY / ".ci" / "run", "--print"], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    ).stdout
    assert executed == "".join(fences("bash ci"))
    bench, tests, selftest, digits = executed.splitlines()
    assert bench.endswith("nox -s bench")
    assert tests.endswith("nox -s tests")
    assert "scenarios/digits.toml" in digits
    assert "selftest scenarios/cpu_smoke.toml" in selftest


@pytest.mark.parametrize("line", shown_commands())
def test_every_command_that_readme_and_docs_show_parses(line: str) -> None:
    program, name, *arguments = shlex.split(line)
    command = typer.main.get_command(cli.app)
    assert program == "mimo-bench"
    assert isinstance(command, typer.core.TyperGroup)
    context = command.make_context(program, [], resilient_parsing=True)
    shown = command.get_command(context, name)
    assert shown is not None
    # Parsing alone: nothing runs.
    shown.make_context(name, arguments)


def test_runs_on_gpus_name_scenarios_and_layouts_that_there_are() -> None:
    runs = shown_runs()
    assert len(runs) == 9
    for path, *options in runs:
        scenario = load_scenario(REPOSITORY / path)
        asked = [value for option, value in pairwise(options) if option == "--layout"]
        assert set(asked) <= set(scenario.names)


@pytest.mark.usefixtures("warm_commands")
def test_the_scenario_that_the_readme_shows_passes(tmp_path: Path) -> None:
    (text,) = fences("toml scenario")
    path = tmp_path / "readme.toml"
    path.write_text(text, encoding="utf-8")
    assert cli.main(["check", str(path)]) == 0
    assert load_scenario(path).names == ("colocated-dp2", "vision-dp2--language-tp2")
    assert cli.main(["run", str(path), "--device", "cpu", "--modes", "parity", "--out", str(tmp_path / "out")]) == 0


def test_the_script_that_the_page_on_training_shows_is_the_example() -> None:
    (shown,) = fences("python own_model", PAGES["training.md"])
    assert shown == (REPOSITORY / "examples" / "own_model.py").read_text(encoding="utf-8")
    assert len(shown.splitlines()) < 40


def test_every_link_of_readme_and_docs_leads_somewhere() -> None:
    pages = [((DOCS / name).parent, page) for name, page in PAGES.items()]
    for folder, page in ((REPOSITORY, README), *pages):
        for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page)):
            path = folder / target if target else None
            assert path is None or path.exists(), target
            if anchor:
                text = page if path is None else path.read_text(encoding="utf-8")
                headings = [
                    re.sub(r"[^\w -]", "", line).strip().lower() for line in re.findall(r"^#+ (.*)$", text, re.M)
                ]
                assert anchor in {heading.replace(" ", "-") for heading in headings}, (target, anchor)


def test_every_preset_stands_in_the_table_of_models() -> None:
    page = PAGES["models.md"]
    assert set(re.findall(r"^\| `([\w.-]+)` \| .* \| .* \|$", page, flags=re.MULTILINE)) == set(PRESETS)
