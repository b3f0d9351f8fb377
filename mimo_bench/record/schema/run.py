"""The whole record of a run."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from mimo_bench.record.schema.base import SCHEMA_VERSION, Count, Entry, Finite, Mode
from mimo_bench.record.schema.communication import LinkSpeed
from mimo_bench.record.schema.history import HistoryComparison
from mimo_bench.record.schema.layout import LayoutRecord


class Device(Entry):
    """One GPU that the run used."""

    name: str
    uuid: str
    total_bytes: Count | None = None
    """Its memory, by the driver."""


class Environment(Entry):
    """On what the run was measured."""

    git_commit: str | None
    git_dirty: bool | None
    hosts: tuple[str, ...]
    device_kind: Literal["cpu", "cuda"]
    devices: tuple[Device, ...]
    cpu: str | None
    num_cpus: int
    driver: str | None
    cuda: str | None
    nccl: str | None
    python: str
    torch: str | None
    megatron_core: str | None
    transformers: str | None
    platform: str
    topology: dict[str, str] = {}
    """How each pair of devices is connected: NVLink, or where their paths meet. Keys such as `0-1` number `devices`."""
    variables: dict[str, str] = {}
    """Of the environment, those that may change a measurement; secrets never."""


class Interval(Entry):
    """Where a quantity lies with 95 % confidence."""

    low: Finite
    high: Finite


class Resumption(Entry):
    """An invocation that went on where an earlier one had stopped (`run --resume`)."""

    resumed_at: datetime
    command: tuple[str, ...]
    kept: tuple[str, ...]
    """Layouts whose entries come from before; every other layout was trained by this invocation."""
    reason: str
    """Why these were kept, or why none was."""


class Ranked(Entry):
    """A place in the ranking, with what put it there."""

    name: str
    reason: str
    tokens_per_second_per_gpu: Finite | None = None
    """What layouts are ranked by; padding left out, idle ranks counted."""
    interval: Interval | None = None
    """Of it, by Student's t on the steps of the timed window, fewer where steps resemble their neighbours; what differs
    from launch to launch is not in it. Null of fewer than three steps."""
    tied_with_best: bool | None = None
    """Whether the steps leave open that it is as fast as the first, at 5 % over all places; null for the first."""
    peak_allocated_bytes: Count | None = None
    """Of its fullest rank."""


MEASURING_VERSION = 1
"""Raise it with every change after which a recorded number means something else, or is measured in another way."""

HASH_OF_MEASURING_VERSION_1 = "9a7b4a54f21d2f0727bea7a6f0ed35b926a5e05acd44ffee0584cc108b1699ba"
"""`measuring_hash` of the last records without a version, which hashed file names and docstrings too."""


class RunRecord(Entry):
    """One invocation over one scenario: the machine contract, `run.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    scenario: dict[str, Any]
    scenario_file: str
    scenario_hash: str
    code_hash: str
    """SHA-256 over the package's source: a run is resumed only by the code that began it."""
    measuring_version: int | None = None
    """Version of what the numbers mean, raised by hand (`MEASURING_VERSION`): runs compare only when it is the same.
    Null in records that are older than it; these compare by `measuring_hash`."""
    measuring_hash: str | None = None
    """SHA-256 over the statements of the measuring code, without docstrings, imports and file names."""
    question: str
    started_at: datetime
    finished_at: datetime | None
    """Null while the matrix is still running or was interrupted."""
    command: tuple[str, ...]
    modes: tuple[Mode, ...]
    resumptions: tuple[Resumption, ...] = ()
    """Empty for a run of one piece."""
    tainted: str | None = None
    """Why the numbers should not be compared, if they should not."""
    overhead: dict[str, Finite] = {}
    """Cost of each mode's instruments against bare training in the baseline, as a share of the step; empty where it was
    not measured (`overhead --record`)."""
    links: tuple[LinkSpeed, ...] = ()
    """What the machine's links carry by themselves, by collective, number of ranks and size; empty where it was not
    measured (`linkspeed --record`)."""
    environment: Environment
    baseline: str
    layouts: tuple[LayoutRecord, ...]
    ranking: tuple[Ranked, ...] = ()
    history: HistoryComparison | None = None
    """Null where the run was not held against a history."""

    @property
    def measured_by(self) -> str:
        """Return what runs must share to compare: the measuring version, or a hash of code in older records."""
        if self.measuring_version is not None:
            return f"measuring version {self.measuring_version}"
        if self.measuring_hash == HASH_OF_MEASURING_VERSION_1:
            return "measuring version 1"
        return self.code_hash if self.measuring_hash is None else self.measuring_hash
