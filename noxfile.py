"""Every job of this repository by name, such as `nox -s tests`; `nox --list` describes each.

torch and its CUDA libraries take minutes and gigabytes to install, so all sessions share one virtual environment: the
session `environment` makes it, the others require it. With `--no-venv` nothing is installed: each session runs
under nox's own interpreter and imports the project from the repository.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"  # the first with `requires`
nox.options.sessions = ["lint", "tests"]

REPOSITORY = Path(__file__).parent
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Each worker keeps one warm launcher; the tests of a file share its fixtures. tests/conftest.py orders the files.
TWO_WORKERS = ("--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")
WHAT_IS_INSTALLED = (REPOSITORY / "pyproject.toml", REPOSITORY / "constraints.txt")

interpreter = [sys.executable]
"""The interpreter that sessions run under; `environment` replaces it."""


@nox.session(reuse_venv=True, venv_backend="venv")
def environment(session: nox.Session) -> None:
    """Install the project and its dependencies, once, for every other session."""
    if not session.virtualenv.is_sandboxed:
        session.log("no virtual environment asked for: using %s as it is", sys.executable)
        return
    folder = Path(session.virtualenv.location)
    interpreter[0] = str(folder / "bin" / "python")
    stamp = folder / "installed"
    wanted = hashlib.sha256(b"\0".join(path.read_bytes() for path in WHAT_IS_INSTALLED)).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        session.log("already installed; remove %s to install again", stamp)
        return
    session.log("installing torch and what it needs: several minutes and about 5 GB, once")
    session.install("--quiet", "--constraint", "constraints.txt", "--editable", ".[dev]")
    # Asks for JupyterLab, and imports nothing of it.
    session.install("--quiet", "--constraint", "constraints.txt", "--no-deps", "traceinsight")
    stamp.write_text(wanted, encoding="utf-8")


@nox.session(venv_backend="none", requires=["environment"])
def tests(session: nox.Session) -> None:
    """Run the tests that need no GPU, two files at a time; `nox -s nightly` runs what is left."""
    _python(session, "-m", "pytest", *TWO_WORKERS, "--ignore=tests/gpu", "--durations=25", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def nightly(session: nox.Session) -> None:
    """Run the combinations of layouts, families and faults of which `tests` keeps a pairwise cover."""
    _python(session, "-m", "pytest", *TWO_WORKERS, "--ignore=tests/gpu", "-m", "nightly", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def gpu_tests(session: nox.Session) -> None:
    """Run the tests that need GPUs; too few GPUs is a failure."""
    _python(session, "-m", "pytest", "tests/gpu", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def browser(session: nox.Session) -> None:
    """Try the report's page in a real headless Chromium."""
    if not any(shutil.which(name) for name in CHROMIUMS):
        session.error(f"none of {', '.join(CHROMIUMS)} is on PATH; install one: apt-get install chromium")
    _python(session, "-m", "pytest", "tests/browser", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def reports(session: nox.Session) -> None:
    """Regenerate pages, trend page, prediction errors and the README's pictures from the committed GPU runs."""
    if not any(shutil.which(name) for name in CHROMIUMS):
        session.error(f"none of {', '.join(CHROMIUMS)} is on PATH; install one: apt-get install chromium")
    _python(session, "-m", "tests.committed")


@nox.session(venv_backend="none", requires=["environment"])
def docs(session: nox.Session) -> None:
    """Write the reference pages that are made from the code: docs/{cli,settings,tables,contributing/megatron}.md."""
    _python(session, "-m", "tests.generated")


@nox.session(venv_backend="none", requires=["environment"])
def perf(session: nox.Session) -> None:
    """Compare commands, checks of 100,000 layouts and large reports with their limits; with a GPU, a step as well."""
    benches = set(Path("tests/perf").glob("bench_*.py"))
    if not session.posargs and not _num_gpus(session):
        session.log("no GPU: bench_step.py, which measures a training step on one, is left out")
        benches -= {Path("tests/perf/bench_step.py")}
    _python(session, "-m", "pytest", "-s", *(session.posargs or sorted(map(str, benches))))


@nox.session(venv_backend="none", requires=["environment"])
def lint(session: nox.Session) -> None:
    """Check format, style, types, which module may import which, and the words of docstrings, messages and pages."""
    _python(session, "-m", "ruff", "format", "--check", ".")
    _python(session, "-m", "ruff", "check", ".")
    _python(session, "-m", "mypy", "--strict")
    # import-linter has no `python -m`.
    _python(session, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    _python(session, "-m", "tests.prose")


@nox.session(venv_backend="none", requires=["environment"])
def simulation(session: nox.Session) -> None:
    """Judge simulated histories again; the committed table of false alarms and detections must come out."""
    _python(session, "-m", "pytest", "tests/simulation", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def kills(session: nox.Session) -> None:
    """Kill a matrix at twenty random points; each leaves a readable record and no process, and resumes."""
    _python(session, "-m", "tests.ranks.killing", *(session.posargs or ("--kills", "20")))


@nox.session(venv_backend="none", requires=["environment"])
def nodes(session: nox.Session) -> None:
    """Train the CPU matrix by the Python API as two machines would; each layout stops half-way and resumes."""
    asked = ("scenarios/cpu_smoke.toml", "reports/local/nodes", "--steps", "6", "--nodes", "2")
    _python(session, "examples/stop_and_go.py", *asked, *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def slurm(session: nox.Session) -> None:
    """Submit the CPU matrix to a real Slurm of one machine; installs Debian's slurm-wlm and munge, so it needs root."""
    wanted = [program for program in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(program) is None]
    if wanted:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            session.error(f"{', '.join(wanted)}: not installed; have root run apt-get install slurm-wlm munge")
        # Debian's installer asks no question and starts no daemon.
        quiet = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        install = ("apt-get", "install", "-qq", "-y", "--no-install-recommends", "slurm-wlm", "munge")
        session.run("apt-get", "update", "-qq", external=True)
        session.run(*install, external=True, env=quiet)
    _python(session, "-m", "tests.slurm", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def bench(session: nox.Session) -> None:
    """Run the scenario set for the hardware at hand; `-- ...` is handed to `mimo-bench run`."""
    scenario, device = _scenario_for(_num_gpus(session))
    directory = Path("reports", "local", datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    # Later options win, so whatever follows `--` overrides these.
    chosen = ("--device", device, "--out", str(directory))
    _python(session, "-m", "mimo_bench", "run", str(scenario), *chosen, *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def mutants(session: nox.Session) -> None:
    """Break every collective call of a training step in every way; `-- ...` is handed to `mimo-bench mutants`."""
    directory = Path("reports", "local", datetime.now(UTC).strftime("mutants-%Y%m%dT%H%M%SZ"))
    # Together these layouts call every collective on every group role.
    layouts = {
        Path("scenarios", "cpu_smoke.toml"): (
            "colocated-vision-dp2-language-tp2",
            "colocated-tp2-dp2",
            "vision-dp1--language-dp2",
            "vision-dp2--language-tp2-pp2",
            "vision-tp2-dp2--language-tp2-pp2",
        ),
        Path("scenarios", "experts.toml"): (
            "colocated-ep2",
            "colocated-tp2-ep2",
            "colocated-tp2-dp2-ep2",
            "vision-dp2--language-dp4-ep2",
        ),
        Path("mimo_bench", "bench", "gate", "companion.toml"): ("vision-pp2--language-pp2",),
    }
    for scenario, names in layouts.items():
        chosen = ("--device", "cpu", *(word for name in names for word in ("--layout", name)))
        place = ("--out", str(directory / scenario.stem))
        _python(session, "-m", "mimo_bench", "mutants", str(scenario), *chosen, *place, *session.posargs)


def _scenario_for(num_gpus: int) -> tuple[Path, str]:
    """Return the scenario that uses most of `num_gpus`, and the device kind that it is meant for."""
    for num_used in (8, 4, 2, 1):
        scenario = Path("scenarios", f"gpu{num_used}.toml")
        if num_used <= num_gpus and (REPOSITORY / scenario).exists():
            return scenario, "cuda"
    return Path("scenarios", "cpu_smoke.toml"), "cpu"


def _num_gpus(session: nox.Session) -> int:
    ask = "from mimo_bench.launch.inventory import num_gpus; print(num_gpus())"
    return int(str(session.run(interpreter[0], "-c", ask, external=True, silent=True, env=_env())))


def _python(session: nox.Session, *arguments: str) -> None:
    session.run(interpreter[0], *arguments, external=True, env=_env())


def _env() -> dict[str, str | None]:
    # With --no-venv the project is not installed, and ranks need not start in the repository's root.
    inherited = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *([inherited] if inherited else [])])}
