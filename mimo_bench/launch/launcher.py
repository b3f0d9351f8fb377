"""The command's side of a launch. No torch: a starter does the work, in a process and a session of its own.

    with Launcher(device_kind="cpu") as launcher:
        outcome = launcher.launch(job)

The starter stays warm from one launch to the next. Ctrl-C in a terminal reaches the command alone, which then takes
the starter and everything below it down in good order.
"""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from mimo_bench.launch.job import Job, Outcome
from mimo_bench.util import LaunchError

DeviceKind = Literal["cpu", "cuda"]

CLOSE_SECONDS = 15.0
TEMPORARY = "MIMO_BENCH_TEMPORARY"
"""Names the folder for sockets to the starter. Both sides remove it, so it stays only where both are killed at once."""
STDERR_TAIL_LINES = 40
MAX_TEMPORARY_BYTES = 107 - len("/mimo-12345678/listener-12345678")
"""Longest directory of temporary files: Linux allows 107 bytes for the path of a socket."""


class Launcher:
    """Owns one starter. Use it in a `with`, or close it: until then the fork server holds its memory."""

    def __init__(self, *, device_kind: DeviceKind, preload: Sequence[str] = ("mimo_bench.bench.ranks.worker",)) -> None:
        """Start importing the modules to `preload` at once, in the background."""
        self._environment = starter_environment(os.environ, device_kind)
        self._preload = tuple(preload)
        self._starter: _Starter | None = _Starter(self._environment, self._preload)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, job: Job) -> None:
        """Run `job` to a good end.

        Raises:
            LaunchError: no rank could be started, or a rank crashed, hung or ran out of memory.
        """
        if (outcome := self.launch(job)).ended != "finished":
            raise LaunchError(outcome.reason)

    def launch(self, job: Job) -> Outcome:
        """Run `job` to its end. When this returns, or raises, nothing of it is running any more.

        Raises:
            LaunchError: no rank could be started, or the starter died. The next launch gets a new starter.
        """
        _clear(job)
        if self._starter is None:
            self._starter = _Starter(self._environment, self._preload)
        try:
            reply = self._starter.ask(job)
        except BaseException:  # Ctrl-C too: the starter may be in the middle of a job
            self.close()
            raise
        if "error" in reply:
            self.close()
            raise LaunchError(reply["error"])
        return Outcome(**reply["outcome"])

    def close(self) -> None:
        """End the starter and whatever it still runs; a later launch would start another."""
        if (starter := self._starter) is not None:
            self._starter = None
            starter.close()


class _Starter:
    """The process and its pipes."""

    def __init__(self, environment: Mapping[str, str], preload: Sequence[str]) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._temporary = tempfile.TemporaryDirectory(
            prefix="mimo-", dir=_short_directory(), ignore_cleanup_errors=True
        )
        self._process = subprocess.Popen(
            # Not `-m`: `multiprocessing` would import that module again in every rank.
            [sys.executable, "-P", "-c", "from mimo_bench.launch.local.starter import main; main()", *preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**environment, TEMPORARY: self._temporary.name} | _compiler_cache(environment, self._temporary.name),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._jobs: IO[bytes] = self._process.stdin
        self._replies: IO[bytes] = self._process.stdout

    def ask(self, job: Job) -> dict[str, Any]:
        """Return the starter's answer.

        Raises:
            LaunchError: it died without one.
        """
        with suppress(BrokenPipeError):
            self._jobs.write(job.to_json().encode() + b"\n")
            self._jobs.flush()
        if line := self._replies.readline():
            reply: dict[str, Any] = json.loads(line)
            return reply
        raise LaunchError(f"the starter of ranks died ({self._last_words()})")

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._jobs.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        finally:  # it takes its fork server and its ranks with it either way
            self._process.kill()
            self._process.wait()
            self._replies.close()
            self._stderr.close()
            self._temporary.cleanup()

    def _last_words(self) -> str:
        exit_code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        said = "\n".join(lines[-STDERR_TAIL_LINES:])
        return f"exit code {exit_code}; it said:\n{said}" if said else f"exit code {exit_code}; it said nothing"


def _clear(job: Job) -> None:
    """Remove the traces that ranks of an earlier launch left in the log folder, or make the folder."""
    try:
        job.log_dir.mkdir(parents=True, exist_ok=True)
        for pattern in ("rank*.log", "rank*.failure.*", "rank*.progress*"):
            for left in job.log_dir.glob(pattern):
                left.unlink()
    except OSError as error:
        raise LaunchError(f"{job.log_dir}: no place for the ranks' logs: {error}") from error


def _short_directory() -> str:
    """Return the directory for temporary files, or another if the paths of sockets in it would be too long.

    Raises:
        LaunchError: all are too long, or cannot be written.
    """
    chosen = tempfile.gettempdir()
    for directory in (chosen, "/tmp", "/var/tmp", "/dev/shm"):  # `tempfile` makes a private one in it
        if len(os.fsencode(directory)) <= MAX_TEMPORARY_BYTES and os.access(directory, os.W_OK):
            return directory
    raise LaunchError(
        f"TMPDIR = {chosen}: sockets need a path of at most {MAX_TEMPORARY_BYTES} bytes, and this has "
        f"{len(os.fsencode(chosen))}; set TMPDIR to a shorter one"
    )


def _compiler_cache(environment: Mapping[str, str], temporary: str) -> dict[str, str]:
    """Return where compilers keep their files; importing torch's makes the folder even if nothing is compiled."""
    # On GPUs it is left where it is: the next run begins with what this one compiled. Its place needs name and home.
    if environment.get("TORCHDYNAMO_DISABLE") != "1" and _has_home():
        return {}
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    return {name: temporary for name in names if name not in environment}


def _has_home() -> bool:
    try:
        getpass.getuser()
    except (KeyError, OSError):
        return False
    return os.access(Path("~").expanduser(), os.W_OK)


def starter_environment(base: Mapping[str, str], device_kind: DeviceKind) -> dict[str, str]:
    """Return the command's `base` environment with the variables that torch reads when it is imported."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    environment = dict(base) | {"PYTHONPATH": path}  # ranks import what the command could
    # One machine: whatever listens, listens where only this machine hears it.
    environment = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} | environment
    if device_kind == "cpu":
        return environment | {"TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    # Importing megatron-core asks whether there is a GPU; unless NVML answers, that leaves the fork server with a
    # CUDA context that no rank can use. NVLink multicast takes GPUs out of service on some hosts.
    return (
        {"OMP_NUM_THREADS": "1"}
        | environment
        | {
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
            "NCCL_NVLS_ENABLE": "0",
            "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
        }
    )
