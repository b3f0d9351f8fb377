"""Commands that prove the gate: selftest, alarms, mutants."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mimo_bench.bench import (
    HANG_SECONDS,
    SELFTEST,
    SELFTEST_HANG_SECONDS,
    Campaign,
    account_directory,
    check_fits,
    count_alarms,
    device_kind,
    left_out,
    list_faults,
    parse_hang_limit,
    plan_selftest,
    read_account,
    read_trials,
    run_mutants,
    run_selftest,
)
from mimo_bench.cli.exits import PARITY_FAILED, Stopped
from mimo_bench.cli.options import Device, DeviceOption, File, HangLimit, Out, ResumeAccount
from mimo_bench.launch import DeviceKind, num_places
from mimo_bench.record import num_mutants, survivors_of
from mimo_bench.report import describe_clean_run, describe_finding, describe_mutant, stopped_early
from mimo_bench.scenario import load_scenario
from mimo_bench.util import UsageError

app = typer.Typer()


@app.command()
def selftest(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="A scenario whose layouts are to be broken; --list can do without.", show_default=False
        ),
    ] = None,
    device: DeviceOption = Device.auto,
    out: Out = None,
    resume: ResumeAccount = False,
    only_list: Annotated[
        bool, typer.Option("--list", help="Only print every fault, its layout and its check; starts nothing.")
    ] = False,
) -> None:
    """Plant every known fault; each must be caught by its check, and the clean runs must pass.

    On GPUs, those faults are planted whose layouts the GPUs at hand can hold.
    """
    scenario = None if file is None else load_scenario(file)
    kind = device_kind(device.value)
    parts = plan_selftest(scenario, num_ranks=num_places() if kind == "cuda" else None)
    if only_list:
        print("\n".join(list_faults(parts)))
        return
    if file is None or scenario is None:
        raise UsageError("selftest: name a FILE, such as scenarios/cpu_smoke.toml, or give --list")
    check_fits(scenario, file, (scenario.baseline,), device_kind=kind)
    if too_large := left_out(parts):
        print(f"left out, as no layout that fits shows them: {', '.join(too_large)}")
    directory = account_directory(out, file, resume=resume)
    earlier = SELFTEST.read(directory) if resume else None
    with _campaign(directory, device_kind=kind, hang_seconds=SELFTEST_HANG_SECONDS) as campaign:
        found = run_selftest(campaign, parts, on_finding=_printer(describe_finding), earlier=earlier)
    print(f"{found.summary}; table: {directory / 'selftest.md'}")
    raise typer.Exit(0 if found.is_right else PARITY_FAILED)


@app.command()
def alarms(
    file: File,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Number of seeds: runs of each layout.")] = 30,
    first_seed: Annotated[int, typer.Option(metavar="SEED", min=0, help="The first of them.")] = 0,
    as_timed: Annotated[
        bool, typer.Option("--as-timed", help="Judge them as timed, too: in the scenario's precision and settings.")
    ] = False,
    device: DeviceOption = Device.auto,
    out: Out = None,
    resume: ResumeAccount = False,
) -> None:
    """Judge clean layouts over many seeds, and count those that fail.

    In parity mode; with --as-timed over their timed steps, too.
    """
    scenario = load_scenario(file, with_fingerprint=True)
    kind = device_kind(device.value)
    check_fits(scenario, file, (), device_kind=kind)
    directory = account_directory(out, file, resume=resume)
    known = read_account(directory, scenario, as_timed=as_timed) if resume else None
    with _campaign(directory, device_kind=kind, hang_seconds=HANG_SECONDS) as campaign:
        found = count_alarms(
            campaign,
            scenario,
            range(first_seed, first_seed + seeds),
            on_run=_printer(describe_clean_run),
            known=known,
            as_timed=as_timed,
        )
    print(
        f"{found.num_alarms} of {found.num_runs} clean runs failed: a rate of at most "
        f"{found.rate_upper_bound:.2%} at 95 % confidence; account: {directory / 'alarms.md'}"
    )
    raise typer.Exit(PARITY_FAILED if found.num_alarms else 0)


@app.command()
def mutants(
    file: File,
    layout: Annotated[
        list[str], typer.Option(metavar="NAME", help="Break the collectives of this layout; may be repeated.")
    ],
    device: DeviceOption = Device.auto,
    out: Out = None,
    resume: ResumeAccount = False,
    hang_limit: HangLimit = 15.0,
    seconds: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Begin no mutant after this time.", show_default="no end")
    ] = None,
) -> None:
    """Break every collective call of a training step in every way, and count what the gate catches."""
    scenario = load_scenario(file)
    kind = device_kind(device.value)
    for name in layout:
        scenario.table(name)
    check_fits(scenario, file, tuple(layout), device_kind=kind)
    directory = account_directory(out, file, resume=resume)
    known = read_trials(directory) if resume else []
    with _campaign(directory, device_kind=kind, hang_seconds=parse_hang_limit(hang_limit)) as campaign:
        trials = run_mutants(
            campaign, scenario, tuple(layout), seconds=seconds, on_trial=_printer(describe_mutant), known=known
        )
    num_tried = num_mutants(trials)
    num_caught = num_tried - num_mutants(survivors_of(trials))
    print(f"{num_caught} of {num_tried} mutants caught; account: {directory / 'mutants.md'}")


@contextmanager
def _campaign(directory: Path, *, device_kind: DeviceKind, hang_seconds: float) -> Iterator[Campaign]:
    """Enter a campaign; if it is stopped, print how to resume it."""
    command = ("mimo-bench", *sys.argv[1:])
    try:
        yield Campaign(directory=directory, device_kind=device_kind, hang_seconds=hang_seconds, command=command)
    except (KeyboardInterrupt, Stopped):
        print(stopped_early(directory), flush=True)
        raise


def _printer[T](describe: Callable[[T], str]) -> Callable[[T], None]:
    return lambda trial: print(describe(trial), flush=True)
