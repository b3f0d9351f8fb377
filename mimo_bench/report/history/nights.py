"""The numbers that a history follows: one `Night` is one layout in one run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath

from mimo_bench.record import PLANTED, Quantity, RunRecord, Status, machine
from mimo_bench.scenario import hash_of_layout, hash_of_shared


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Facts that nights must share to be one series."""

    scenario_hash: str
    measured_by: str
    machine: str
    layout: str
    layout_hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Night:
    """One layout in one run."""

    run: str
    """Name of the run's directory in the history."""
    started_at: datetime
    """Start of the run by the clock of its machine; the day it was kept if that clock cannot be right."""
    scenario: str
    """The scenario file's name without its ending, for people."""
    scenario_hash: str
    """Hash of the part of the scenario that every layout depends on."""
    measured_by: str
    machine: str
    layout: str
    layout_hash: str
    """Hash of the layout's own table."""
    status: Status
    tainted: str | None
    commit: str | None
    software: str
    """Versions that may change from night to night, in words: `torch 2.11.0, megatron-core 0.19.2, ...`."""
    step_seconds: float | None
    """Median of the launches' medians."""
    launch_medians: tuple[float, ...]
    tokens_per_second_per_gpu: float | None
    peak_allocated_bytes: float | None
    """Largest over all ranks."""

    @property
    def series(self) -> Series:
        """Series that the night belongs to."""
        return Series(
            scenario_hash=self.scenario_hash,
            measured_by=self.measured_by,
            machine=self.machine,
            layout=self.layout,
            layout_hash=self.layout_hash,
        )

    @property
    def counts(self) -> bool:
        """Return whether the layout trained the right model, undisturbed."""
        return self.status in ("passed", "unjudged") and self.tainted is None

    @property
    def is_judged(self) -> bool:
        """Return whether the night is compared with others; a planted fault does not prevent it, to test the gate."""
        return self.counts or (
            self.status in ("passed", "unjudged") and self.tainted is not None and self.tainted.endswith(PLANTED)
        )

    def value(self, quantity: Quantity) -> float | None:
        """Return the number that is followed; None if it is unknown or zero, as a ratio needs more."""
        found = self.step_seconds if quantity == "step_seconds" else self.peak_allocated_bytes
        return found or None

    def launches(self, quantity: Quantity) -> tuple[float, ...]:
        """Return the number of every launch; none for memory, which does not change from launch to launch."""
        return self.launch_medians if quantity == "step_seconds" else ()


def nights_of(record: RunRecord, *, run: str) -> Iterator[Night]:
    """Yield every layout of a run as a night; `run` is the name of its directory in the history."""
    environment = record.environment
    versions = {
        "torch": environment.torch,
        "megatron-core": environment.megatron_core,
        "driver": environment.driver,
        "nccl": environment.nccl,
    }
    shared_hash = hash_of_shared(record.scenario)
    for layout in record.layouts:
        timing = layout.timing
        yield Night(
            run=run,
            started_at=record.started_at,
            scenario=PurePath(record.scenario_file).stem,
            scenario_hash=shared_hash,
            measured_by=record.measured_by,
            machine=machine(environment),
            layout=layout.name,
            layout_hash=hash_of_layout(record.scenario, layout.name),
            status=layout.status,
            tainted=record.tainted,
            commit=environment.git_commit,
            software=", ".join(f"{name} {version}" for name, version in versions.items() if version is not None),
            step_seconds=timing.estimated_step_seconds if timing else None,
            launch_medians=(timing.launch_medians or (timing.step_seconds_median,)) if timing else (),
            tokens_per_second_per_gpu=timing.estimated_rate if timing else None,
            peak_allocated_bytes=max((rank.peak_allocated_bytes for rank in layout.memory.ranks), default=None)
            if layout.memory
            else None,
        )


def by_series(nights: Iterable[Night]) -> dict[Series, list[Night]]:
    """Return the nights of each series, oldest first."""
    found: dict[Series, list[Night]] = {}
    for night in sorted(nights, key=lambda night: (night.started_at, night.run)):
        found.setdefault(night.series, []).append(night)
    return found
