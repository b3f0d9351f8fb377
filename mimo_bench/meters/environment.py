"""On what a run was measured: machine, devices, versions, commit. Asked once, without torch.

scenario -> layout -> trainer -> [meters] -> record -> parity -> report
"""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import pynvml

from mimo_bench.devices import is_visible
from mimo_bench.record.schema import Device, Environment

PACKAGE = Path(__file__).resolve().parents[1]

MEASURING = ("meters/*.py", "record/merge.py", "rank_log.py", "worker.py")
"""Where it is decided what is timed, counted and added up."""


def read_environment(device_kind: Literal["cpu", "cuda"]) -> Environment:
    """The environment of this process and of the ranks it will start on this machine."""
    driver, cuda, devices = _read_nvml() if device_kind == "cuda" else (None, None, ())
    commit, dirty = _read_commit()
    return Environment(
        git_commit=commit,
        git_dirty=dirty,
        hosts=(socket.gethostname(),),
        device_kind=device_kind,
        devices=devices,
        cpu=_cpu_name(),
        num_cpus=len(os.sched_getaffinity(0)),
        driver=driver,
        cuda=cuda,
        nccl=_version("nvidia-nccl-cu13") if device_kind == "cuda" else None,
        python=platform.python_version(),
        torch=_version("torch"),
        megatron_core=_version("megatron-core"),
        transformers=_version("transformers"),
        platform=platform.platform(),
    )


def hash_of_code() -> str:
    """SHA-256 over the names and contents of the package's source files."""
    return _hash_of(PACKAGE.rglob("*.py"))


def hash_of_measuring_code() -> str:
    """SHA-256 over the source that decides what a number means; the trainer, which is what is measured, may change."""
    return _hash_of(path for place in MEASURING for path in PACKAGE.glob(place))


def _hash_of(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(str(path.relative_to(PACKAGE)).encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _read_nvml() -> tuple[str, str, tuple[Device, ...]]:
    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        found = [
            Device(
                name=str(pynvml.nvmlDeviceGetName(handle)),
                uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
                total_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for handle in handles
        ]
        devices = tuple(device for index, device in enumerate(found) if is_visible(index, device.uuid))
        cuda = pynvml.nvmlSystemGetCudaDriverVersion()
        return str(pynvml.nvmlSystemGetDriverVersion()), f"{cuda // 1000}.{cuda % 1000 // 10}", devices
    finally:
        pynvml.nvmlShutdown()


def _read_commit() -> tuple[str | None, bool | None]:
    """Commit and whether the tree differs from it; unknown outside a git checkout of this package.

    A copy without its history can say by MIMO_BENCH_COMMIT what it is a copy of.
    """
    if not (PACKAGE.parent / ".git").exists():
        return os.environ.get("MIMO_BENCH_COMMIT"), None
    try:
        commit = _git("rev-parse", "HEAD")
        return commit, bool(_git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(*words: str) -> str:
    result = subprocess.run(["git", *words], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None
