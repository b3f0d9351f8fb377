"""Comparability of runs: the same experiment, measured by the same code, on the same machine type.

Hosts of one type, drivers and libraries may differ: those are what a nightly is for. GPUs, their number and processors
may not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mimo_bench.record.schema.run import Environment, RunRecord
from mimo_bench.util import first_difference

PLANTED = "was planted on purpose"
"""End of the reason for which a run with a planted fault is tainted: it is judged, and no reference for others."""

SOFTWARE = ("driver", "cuda", "nccl", "python", "torch", "megatron_core", "transformers")


def machine(environment: Environment) -> str:
    """Return the machine type in words, equal for machines with comparable times: `4 x NVIDIA H200, <processor>`."""
    processor = environment.cpu or "unknown processor"
    if environment.device_kind == "cpu":
        return f"{environment.num_cpus} x {processor}"
    devices = Counter(device.name for device in environment.devices)
    return ", ".join([*(f"{number} x {name}" for name, number in sorted(devices.items())), processor])


def differences(before: Environment, now: Environment) -> Iterator[tuple[str, str, str]]:
    """Yield what differs of machine type and software versions: name, before, now."""
    if machine(before) != machine(now):
        yield "machine", machine(before), machine(now)
    for name in SOFTWARE:
        if (was := getattr(before, name)) != (found := getattr(now, name)):
            yield name, str(was), str(found)


def incomparable(before: RunRecord, now: RunRecord) -> list[str]:
    """Return the reasons why two runs are not comparable, one sentence each; empty if they are."""
    pairs = {
        "the scenario": (before.scenario_hash, now.scenario_hash, "scenario_hash"),
        "the measuring code": (before.measured_by, now.measured_by, "measured_by"),
        "the machine": (machine(before.environment), machine(now.environment), "environment"),
    }
    found = [
        f"{what} differs: {key} was {_short(was)} and is {_short(is_now)}"
        for what, (was, is_now, key) in pairs.items()
        if was != is_now
    ]
    if (parted := first_difference(*map(_fingerprint, (before, now)))) is not None:
        found.append(f"the data differs: {parted.key} was {_in_words(parted.before)} and is {_in_words(parted.now)}")
    for when, record in (("old", before), ("new", now)):
        if record.tainted is not None:
            found.append(f"the {when} run is tainted: {record.tainted}")
    return found


def _fingerprint(record: RunRecord) -> dict[str, Any]:
    """Return the fingerprint of the files that samples were made from; empty if there are none."""
    data = record.scenario.get("data")
    fingerprint = data.get("fingerprint") if isinstance(data, dict) else None
    return {} if fingerprint is None else {"data": {"fingerprint": fingerprint}}


def _in_words(value: object) -> str:
    """Return a value of the data for a message; of tables, only that they are there."""
    if value is None:
        return "not there"
    return "there" if isinstance(value, dict) else _short(str(value))


def _short(value: str) -> str:
    """Return the first 12 digits of a hash; anything else whole."""
    return value[:12] if len(value) == 64 and value.isalnum() else value
