"""THE FLOW ON ONE SCREEN: every layout of a scenario is trained, held against the baseline, timed and recorded.

scenario -> layout -> trainer -> meters -> record -> parity -> report
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from mimo_bench.attempt import BASELINE, Attempts
from mimo_bench.events import LayoutEnded, MatrixEnded, MatrixStarted, OnEvent
from mimo_bench.launch.launcher import DeviceKind, Launcher
from mimo_bench.layout_run import LayoutRunner
from mimo_bench.ledger import Ledger
from mimo_bench.parity.planting import Planting
from mimo_bench.record.schema import Mode, RunRecord
from mimo_bench.record.series import write_series
from mimo_bench.report import write_report
from mimo_bench.scenario import Scenario


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixOptions:
    """What one invocation asks for, beyond the scenario."""

    scenario_file: Path
    layouts: tuple[str, ...]
    """Layouts to run; empty for all. The baseline always runs, as there is no verdict without it."""
    device_kind: DeviceKind
    modes: tuple[Mode, ...]
    directory: Path
    hang_seconds: float
    plant: str | None
    """`FAULT` for every layout but the baseline, or `FAULT@LAYOUT` for one."""
    command: tuple[str, ...]


def run_matrix(scenario: Scenario, *, options: MatrixOptions, on_event: OnEvent) -> RunRecord:
    """Train, judge and time every layout; leave record and report in `options.directory`.

    Raises:
        FaultError: the fault to plant does not exist; nothing was started or written.
        BaseException: whatever ends the run early, Ctrl-C and signals included, after the record says what ran. A
            layout that fails, or that cannot be launched, does not: it has its status and the others go on.
    """
    planting = Planting.of(options.plant)
    names = order(scenario, options.layouts)
    ledger = open_ledger(scenario, names, options)
    on_event(started(scenario, names, options))
    reference = None
    try:
        with Launcher(device_kind=options.device_kind) as launcher:
            attempts = open_attempts(launcher, scenario, options)
            runner = LayoutRunner(
                scenario=scenario, modes=options.modes, attempts=attempts, planting=planting, on_event=on_event
            )
            for name in names:
                ledger.start(name)
                account = runner.run(name, reference)
                reference = reference or account.reference
                write_series(options.directory, name, account.ranks)
                on_event(LayoutEnded(layout=ledger.enter(runner.record(name, account))))
        ledger.finish()
    except BaseException:
        ledger.interrupt()
        raise
    finally:
        # As large as the model, and of no use once every layout was held against it.
        shutil.rmtree(options.directory / BASELINE, ignore_errors=True)
        write_report(options.directory, ledger.record)
        on_event(MatrixEnded(record=ledger.record))
    return ledger.record


def order(scenario: Scenario, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The layouts to run: the baseline first, the others in the order of the file."""
    others = [name for name in scenario.names if name != scenario.baseline and (not wanted or name in wanted)]
    return (scenario.baseline, *others)


def open_ledger(scenario: Scenario, names: tuple[str, ...], options: MatrixOptions) -> Ledger:
    """The record, before anything has run."""
    return Ledger(
        scenario,
        names=names,
        modes=options.modes,
        scenario_file=options.scenario_file,
        command=options.command,
        device_kind=options.device_kind,
        directory=options.directory,
        tainted=f"{options.plant} was planted on purpose" if options.plant is not None else None,
    )


def open_attempts(launcher: Launcher, scenario: Scenario, options: MatrixOptions) -> Attempts:
    """What launches layouts of this run."""
    return Attempts(
        launcher,
        scenario=scenario,
        directory=options.directory,
        device_kind=options.device_kind,
        hang_seconds=options.hang_seconds,
    )


def started(scenario: Scenario, names: tuple[str, ...], options: MatrixOptions) -> MatrixStarted:
    """What the terminal is told first."""
    return MatrixStarted(
        scenario=scenario,
        names=names,
        modes=options.modes,
        device_kind=options.device_kind,
        directory=options.directory,
    )
