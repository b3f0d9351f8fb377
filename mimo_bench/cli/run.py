"""`mimo-bench run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mimo_bench.bench import HANG_SECONDS, device_kind, parse_hang_limit, parse_modes, plan_runs
from mimo_bench.cli.exits import exit_status
from mimo_bench.cli.options import Device, DeviceOption, Files, HangLimit, Out
from mimo_bench.util import counted

if TYPE_CHECKING:
    from mimo_bench.record import RunRecord

app = typer.Typer()


@app.command()
def run(
    files: Files,
    layout: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Run only this layout and the baseline; a glob, may be repeated."),
    ] = None,
    expression: Annotated[
        str | None,
        typer.Option("-k", metavar="EXPR", help="Run only layouts whose names match, such as 'tp2 and not pp2'."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print which layouts would run, and start and write nothing.")
    ] = False,
    device: DeviceOption = Device.auto,
    modes: Annotated[
        str, typer.Option(help="Which of parity, timing and comm, separated by commas.")
    ] = "parity,timing",
    out: Out = None,
    launches: Annotated[int, typer.Option(min=1, metavar="N", help="Launches that time a layout.")] = 1,
    history: Annotated[
        Path | None,
        typer.Option(metavar="HISTORY", help="Compare the run with the runs kept here, and add it to them."),
    ] = None,
    gate_performance: Annotated[
        bool, typer.Option("--gate-performance", help="End with 4 if a layout became slower than in --history.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in --out DIR: layouts that have a verdict keep it.")
    ] = False,
    hang_limit: HangLimit = HANG_SECONDS,
    plant: Annotated[
        str | None,
        typer.Option(metavar="FAULT[@LAYOUT]", help="Plant a fault of `selftest`; an unknown name lists all."),
    ] = None,
) -> None:
    """Train every layout, judge each against the baseline, write the record and the report."""
    requests = plan_runs(
        files,
        out=out,
        resume=resume,
        gate_performance=gate_performance,
        layouts=tuple(layout or ()),
        expression=expression,
        device_kind=device_kind(device.value),
        modes=parse_modes(modes),
        hang_seconds=parse_hang_limit(hang_limit),
        num_timing_launches=launches,
        history=history,
        plant=plant,
        command=("mimo-bench", *sys.argv[1:]),
    )
    # pandas and pyarrow come with these, and bad input is answered at once.
    from mimo_bench.bench import read_earlier, run_matrix
    from mimo_bench.report import live

    for request in requests:
        # Before the first of them starts, all of them are known to fit the record that they resume.
        read_earlier(request)
    if dry_run:
        for request in requests:
            print(f"{request.scenario_file}: {' and '.join(request.modes)} on {request.device_kind} ranks")
            for case in map(request.scenario.case, request.names):
                print(f"  {case.name}: {case.layout.placement}, {counted(case.world_size, 'rank')}")
        return
    records: list[RunRecord] = []
    for request in requests:
        with live() as on_event:
            records.append(run_matrix(request, on_event=on_event))
    raise typer.Exit(exit_status(records, gate_performance=gate_performance))
