"""THE FLOW ON ONE SCREEN: every layout of a scenario is trained, held against the baseline, timed and recorded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from mimo_bench.bench.attempt import BASELINE, Attempts
from mimo_bench.bench.layout_run import LayoutRunner
from mimo_bench.bench.ledger import Ledger
from mimo_bench.bench.resume import Wanted, holds_record, read_earlier, sole_writer
from mimo_bench.launch import DeviceKind, Launcher, ranks_per_gpu
from mimo_bench.parity import Planting
from mimo_bench.predict import contradictions
from mimo_bench.record import PLANTED, Mode, RunRecord, foreign_processes, sweep, write_series
from mimo_bench.report import (
    History,
    LayoutEnded,
    MatrixEnded,
    MatrixStarted,
    OnEvent,
    hold_against,
    write_report,
    write_trend,
)
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
    num_timing_launches: int
    """How often ranks are started to time a layout."""
    history: Path | None
    """Where earlier runs are kept, to hold this one against and to keep it with; None for neither."""
    resume: bool
    """Go on from the record in `directory`, where there is one."""
    plant: str | None
    """`FAULT` for every layout but the baseline, or `FAULT@LAYOUT` for one."""
    command: tuple[str, ...]

    @property
    def tainted(self) -> str | None:
        """Why the run's numbers should not be compared."""
        if self.plant is not None:
            return f"{self.plant} {PLANTED}"
        if self.device_kind == "cuda" and (sharers := ranks_per_gpu()) > 1:
            return f"up to {sharers} ranks shared a GPU"
        return None


def run_matrix(scenario: Scenario, *, options: MatrixOptions, on_event: OnEvent) -> RunRecord:
    """Train, judge and time every layout; leave record and report in `options.directory`.

    Raises:
        FaultError: the fault to plant does not exist; nothing was started or written.
        UsageError: somebody else runs into the directory, or it holds another experiment than the one to resume.
        BaseException: whatever ends the run early, Ctrl-C and signals included, after the record says what ran. A
            layout that fails, or that cannot be launched, does not: it has its status and the others go on.
    """
    planting = Planting.of(options.plant)
    with sole_writer(options.directory):
        earlier = earlier_record(scenario, options)
        sweep(options.directory)
        ledger = open_ledger(scenario, options, earlier)
        on_event(started(scenario, ledger, options))
        try:
            train_layouts(scenario, options, ledger, planting, on_event)
            ledger.finish()
            if options.history is not None:
                ledger.note(hold_against(ledger.record, options.history))
        except BaseException:
            ledger.interrupt()
            raise
        finally:
            # As large as the model, and of no use once every layout was held against it.
            shutil.rmtree(options.directory / BASELINE, ignore_errors=True)
            write_report(options.directory, ledger.record)
            on_event(MatrixEnded(record=ledger.record, contradictions=tuple(contradictions(ledger.record))))
        if options.history is not None:
            keep(options.directory, options.history)
        return ledger.record


def keep(directory: Path, history: Path) -> None:
    """Put the run into the history, and what it changes onto the trend page."""
    kept = History(history)
    kept.add(directory)
    write_trend(kept)


def train_layouts(
    scenario: Scenario, options: MatrixOptions, ledger: Ledger, planting: Planting, on_event: OnEvent
) -> None:
    """Run every layout that does not keep its entry from before, the baseline first, and enter each in the ledger."""
    names = order(scenario, options.layouts)
    if set(names) <= set(ledger.kept):
        return
    reference = None
    with Launcher(device_kind=options.device_kind) as launcher:
        attempts = open_attempts(launcher, scenario, options)
        runner = LayoutRunner(
            scenario=scenario,
            modes=options.modes,
            attempts=attempts,
            planting=planting,
            on_event=on_event,
            num_timing_launches=options.num_timing_launches,
        )
        for name in names:
            if name in ledger.kept:
                continue
            ledger.start(name)
            account = runner.run(name, reference)
            reference = reference or account.reference
            if strangers := foreign_processes(account.ranks_in("timing")):
                ledger.taint(f"while {name} was timed, {strangers}")
            write_series(options.directory, name, account.ranks)
            layout = ledger.enter(runner.record(name, account))
            on_event(LayoutEnded(layout=layout))
            if name == scenario.baseline:
                ledger.hold_against_earlier(layout)


def earlier_record(scenario: Scenario, options: MatrixOptions) -> RunRecord | None:
    """What this run goes on from, if it resumes one.

    Raises:
        UsageError: the record in the directory is of another experiment.
    """
    if not (options.resume and holds_record(options.directory)):
        return None
    return read_earlier(options.directory, wanted(scenario, options))


def wanted(scenario: Scenario, options: MatrixOptions) -> Wanted:
    """What an earlier record must hold for this run to go on from it."""
    return Wanted(
        scenario=scenario,
        scenario_file=options.scenario_file,
        names=order(scenario, options.layouts),
        modes=options.modes,
        device_kind=options.device_kind,
        tainted=options.tainted,
    )


def order(scenario: Scenario, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The layouts to run: the baseline first, the others in the order of the file."""
    others = [name for name in scenario.names if name != scenario.baseline and (not wanted or name in wanted)]
    return (scenario.baseline, *others)


def open_ledger(scenario: Scenario, options: MatrixOptions, earlier: RunRecord | None) -> Ledger:
    """The record, before anything has run in this invocation."""
    return Ledger(
        scenario,
        names=order(scenario, options.layouts),
        modes=options.modes,
        scenario_file=options.scenario_file,
        command=options.command,
        device_kind=options.device_kind,
        directory=options.directory,
        tainted=options.tainted,
        earlier=earlier,
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


def started(scenario: Scenario, ledger: Ledger, options: MatrixOptions) -> MatrixStarted:
    """What the terminal is told first."""
    return MatrixStarted(
        scenario=scenario,
        names=order(scenario, options.layouts),
        kept=tuple(layout for layout in ledger.record.layouts if layout.name in ledger.kept),
        is_resumed=bool(ledger.record.resumptions),
        modes=options.modes,
        device_kind=options.device_kind,
        directory=options.directory,
    )
