"""The whole record of a run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from mimo_bench.record.schema.base import SCHEMA_VERSION, Count, Entry, Finite, Mode
from mimo_bench.record.schema.communication import LinkSpeed
from mimo_bench.record.schema.history import HistoryComparison
from mimo_bench.record.schema.layout import LayoutRecord


class Device(Entry):
    """One GPU that the run used."""

    name: str
    uuid: str
    total_bytes: Count | None = None
    """Memory of the device, by the driver."""


class Environment(Entry):
    """Machine and software that the run was measured on."""

    git_commit: str | None
    git_dirty: bool | None
    hosts: tuple[str, ...]
    device_kind: Literal["cpu", "cuda"]
    devices: tuple[Device, ...]
    cpu: str | None
    num_cpus: int
    """CPUs that the process may run on."""
    cpu_quota: float | None = None
    """CPUs' worth of time that the control group allows; None without a limit below `num_cpus`."""
    driver: str | None
    cuda: str | None
    nccl: str | None
    python: str
    torch: str | None
    megatron_core: str | None
    transformers: str | None
    platform: str
    topology: dict[str, str] = {}
    """Connection of each pair of devices: NVLink, or where their paths meet. Keys such as `0-1` number `devices`."""
    variables: dict[str, str] = {}
    """Environment variables that may change a measurement; never secrets."""


def in_utc(moment: datetime) -> datetime:
    """Return `moment` in UTC if it has no zone, as records of other writers may."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(in_utc)]


class Interval(Entry):
    """Interval that contains a quantity with 95 % confidence."""

    low: Finite
    high: Finite


class Resumption(Entry):
    """An invocation that resumed an earlier one (`run --resume`)."""

    resumed_at: Moment
    command: tuple[str, ...]
    kept: tuple[str, ...]
    """Layouts that keep their earlier entries; this invocation trained every other layout."""
    reason: str
    """Reason why these were kept, or none."""


class Ranked(Entry):
    """A place in the ranking, with its reason."""

    name: str
    reason: str
    tokens_per_second_per_gpu: Finite | None = None
    """Layouts are ranked by it; padding does not count, idle ranks do."""
    interval: Interval | None = None
    """Interval by Student's t: on the medians of the launches if there are several, else on the steps of the timed
    window, of which steps that resemble their neighbours count as fewer. Differences from launch to launch are not in
    the steps of one launch. Null for one launch of fewer than three steps."""
    tied_with_best: bool | None = None
    """True if it is not significantly slower than the best layout (5 %, family-wise). Null for the best, and if too few
    or too noisy steps leave it open."""
    peak_allocated_bytes: Count | None = None
    """Largest over its ranks."""


MEASURING_VERSION = 1
"""Raise it with every change after which a recorded number means something else or is measured differently."""

HASH_OF_MEASURING_VERSION_1 = "9a7b4a54f21d2f0727bea7a6f0ed35b926a5e05acd44ffee0584cc108b1699ba"
"""`measuring_hash` of the last records without a version, which hashed file names and docstrings too."""


class RunRecord(Entry):
    """One invocation over one scenario: the machine contract, `run.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    scenario: dict[str, Any]
    scenario_file: str
    scenario_hash: str
    code_hash: str
    """SHA-256 over the package's source; a run is resumed only by the code that began it."""
    measuring_version: int | None = None
    """Version of the numbers' meaning, raised by hand (`MEASURING_VERSION`); only runs with equal versions compare.
    Null in older records, which compare by `measuring_hash`."""
    measuring_hash: str | None = None
    """SHA-256 over the statements of the measuring code, without docstrings, imports and file names."""
    question: str
    started_at: Moment
    finished_at: Moment | None
    """Null while the matrix is still running or was interrupted."""
    command: tuple[str, ...]
    modes: tuple[Mode, ...]
    resumptions: tuple[Resumption, ...] = ()
    """Empty if the run was never resumed."""
    tainted: str | None = None
    """Reason why the numbers should not be compared; null if they may."""
    overhead: dict[str, Finite] = {}
    """Cost of each mode's instruments compared with bare training of the baseline, as a share of the step; empty unless
    measured (`overhead --record`)."""
    links: tuple[LinkSpeed, ...] = ()
    """Bandwidth of the machine's links without other load, by collective, number of ranks and size; empty unless
    measured (`linkspeed --record`)."""
    environment: Environment
    baseline: str
    layouts: tuple[LayoutRecord, ...]
    ranking: tuple[Ranked, ...] = ()
    history: HistoryComparison | None = None
    """Null if the run was not compared with a history."""

    @property
    def measured_by(self) -> str:
        """Return what runs must share to compare: the measuring version, or a hash of code in older records."""
        if self.measuring_version is not None:
            return f"measuring version {self.measuring_version}"
        if self.measuring_hash == HASH_OF_MEASURING_VERSION_1:
            return "measuring version 1"
        return self.code_hash if self.measuring_hash is None else self.measuring_hash
