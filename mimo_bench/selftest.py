"""The gate proves itself: every known fault is planted, each must be caught by its check, and the clean runs must pass.

scenario -> layout -> trainer -> meters -> record -> [parity] -> report
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mimo_bench.attempt import BASELINE, Attempts
from mimo_bench.errors import FaultError
from mimo_bench.launch.launcher import DeviceKind, Launcher
from mimo_bench.layout_run import Account, LayoutRunner, Reference
from mimo_bench.parity.planting import KNOWN, KnownFault, Planting, find_fault
from mimo_bench.record.files import write_atomically
from mimo_bench.report.markdown import table
from mimo_bench.scenario import Scenario

HANG_SECONDS = 30.0
"""Silence that counts as a hang here: one of the faults is a rank that hangs, and it is waited for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One layout with one fault, or without any."""

    fault: str | None
    layout: str
    expected: str
    """The check that must catch it; `passed` for a clean run."""
    found: str
    """The check that did, or how the layout ended."""
    reason: str

    @property
    def is_right(self) -> bool:
        """Whether the gate said what it should."""
        return self.found == self.expected


def choose_layouts(scenario: Scenario, *, num_ranks: int | None = None) -> dict[str, str]:
    """A layout for every fault: the smallest in which it shows, never the baseline.

    With `num_ranks`, only faults whose layout needs no more ranks.

    Raises:
        FaultError: no layout shows some fault; the message says which and what to use instead.
    """
    layouts = {name: _smallest(scenario, name, fault) for name, fault in KNOWN.items()}
    fits = {name: num_ranks is None or scenario.table(name).grids().world_size <= num_ranks for name in scenario.names}
    return {fault: layout for fault, layout in layouts.items() if fits[layout]}


def _smallest(scenario: Scenario, name: str, fault: KnownFault) -> str:
    fitting = [
        (table.grids().world_size, table.name)
        for table in scenario.layout
        if table.name != scenario.baseline and fault.shows_in(table.grids(), table.settings)
    ]
    if not fitting:
        raise FaultError(f"{name}: no layout of the scenario would show it; use scenarios/cpu_smoke.toml, which does")
    return min(fitting)[1]


def run_selftest(
    scenario: Scenario,
    layouts: dict[str, str],
    *,
    device_kind: DeviceKind,
    directory: Path,
    on_trial: Callable[[Trial], None],
) -> tuple[Trial, ...]:
    """Plant every fault in its layout of `layouts`, and leave `selftest.md` in `directory`."""
    trials = []
    try:
        with Launcher(device_kind=device_kind) as launcher:
            attempts = Attempts(
                launcher,
                scenario=scenario,
                directory=directory,
                device_kind=device_kind,
                hang_seconds=HANG_SECONDS,
            )
            for trial in run_trials(scenario, layouts, attempts):
                on_trial(trial)
                trials.append(trial)
    finally:
        # As large as the model, also where somebody stops the selftest half-way.
        shutil.rmtree(directory / BASELINE, ignore_errors=True)
    write_atomically(directory / "selftest.md", render(trials).encode())
    return tuple(trials)


def run_trials(scenario: Scenario, layouts: dict[str, str], attempts: Attempts) -> Iterator[Trial]:
    """The baseline, the clean run of every layout that is used, then every fault in its layout."""
    baseline = _run(scenario, attempts, scenario.baseline, None, None)
    yield _trial(None, scenario.baseline, "passed", baseline)
    for layout in dict.fromkeys(layouts.values()):
        yield _trial(None, layout, "passed", _run(scenario, attempts, layout, None, baseline.reference))
    for fault, layout in layouts.items():
        account = _run(scenario, attempts, layout, fault, baseline.reference)
        yield _trial(fault, layout, KNOWN[fault].caught_by, account)


def render(trials: list[Trial]) -> str:
    """The table fault x check as Markdown."""
    rows = [
        [
            trial.fault or "none",
            trial.layout,
            trial.expected,
            trial.found,
            "yes" if trial.is_right else "NO",
            trial.reason,
        ]
        for trial in trials
    ]
    num_right = sum(trial.is_right for trial in trials)
    head = f"# Selftest: {num_right} of {len(trials)} as expected\n\n"
    return head + table(["fault", "layout", "expected", "found", "as expected", "reason"], rows) + "\n"


def _run(
    scenario: Scenario, attempts: Attempts, layout: str, fault: str | None, reference: Reference | None
) -> Account:
    planting = Planting(fault=find_fault(fault) if fault is not None else None, layout=layout)
    runner = LayoutRunner(
        scenario=scenario,
        modes=("parity",),
        attempts=attempts,
        planting=planting,
        on_event=lambda _: None,
        second_pass=False,
    )
    return runner.run(layout, reference)


def _trial(fault: str | None, layout: str, expected: str, account: Account) -> Trial:
    failed = account.parity.failed_check if account.parity is not None else None
    return Trial(fault=fault, layout=layout, expected=expected, found=failed or account.status, reason=account.reason)
