"""What is followed from night to night: one `Night` is one layout in one run, with the few numbers that matter.

A night holds what a row of the index holds, and nothing else of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from statistics import median

from mimo_bench.record import PLANTED, Quantity, RunRecord, Status, machine


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """What nights must share to be one series."""

    scenario_hash: str
    measured_by: str
    machine: str
    layout: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Night:
    """One layout in one run."""

    run: str
    """The run's directory in the history."""
    started_at: datetime
    scenario: str
    """The scenario file's name without its ending, for people."""
    scenario_hash: str
    measured_by: str
    machine: str
    layout: str
    status: Status
    tainted: str | None
    commit: str | None
    software: str
    """Versions that may change from night to night, for people: `torch 2.11.0, megatron-core 0.19.2, ...`."""
    step_seconds: float | None
    """Median of the launches' medians."""
    launch_medians: tuple[float, ...]
    tokens_per_second_per_gpu: float | None
    peak_allocated_bytes: float | None
    """Of the fullest rank."""

    @property
    def series(self) -> Series:
        """Where it belongs."""
        return Series(
            scenario_hash=self.scenario_hash, measured_by=self.measured_by, machine=self.machine, layout=self.layout
        )

    @property
    def counts(self) -> bool:
        """Whether its numbers are those of a layout that trained the right model undisturbed."""
        return self.status in ("passed", "unjudged") and self.tainted is None

    @property
    def is_judged(self) -> bool:
        """Whether it is held against others: also with a fault that was planted, which is how the gate is tried out."""
        return self.counts or (
            self.status in ("passed", "unjudged") and self.tainted is not None and self.tainted.endswith(PLANTED)
        )

    def value(self, quantity: Quantity) -> float | None:
        """The number that is followed, if it is known and above zero, which a ratio needs."""
        found = self.step_seconds if quantity == "step_seconds" else self.peak_allocated_bytes
        return found or None

    def launches(self, quantity: Quantity) -> tuple[float, ...]:
        """The same of every launch; memory is the same in each."""
        return self.launch_medians if quantity == "step_seconds" else ()


def nights_of(record: RunRecord, *, run: str) -> Iterator[Night]:
    """Every layout of a run as a night; `run` is where the history keeps it."""
    environment = record.environment
    versions = {
        "torch": environment.torch,
        "megatron-core": environment.megatron_core,
        "driver": environment.driver,
        "nccl": environment.nccl,
    }
    for layout in record.layouts:
        timing = layout.timing
        medians = (timing.launch_medians or (timing.step_seconds_median,)) if timing else ()
        yield Night(
            run=run,
            started_at=record.started_at,
            scenario=PurePath(record.scenario_file).stem,
            scenario_hash=record.scenario_hash,
            measured_by=record.measured_by,
            machine=machine(environment),
            layout=layout.name,
            status=layout.status,
            tainted=record.tainted,
            commit=environment.git_commit,
            software=", ".join(f"{name} {version}" for name, version in versions.items() if version is not None),
            step_seconds=_middle(medians),
            launch_medians=medians,
            tokens_per_second_per_gpu=timing.tokens_per_second_per_gpu if timing else None,
            peak_allocated_bytes=max((rank.peak_allocated_bytes for rank in layout.memory.ranks), default=None)
            if layout.memory
            else None,
        )


def by_series(nights: Iterable[Night]) -> dict[Series, list[Night]]:
    """Nights of each series, oldest first."""
    found: dict[Series, list[Night]] = {}
    for night in sorted(nights, key=lambda night: (night.started_at, night.run)):
        found.setdefault(night.series, []).append(night)
    return found


def _middle(values: Sequence[float]) -> float | None:
    return median(values) if values else None
