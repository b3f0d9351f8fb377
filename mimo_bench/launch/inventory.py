"""GPUs that this process may use, found without torch, which would cost seconds and a CUDA context.

Ranks may share a GPU if a layout has more ranks than the machine has GPUs. Kernels and calls of NCCL are then real, and
times mean nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pynvml

from mimo_bench.util import UsageError

RANKS_PER_GPU = "MIMO_BENCH_RANKS_PER_GPU"
VISIBLE = "CUDA_VISIBLE_DEVICES"
CONTROL_GROUPS = Path("/proc/self/cgroup")
CONTROL_GROUP_ROOT = Path("/sys/fs/cgroup")

DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
"""One folder per GPU, there as soon as the kernel module is, also where NVML's library is missing."""


def num_gpus() -> int:
    """Return how many GPUs CUDA shows to a rank; 0 if there is no driver."""
    uuids = _uuids_by_nvml()
    uuids = _uuids_by_driver() if uuids is None else uuids
    # CUDA shows a process at most one slice.
    return min(1, len(uuids)) if _mig_slice() else len(visible_gpus(uuids))


def ranks_per_gpu() -> int:
    """Return the number of ranks that may share a GPU; 1 unless the environment says more.

    Raises:
        UsageError: it says no number.
    """
    asked = os.environ.get(RANKS_PER_GPU, "1")
    if not asked.isdecimal() or int(asked) < 1:
        raise UsageError(f"{RANKS_PER_GPU}: {asked!r}: give the number of ranks that may share a GPU, such as 4")
    return int(asked)


def num_places() -> int:
    """Return the number of ranks that the visible GPUs have room for."""
    return num_gpus() * ranks_per_gpu()


def visible_gpus(uuids: Sequence[str]) -> list[int]:
    """Return the indices of the GPUs that `CUDA_VISIBLE_DEVICES` shows, out of GPUs with these `uuids`.

    Entries are indices or beginnings of UUIDs. As in CUDA, the first that names no GPU ends the list, and a GPU that is
    listed twice hides all.
    """
    listed = os.environ.get(VISIBLE)
    if listed is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for entry in map(str.strip, listed.split(",")):
        if entry.isdecimal():
            named = [int(entry)] if int(entry) < len(uuids) else []
        else:
            named = [index for index, uuid in enumerate(uuids) if entry.startswith("GPU-") and uuid.startswith(entry)]
        if len(named) != 1:
            break
        found += named
    return found if len(set(found)) == len(found) else []


def device_memory_bytes() -> int | None:
    """Return the memory of the smallest visible GPU or slice; None without one, or if the driver does not tell."""
    try:
        with _nvml():
            if mig_slice := _mig_slice():
                handles = [pynvml.nvmlDeviceGetHandleByUUID(mig_slice)]
            else:
                found = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
                handles = [found[index] for index in visible_gpus([str(pynvml.nvmlDeviceGetUUID(h)) for h in found])]
            return min((int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles), default=None)
    except pynvml.NVMLError:
        return None


def cpu_quota() -> float | None:
    """Return the CPUs' worth of time that the control group allows; None without a limit below this machine's CPUs."""
    quotas = [quota for quota in map(_quota_in, _cpu_groups()) if quota is not None]
    return min((quota for quota in quotas if quota < len(os.sched_getaffinity(0))), default=None)


def _quota_in(group: Path) -> float | None:
    with suppress(OSError, ValueError):
        if (group / "cpu.max").exists():
            allowed, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            allowed, period = (
                (group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        # Without a limit: "max" in version 2, -1 in version 1.
        return int(allowed) / int(period) if int(allowed) > 0 else None
    return None


def _cpu_groups() -> Iterator[Path]:
    """Yield the control group of this process and those above it, each of which may limit its CPU time."""
    with suppress(OSError):
        for line in CONTROL_GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                root = CONTROL_GROUP_ROOT if not controllers else CONTROL_GROUP_ROOT / "cpu"
                place = root / group.lstrip("/")
                yield from (each for each in (place, *place.parents) if each.is_relative_to(root))


def _mig_slice() -> str | None:
    """Return the slice of a GPU that `CUDA_VISIBLE_DEVICES` names first; None if it names none."""
    first = os.environ.get(VISIBLE, "").partition(",")[0].strip()
    return first if first.startswith("MIG-") else None


def _uuids_by_nvml() -> list[str] | None:
    try:
        with _nvml():
            handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
            return [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    except pynvml.NVMLError:
        return None


def _uuids_by_driver() -> list[str]:
    """Return the UUIDs of this machine's GPUs as the kernel module tells them, empty if it does not."""
    uuids = []
    for folder in sorted(DRIVER_FOLDER.iterdir()) if DRIVER_FOLDER.is_dir() else ():
        uuids.append("")
        with suppress(OSError):
            if match := re.search(r"GPU-[-0-9a-f]+", (folder / "information").read_text(encoding="utf-8")):
                uuids[-1] = match[0]
    return uuids


@contextmanager
def _nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
