"""The command line: what is printed, how it ends, and that bad input starts and writes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mimo_bench import __version__
from mimo_bench.cli import app as cli
from mimo_bench.cli.exits import BUG, exit_status
from mimo_bench.launch.inventory import num_gpus
from mimo_bench.record import LayoutRecord, Status
from tests.support import golden

SCENARIO = """
question = "Is it?"
model = "llava-tiny"
global_batch_size = 4
global_micro_batch_size = 4
seq_length = 48
baseline = "base"

[[layout]]
name = "base"
vision = { dp = 2 }
language = { dp = 2 }

[[layout]]
name = "split"
vision = { dp = 2 }
language = { tp = 2, rank_offset = 2 }
settings = { sequence_parallel = true }
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


def ended(status: Status) -> LayoutRecord:
    """A layout that ended in `status`; nothing else about it counts here."""
    return LayoutRecord(
        name="a", placement="colocated", world_size=1, modules={}, settings={}, status=status, reason="because"
    )


def test_check_prints_which_rank_holds_what(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(scenario)]) == 0
    printed = capsys.readouterr().out
    assert f"{scenario}: valid, 2 layouts of llava-tiny" in printed
    assert (
        "split\n"
        "  disjoint, 4 ranks; 4 samples a step = 1 micro-batch x 4 (2 per vision replica, 4 per language replica)\n"
        "  settings: sequence_parallel\n"
        "  rank  vision                   language\n"
        "     0  tp0 dp0 pp0 samples 0-1  -\n"
        "     1  tp0 dp1 pp0 samples 2-3  -\n"
        "     2  -                        tp0 dp0 pp0 samples 0-3\n"
        "     3  -                        tp1 dp0 pp0 samples 0-3\n"
    ) in printed


def test_check_ends_with_a_table_of_needs_and_with_1_if_a_layout_does_not_fit(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(scenario), "--device-memory", "80"]) == 0
    *_, head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["layout", "peak", "needs", "a", "device", "with", "fits", "80", "GiB"]
    assert (first.split()[-1], second.split()[-1]) == ("yes", "yes")
    assert cli.main(["check", "-q", str(scenario), "--device-memory", "0.1"]) == 1
    out, err = capsys.readouterr()
    assert out == f"{scenario}: valid, 2 layouts of llava-tiny\n"
    assert (
        err == f"mimo-bench: {scenario}: do not fit 0.1 GiB: {', '.join(row.split()[0] for row in (first, second))}\n"
    )


def test_a_dry_run_prints_what_would_run_and_writes_nothing(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["run", str(scenario), "--device", "cpu", "--dry-run", "--out", str(out)]
    assert cli.main([*command, "-k", "spl and not base"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{scenario}: parity and timing on cpu ranks"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["base", "split"]
    assert cli.main([*command, "--layout", "b*"]) == 0
    assert "split" not in capsys.readouterr().out
    assert not out.exists()


def test_check_tells_all_errors_of_a_file_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.toml"
    head, first, second = SCENARIO.split("[[layout]]")
    gap = second.replace("rank_offset = 2", "rank_offset = 3")
    again = gap.replace('"split"', '"again"')
    path.write_text("[[layout]]".join([head, first, gap, again]), encoding="utf-8")
    assert cli.main(["check", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("bad.toml: layout '" in line for line in lines)


def test_the_help_lists_the_rarer_commands_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    common, rarer = capsys.readouterr().out.split("Rarer commands:")
    assert "selftest" in common
    assert "mutants" not in common
    assert "mutants" in rarer


def test_a_quiet_check_prints_one_line_a_file(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--quiet", str(scenario), str(scenario)]) == 0
    assert capsys.readouterr().out == f"{scenario}: valid, 2 layouts of llava-tiny\n" * 2


def test_one_layout_is_counted_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.toml"
    path.write_text("[[layout]]".join(SCENARIO.split("[[layout]]")[:2]), encoding="utf-8")
    assert cli.main(["check", "-q", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: valid, 1 layout of llava-tiny\n"


def test_check_tells_every_bad_file_and_still_reads_the_good_ones(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("seed = -1\n", encoding="utf-8")
    assert cli.main(["check", "-q", str(bad), str(tmp_path / "none.toml"), str(scenario)]) == 2
    out, err = capsys.readouterr()
    assert "small.toml: valid" in out
    assert "bad.toml: seed: -1" in err
    assert "none.toml: no such file" in err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--layout", "spilt"], "no layout is called 'spilt'; did you mean 'split'? Known: base, split"),
        (["--modes", "parity,timming"], "--modes: 'timming' is no mode; did you mean 'timing'?"),
        (["--modes", ""], "--modes: '' is no mode; use one of parity, timing, comm"),
        (["--hang-limit", "0"], "--hang-limit: 0.0: give a positive number of seconds"),
        (["--hang-limit", "nan"], "--hang-limit: nan: give a positive number of seconds"),
        (["--plant", "no-such-fault"], "no fault is called 'no-such-fault'"),
        (["--plant", "kill-rank@spilt"], "no layout is called 'spilt'; did you mean 'split'?"),
        (["--plant", "kill-rank@base"], "'base' is the baseline"),
        (["--plant", "kill-rank@split", "--layout", "base"], "add --layout split"),
        (["--device", "tpu"], "tpu"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_bad_options_of_run_end_with_2_and_write_nothing(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    out = tmp_path / "out"
    assert cli.main(["run", str(scenario), "--device", "cpu", "--out", str(out), *options]) == 2
    assert complaint in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [scenario]


def test_a_bad_second_scenario_keeps_the_first_from_starting(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["run", str(scenario), str(tmp_path / "none.toml"), "--device", "cpu", "--out", str(out)]) == 2
    assert "none.toml: no such file" in capsys.readouterr().err
    assert not out.exists()


def test_an_out_directory_that_holds_something_is_refused_and_left_alone(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(scenario), "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "is not empty; name a new directory" in capsys.readouterr().err
    assert cli.main(["run", str(scenario), "--device", "cpu", "--out", str(scenario)]) == 2
    assert "is a file; name a directory" in capsys.readouterr().err
    assert cli.main(["run", str(scenario), "--device", "cpu", "--out", str(scenario / "below")]) == 2
    assert "cannot be made" in capsys.readouterr().err
    assert scenario.read_text(encoding="utf-8") == SCENARIO


def test_two_scenarios_of_one_name_are_refused(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(scenario), str(scenario), "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    assert "have the same name" in capsys.readouterr().err


def test_asking_for_gpus_where_none_is_visible_is_bad_input(
    scenario: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert num_gpus() == 0
    assert cli.main(["run", str(scenario), "--device", "cuda"]) == 2
    assert "--device cuda: no GPU is visible; use --device cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["passed", "passed"], 0),
        (["passed", "unjudged"], 0),
        (["passed", "parity_failed"], 1),
        (["parity_failed", "crashed"], 3),
        (["oom", "passed"], 3),
        (["timeout"], 3),
        (["not_run", "parity_failed"], 3),
    ],
)
def test_the_exit_status_is_the_first_that_applies(statuses: list[Status], expected: int) -> None:
    record = golden.record().model_copy(update={"layouts": tuple(map(ended, statuses))})
    assert exit_status([record]) == expected


def test_a_fault_of_ours_is_not_mistaken_for_a_verdict(
    scenario: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(path: Path) -> None:
        raise RuntimeError(f"stumbled over {path.name}")

    monkeypatch.setattr("mimo_bench.cli.check.load_scenario", stumble)
    assert cli.main(["check", str(scenario)]) == BUG
    assert "RuntimeError: stumbled over small.toml" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(scenario: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press_ctrl_c(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mimo_bench.cli.check.load_scenario", press_ctrl_c)
    assert cli.main(["check", str(scenario)]) == 130


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138), (signal.SIGUSR2, 140)],
)
def test_a_signal_ends_the_command_in_good_order_with_the_status_that_a_shell_gives_it(
    number: signal.Signals, status: int, scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr("mimo_bench.cli.check.load_scenario", lambda _: signal.raise_signal(number))
    assert cli.main(["check", str(scenario)]) == status
    assert signal.getsignal(number) is before


def test_a_file_that_cannot_be_written_is_named_without_a_traceback(
    scenario: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill_the_disk(_: Path) -> None:
        raise OSError(28, "No space left on device", "runs/one/run.json")

    monkeypatch.setattr("mimo_bench.cli.check.load_scenario", fill_the_disk)
    assert cli.main(["check", str(scenario)]) == BUG
    assert capsys.readouterr().err == "mimo-bench: runs/one/run.json: No space left on device\n"


@pytest.mark.parametrize("of", ["scenario", "run"])
def test_the_schema_is_json_with_descriptions(of: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema", of]) == 0
    schema = json.loads(capsys.readouterr().out)
    described = {"scenario": "seq_length", "run": "code_hash"}[of]
    assert schema["type"] == "object"
    assert described in schema["properties"]
    assert "description" in schema["properties"]["global_batch_size" if of == "scenario" else "code_hash"]


def test_a_directory_without_a_record_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("validate", "report"):
        assert cli.main([command, str(tmp_path)]) == 2
        assert "run.json: no such file" in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mimo-bench {__version__}\n"


@pytest.mark.parametrize(
    "program",
    [
        "import mimo_bench",
        "from mimo_bench.cli.app import main; main(['check', 'scenarios/cpu_smoke.toml'])",
        "from mimo_bench.cli.app import main; main(['schema'])",
        "from mimo_bench.cli.app import main; main(['--help'])",
    ],
)
def test_neither_the_package_nor_check_imports_torch_or_pandas(program: str) -> None:
    heavy = {"torch", "megatron", "transformers", "pandas", "pyarrow", "plotly"}
    watched = f"import sys\n{program}\nfound = {heavy} & set(sys.modules)\nsys.exit(str(found) if found else 0)"
    repository = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", watched], cwd=repository, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "most", "packages"),
    [
        (["--help"], 120, {"annotated_doc", "lazy_loader", "shellingham", "typer"}),
        (
            ["check", "scenarios/cpu_smoke.toml"],
            320,
            {
                "annotated_doc",
                "annotated_types",
                "lazy_loader",
                "pydantic",
                "pydantic_core",
                "pynvml",
                "safetensors",
                "shellingham",
                "typer",
                "typing_extensions",
                "typing_inspection",
            },
        ),
    ],
    ids=["help", "check"],
)
def test_what_answers_at_once_imports_little(arguments: list[str], most: int, packages: set[str]) -> None:
    watched = (
        "import sys\nbefore = set(sys.modules)\nfrom mimo_bench.cli.app import main\n"
        f"main({arguments!r})\nprint(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    repository = Path(__file__).parents[2]
    told = subprocess.run([sys.executable, "-c", watched], cwd=repository, capture_output=True, text=True, check=True)
    imported = told.stderr.split()
    own = {"mimo_bench", *sys.stdlib_module_names}
    foreign = {top for name in imported if (top := name.partition(".")[0]) not in own}
    assert {name for name in foreign if not name.startswith("_")} <= packages
    report = [name for name in imported if name.startswith("mimo_bench.report.")]
    assert not [name for name in report if not name.startswith("mimo_bench.report.check")]
    assert not [name for name in imported if name.startswith("mimo_bench.record")]
    # Today 87 and 241; a module costs about a millisecond.
    assert len(imported) < most
