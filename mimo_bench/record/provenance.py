"""Machine types and versions of software.

Hosts of one type, drivers and libraries may differ: those are what a nightly is for. GPUs, their number and processors
may not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mimo_bench.record.schema.run import Environment

PLANTED = "was planted on purpose"
"""End of the reason for which a run with a planted fault is tainted: it is judged, and no reference for others."""

SOFTWARE = ("driver", "cuda", "nccl", "python", "torch", "megatron_core", "transformers")


def machine(environment: Environment) -> str:
    """Return the machine type in words, equal for machines with comparable times: `4 x NVIDIA H200, <processor>`."""
    processor = environment.cpu or "unknown processor"
    quota = f", quota of {environment.cpu_quota:g} CPUs" if environment.cpu_quota is not None else ""
    if environment.device_kind == "cpu":
        return f"{environment.num_cpus} x {processor}{quota}"
    devices = Counter(device.name for device in environment.devices)
    return ", ".join([*(f"{number} x {name}" for name, number in sorted(devices.items())), processor]) + quota


def differences(before: Environment, now: Environment) -> Iterator[tuple[str, str, str]]:
    """Yield what differs of machine type and software versions: name, before, now."""
    if machine(before) != machine(now):
        yield "machine", machine(before), machine(now)
    for name in SOFTWARE:
        if (was := getattr(before, name)) != (found := getattr(now, name)):
            yield name, str(was), str(found)
