"""What makes two runs comparable: the same experiment, measured by the same code, on the same kind of machine.

A nightly moves from host to host of one kind, and watches drivers and libraries change: neither parts two runs. Other
GPUs, another number of them or other processors do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mimo_bench.record.schema import Environment, RunRecord
from mimo_bench.util import first_difference

PLANTED = "was planted on purpose"
"""How the reason ends for which such a run is tainted: its numbers are no reference, but they may be judged."""

SOFTWARE = ("driver", "cuda", "nccl", "python", "torch", "megatron_core", "transformers")


def machine(environment: Environment) -> str:
    """The kind of machine in words, equal for machines whose times may be compared: `4 x NVIDIA H200, <processor>`."""
    processor = environment.cpu or "unknown processor"
    if environment.device_kind == "cpu":
        return f"{environment.num_cpus} x {processor}"
    devices = Counter(device.name for device in environment.devices)
    return ", ".join([*(f"{number} x {name}" for name, number in sorted(devices.items())), processor])


def differences(before: Environment, now: Environment) -> Iterator[tuple[str, str, str]]:
    """The kind of machine and every version of what runs on it that differ: name, before, now."""
    if machine(before) != machine(now):
        yield "machine", machine(before), machine(now)
    for name in SOFTWARE:
        if (was := getattr(before, name)) != (found := getattr(now, name)):
            yield name, str(was), str(found)


def incomparable(before: RunRecord, now: RunRecord) -> list[str]:
    """Why the numbers of two runs may not be held against each other, one sentence each; empty where they may."""
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
        found.append(f"the data differs: {parted.key} was {_said(parted.before)} and is {_said(parted.now)}")
    for when, record in (("old", before), ("new", now)):
        if record.tainted is not None:
            found.append(f"the {when} run is tainted: {record.tainted}")
    return found


def _fingerprint(record: RunRecord) -> dict[str, Any]:
    """What the samples of a run were made from, as a table of its own; nothing where they came from no files."""
    data = record.scenario.get("data")
    fingerprint = data.get("fingerprint") if isinstance(data, dict) else None
    return {} if fingerprint is None else {"data": {"fingerprint": fingerprint}}


def _said(value: object) -> str:
    """A value of the data as a message says it; of what one side lacks, and of tables, only whether it is there."""
    if value is None:
        return "not there"
    return "there" if isinstance(value, dict) else _short(str(value))


def _short(value: str) -> str:
    """A hash cut to what people compare; anything else whole."""
    return value[:12] if len(value) == 64 and value.isalnum() else value
