"""THE FLOW ON ONE SCREEN: every layout of a scenario is trained, compared with the baseline, timed and recorded."""

from __future__ import annotations

import shutil

from mimo_bench.bench.attempt import BASELINE, Attempts
from mimo_bench.bench.layout_run import LayoutRunner
from mimo_bench.bench.ledger import Ledger
from mimo_bench.bench.request import RunRequest
from mimo_bench.bench.resume import read_earlier, sole_writer
from mimo_bench.launch import Launcher
from mimo_bench.predict import contradictions
from mimo_bench.record import RunRecord, foreign_processes, write_series
from mimo_bench.report import (
    History,
    LayoutEnded,
    MatrixEnded,
    MatrixStarted,
    OnEvent,
    compare_with_history,
    write_report,
    write_trend,
)
from mimo_bench.util import sweep


def run_matrix(request: RunRequest, *, on_event: OnEvent) -> RunRecord:
    """Train, judge and time every layout; leave record and report in the request's directory.

    Raises:
        FaultError: the fault to plant does not exist; nothing was started or written.
        UsageError: another process runs into the directory, or it holds another experiment than the one to resume.
        BaseException: whatever ends the run early, Ctrl-C and signals included, after the record says what ran. A
            layout that fails, or that cannot be launched, does not end the run.
    """
    with sole_writer(request.directory):
        earlier = read_earlier(request)
        sweep(request.directory)
        ledger = Ledger(request, earlier=earlier)
        on_event(
            MatrixStarted(
                scenario=request.scenario,
                names=request.names,
                kept=tuple(layout for layout in ledger.record.layouts if layout.name in ledger.kept),
                is_resumed=bool(ledger.record.resumptions),
                modes=request.modes,
                device_kind=request.device_kind,
                directory=request.directory,
            )
        )
        try:
            train_layouts(request, ledger, on_event)
            ledger.finish()
            if request.history is not None:
                ledger.note(compare_with_history(ledger.record, request.history))
        except BaseException:
            ledger.interrupt()
            raise
        finally:
            # As large as the model, and of no use after the last layout was compared with it.
            shutil.rmtree(request.directory / BASELINE, ignore_errors=True)
            write_report(request.directory, ledger.record)
            on_event(MatrixEnded(record=ledger.record, contradictions=tuple(contradictions(ledger.record))))
        if request.history is not None:
            history = History(request.history)
            history.add(request.directory)
            write_trend(history)
        return ledger.record


def train_layouts(request: RunRequest, ledger: Ledger, on_event: OnEvent) -> None:
    """Run every layout that does not keep its entry of an earlier invocation, and enter each in the ledger."""
    if set(request.names) <= set(ledger.kept):
        return
    reference = None
    with Launcher(device_kind=request.device_kind) as launcher:
        attempts = Attempts(
            launcher,
            scenario=request.scenario,
            directory=request.directory,
            device_kind=request.device_kind,
            hang_seconds=request.hang_seconds,
        )
        runner = LayoutRunner(
            scenario=request.scenario,
            modes=request.modes,
            attempts=attempts,
            planting=request.planting,
            on_event=on_event,
            num_timing_launches=request.num_timing_launches,
        )
        for case in map(request.scenario.case, request.names):
            # Asked anew for each layout: a baseline that comes out different leaves nothing to keep.
            if case.name in ledger.kept:
                continue
            ledger.start(case)
            result = runner.run(case, reference)
            reference = reference or result.reference
            if strangers := foreign_processes(result.ranks_in("timing")):
                ledger.taint(f"while {case.name} was timed, {strangers}")
            write_series(request.directory, case.name, result.ranks)
            layout = ledger.enter(runner.record(case, result))
            on_event(LayoutEnded(layout=layout))
            if case.is_baseline:
                ledger.compare_with_earlier(layout)
