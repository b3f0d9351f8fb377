"""What the README tells people to type is what CI executes, and what it shows is accepted."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import get_args

import pytest
import typer

from mimo_bench import cli
from mimo_bench.record.schema import Mode
from mimo_bench.scenario import Settings, load_scenario

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def fences(info: str) -> list[str]:
    """The contents of the README's code fences with this info string."""
    return re.findall(rf"^```{re.escape(info)}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def shown_commands() -> list[str]:
    """Every `mimo-bench ...` line of the README's examples."""
    return [line for block in fences("bash") for line in block.splitlines() if line.startswith("mimo-bench ")]


def test_ci_executes_the_commands_of_the_readme() -> None:
    executed = subprocess.run(
        [REPOSITORY / ".ci" / "run", "--print"], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    ).stdout
    assert executed == "".join(fences("bash ci"))
    bench, tests, digits, selftest = executed.splitlines()
    assert bench.endswith("nox -s bench")
    assert tests.endswith("nox -s tests")
    assert "scenarios/digits.toml" in digits
    assert "selftest scenarios/cpu_smoke.toml" in selftest


@pytest.mark.parametrize("line", shown_commands())
def test_every_command_that_the_readme_shows_parses(line: str) -> None:
    program, name, *arguments = shlex.split(line)
    command = typer.main.get_command(cli.app)
    assert program == "mimo-bench"
    assert isinstance(command, typer.core.TyperGroup)
    # Parsing alone: nothing runs.
    command.commands[name].make_context(name, arguments)


def test_every_command_there_is_stands_in_the_readme() -> None:
    command = typer.main.get_command(cli.app)
    assert isinstance(command, typer.core.TyperGroup)
    assert set(re.findall(r"^\| `mimo-bench (\w+)", README, flags=re.MULTILINE)) == set(command.commands)


def test_the_scenario_that_the_readme_shows_passes_check(tmp_path: Path) -> None:
    (text,) = fences("toml scenario")
    path = tmp_path / "readme.toml"
    path.write_text(text, encoding="utf-8")
    assert cli.main(["check", str(path)]) == 0
    assert load_scenario(path).names == ("colocated-dp2", "vision-dp2--language-tp2")


def test_every_option_of_run_stands_in_the_readme() -> None:
    command = typer.main.get_command(cli.app)
    assert isinstance(command, typer.core.TyperGroup)
    options = {name for option in command.commands["run"].params for name in option.opts if name.startswith("--")}
    assert options <= set(re.findall(r"--[a-z-]+", README))


def test_every_setting_and_every_mode_stands_in_the_readme() -> None:
    assert set(Settings.model_fields) <= set(re.findall(r"`(\w+)`", README))
    assert f"[--modes {','.join(get_args(Mode))}]" in README
