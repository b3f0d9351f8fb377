"""On what a run was measured: machine, devices, versions, commit. Asked once, without torch."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import re
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import pynvml

from mimo_bench.launch import cpu_quota, visible_gpus
from mimo_bench.record import Device, Environment

_RELEVANT = ("CUBLAS_", "CUDA_", "GLOO_", "MIMO_BENCH_", "NCCL_", "NVIDIA_TF32", "OMP_", "PYTORCH_", "TORCH")
_SECRET_NAME = re.compile(r"TOKEN|SECRET|KEY|PASS|CREDENTIAL|AUTH|COOKIE|PRIVATE", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"://[^/@\s]+@")
"""Name and password in the address of a service."""
_NCCL = ("nvidia-nccl-cu13", "nvidia-nccl-cu12")
"""The packages that torch takes its NCCL from, by the CUDA that it was built for."""
_ANCESTORS = {
    pynvml.NVML_TOPOLOGY_INTERNAL: "same board",
    pynvml.NVML_TOPOLOGY_SINGLE: "one PCIe switch",
    pynvml.NVML_TOPOLOGY_MULTIPLE: "several PCIe switches",
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: "one PCIe host bridge",
    pynvml.NVML_TOPOLOGY_NODE: "one NUMA node",
    pynvml.NVML_TOPOLOGY_SYSTEM: "between NUMA nodes",
}
"""Where the paths of two devices meet."""

PACKAGE = Path(__file__).resolve().parents[1]

MEASURING = (
    "meters/**/*.py",
    "models/cost.py",
    "models/table.py",
    "models/*/shape.py",
    "record/merge.py",
    "bench/ranks/*.py",
)
"""Files that decide what is timed, counted and added up; FLOPs are formulas of the families' shapes."""


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
        cpu_quota=cpu_quota(),
        driver=driver,
        cuda=cuda,
        nccl=next(filter(None, map(_version, _NCCL)), None) if device_kind == "cuda" else None,
        python=platform.python_version(),
        torch=_version("torch"),
        megatron_core=_version("megatron-core"),
        transformers=_version("transformers"),
        platform=platform.platform(),
        topology=_read_topology(devices) if len(devices) > 1 else {},
        variables=relevant_variables(os.environ),
    )


def relevant_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that may change a measurement; none whose name or value speaks of a secret."""
    return {
        name: value
        for name, value in sorted(variables.items())
        if name.startswith(_RELEVANT) and not _SECRET_NAME.search(name) and not _SECRET_VALUE.search(value)
    }


def _read_topology(devices: Sequence[Device]) -> dict[str, str]:
    """Return the connection of each pair of devices, as the driver names it; unknown pairs are left out."""
    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByUUID(device.uuid) for device in devices]
        found = {}
        for (first, one), (second, other) in combinations(enumerate(handles), 2):
            with suppress(pynvml.NVMLError):
                found[f"{first}-{second}"] = _connection(one, other)
        return found
    finally:
        pynvml.nvmlShutdown()


def _connection(one: Any, other: Any) -> str:
    status = pynvml.nvmlDeviceGetP2PStatus(one, other, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
    if status == pynvml.NVML_P2P_STATUS_OK:
        return "NVLink"
    return _ANCESTORS.get(pynvml.nvmlDeviceGetTopologyCommonAncestor(one, other), "unknown")


def hash_of_code() -> str:
    """Return the SHA-256 over the names and contents of the package's source files."""
    total = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        total.update(str(path.relative_to(PACKAGE)).encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def hash_of_measuring_code() -> str:
    """Return the SHA-256 over the statements that decide what a number means.

    Comments, docstrings, imports, file names and the order of definitions do not count: moving or rewording code that
    measures changes no measurement. The trainer, which is measured, is not part of it.
    """
    paths = (path for place in MEASURING for path in PACKAGE.glob(place))
    return hash_of_statements(path.read_text(encoding="utf-8") for path in paths)


def hash_of_statements(sources: Iterable[str]) -> str:
    """Return the SHA-256 over the top-level statements of Python `sources`, without docstrings and imports."""
    total = hashlib.sha256()
    for statement in sorted(dump for source in sources for dump in _statements(source)):
        total.update(hashlib.sha256(statement.encode()).digest())
    return total.hexdigest()


def _statements(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [child for child in body if not _is_silent(child)]  # type: ignore[attr-defined]
    # Not `dump`, whose format differs between versions of Python.
    return (ast.unparse(node) for node in tree.body)


def _is_silent(node: ast.AST) -> bool:
    """Return whether a statement is an import or a string by itself, which is a docstring."""
    is_string = (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )
    return is_string or isinstance(node, ast.Import | ast.ImportFrom)


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
        devices = tuple(found[index] for index in visible_gpus([device.uuid for device in found]))
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
