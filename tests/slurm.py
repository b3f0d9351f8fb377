"""A Slurm cluster of one machine, on loopback and in one folder, for the batch script of `examples/slurm`.

    python -m tests.slurm

needs root and Debian's slurm-wlm and munge; `nox -s slurm` installs them. Everything that is started is stopped, and
everything that is written lies in one temporary folder.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mimo_bench.predict.validate import validate
from mimo_bench.record.files import read_run
from mimo_bench.report.history.store import History

REPOSITORY = Path(__file__).parents[1]
SCRIPT = REPOSITORY / "examples" / "slurm" / "nightly.sbatch"

READY_SECONDS = 60.0

CONFIGURATION = """
ClusterName=mimo-bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/linear
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def main() -> int:
    """Submit the CPU matrix, and hold what it leaves to what the README says."""
    if missing := [program for program in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(program) is None]:
        print(f"{', '.join(missing)}: not installed; apt-get install slurm-wlm munge", file=sys.stderr)
        return 2
    scenario = sys.argv[1] if len(sys.argv) > 1 else "scenarios/cpu_smoke.toml"
    with tempfile.TemporaryDirectory(prefix="mimo-slurm-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with cluster(folder) as environment:
            # One launch of each layout: nothing is held against an earlier night here.
            code, job = submit(folder, environment, scenario, "--device", "cpu", "--launches", "1", *sys.argv[2:])
        record = read_run(folder / "out" / f"job{job}")
        validate(folder / "out" / f"job{job}")
        statuses = {layout.status for layout in record.layouts}
        kept = {night.run for night in History(folder / "nights").nights()}
        print(f"job {job}: exit code {code}, {len(record.layouts)} layouts: {', '.join(sorted(statuses))}")
        assert (code, statuses, len(kept)) == (0, {"passed"}, 1), (folder / "job.log").read_text()
    return 0


def submit(folder: Path, environment: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    """Submit the batch script, wait for its end, and return the job's exit code and id."""
    settings = {
        "MIMO_BENCH": f"{sys.executable} -m mimo_bench",
        "MIMO_BENCH_NIGHTS": str(folder / "nights"),
        "MIMO_BENCH_OUT": str(folder / "out"),
        "PYTHONPATH": str(REPOSITORY),
    }
    command = ["sbatch", "--wait", "--parsable", f"--output={folder}/job.log", str(SCRIPT), *arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**environment, **settings}, capture_output=True, text=True, check=False
    )
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode, done.stdout.strip().partition(";")[0]


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Daemons for one node; yields the environment that its commands need. All are gone when the context closes."""
    host = socket.gethostname().partition(".")[0]
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=host, folder=folder, cpus=os.cpu_count(), controller_port=_free_port(), node_port=_free_port()
        ),
        encoding="utf-8",
    )
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    environment = dict(os.environ) | {"SLURM_CONF": str(configuration)}
    files = [f"--{what}-file={folder}/munge.{what}" for what in ("key", "log", "pid", "seed")]
    munged = ["munged", "--foreground", "--force", *files]
    with ExitStack() as daemons:
        daemons.enter_context(_daemon([*munged, f"--socket={folder}/munge.socket"], environment))
        _wait_for((folder / "munge.socket").exists, "munged")
        daemons.enter_context(_daemon(["slurmctld", "-D", "-f", str(configuration)], environment))
        daemons.enter_context(_daemon(["slurmd", "-D", "-f", str(configuration), "-N", host], environment))
        _wait_for(lambda: "idle" in _node_state(environment), "slurmd")
        yield environment


@contextmanager
def _daemon(command: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _node_state(environment: Mapping[str, str]) -> str:
    asked = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], env=environment, capture_output=True, text=True, check=False
    )
    return asked.stdout


def _wait_for(is_ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not is_ready():
        assert time.monotonic() < deadline, f"{what} is not ready after {READY_SECONDS:.0f} s"
        time.sleep(0.2)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
