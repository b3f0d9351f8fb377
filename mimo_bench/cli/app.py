"""The words on the command line. Each command reads its input, calls one room and says how it ended.

Exit status: 0 all well; 2 bad input, nothing started or written; 3 a layout ended without a record; 1 a layout failed
parity; 4 a layout got slower, under --gate-performance; 70 a fault of mimo-bench itself, or of a file or disk; 130
interrupted, 143 and 129 stopped by SIGTERM and SIGHUP. If several apply, the first in that order.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mimo_bench import __version__
from mimo_bench.util import MimoBenchError, TrainingError

if TYPE_CHECKING:
    from mimo_bench.models import Converted
    from mimo_bench.record import RunRecord

# The other rooms are imported by the command that needs them: pydantic's models, pandas and jinja would cost every
# `mimo-bench --help` a second, and `check` has to do without torch.

app = typer.Typer(
    name="mimo-bench",
    help="Does every layout of a multimodal model train the same model, and which one is fastest?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

history_app = typer.Typer(no_args_is_help=True, help="Keep runs and read what they did from night to night.")
app.add_typer(history_app, name="history")

PARITY_FAILED = 1
BAD_INPUT = 2
NO_RECORD = 3
SLOWER = 4
OUR_FAULT = 70
"""What sysexits.h calls EX_SOFTWARE; Python's own 1 would read as a parity verdict."""
SIGNALLED = 128
"""Plus the number of the signal that stopped the command, as a shell has it: 130 for Ctrl-C."""

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Scenario files.", show_default=False)]
HistoryDirectory = Annotated[Path, typer.Argument(metavar="HISTORY", help="Where runs are kept.", show_default=False)]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="What `run` wrote.", show_default=False)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the account in --out DIR: what it holds is not run again.")
]
RecordToExtend = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Put what is found into the record of a run on this machine, and onto its page."),
]


class Stopped(BaseException):
    """Somebody asked the command to end, other than by Ctrl-C; it ends in the same good order."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)


@contextmanager
def _stopped_by(*signals: signal.Signals) -> Iterator[None]:
    """Raise `Stopped` where one of `signals` arrives: a scheduler's SIGTERM, a terminal that closes."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    before = {each: signal.getsignal(each) for each in signals}
    # What is ignored stays ignored: that is what nohup asks for.
    chosen = [each for each, handler in before.items() if handler is not signal.SIG_IGN]
    for each in chosen:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each in chosen:
            signal.signal(each, before[each])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (or the process's own) spell, and return its exit status."""
    try:
        with _stopped_by(signal.SIGTERM, signal.SIGHUP):
            app(args=arguments, prog_name="mimo-bench", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except MimoBenchError as error:
        print(f"mimo-bench: {error}", file=sys.stderr)
        return BAD_INPUT
    except Stopped as stop:
        print(f"mimo-bench: stopped by {stop.signal.name}", file=sys.stderr)
        return SIGNALLED + stop.signal
    except KeyboardInterrupt:
        print("mimo-bench: interrupted", file=sys.stderr)
        return SIGNALLED + signal.SIGINT
    except OSError as error:
        print(f"mimo-bench: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return OUR_FAULT
    except Exception:
        traceback.print_exc()
        return OUR_FAULT
    return 0


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mimo-bench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def check(
    files: Files,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only say whether the files are valid.")] = False,
    device_memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", min=0.0, help="Memory of each device.", show_default="of this machine's GPUs"),
    ] = None,
) -> None:
    """Validate scenarios and print which rank holds what, and the memory it needs. Starts nothing."""
    from mimo_bench.launch import device_memory_bytes
    from mimo_bench.report import describe_layouts
    from mimo_bench.scenario import load_scenario
    from mimo_bench.util import counted

    is_bad = False
    for file in files:
        try:
            scenario = load_scenario(file)
        except MimoBenchError as error:
            print(f"mimo-bench: {error}", file=sys.stderr)
            is_bad = True
            continue
        print(f"{file}: valid, {counted(len(scenario.layout), 'layout')} of {scenario.model}")
        if not quiet:
            print(f"{scenario.question}\n")
            device_bytes = device_memory_bytes() if device_memory is None else round(device_memory * (1 << 30))
            sys.stdout.writelines(f"{line}\n" for line in describe_layouts(scenario, device_bytes=device_bytes))
    if is_bad:
        raise typer.Exit(BAD_INPUT)


class Device(StrEnum):
    """What the ranks run on."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@app.command()
def run(
    files: Files,
    layout: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Run only this layout and the baseline; may be repeated.")
    ] = None,
    device: Annotated[Device, typer.Option(help="What ranks run on; auto: GPUs where there are any.")] = Device.auto,
    modes: Annotated[
        str, typer.Option(help="Which of parity, timing and comm, separated by commas.")
    ] = "parity,timing",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New directory for record and report.", show_default="by time")
    ] = None,
    launches: Annotated[
        int, typer.Option(min=1, metavar="N", help="How often ranks are started to time a layout.")
    ] = 1,
    history: Annotated[
        Path | None,
        typer.Option(metavar="HISTORY", help="Hold the run against the runs kept here, and keep it with them."),
    ] = None,
    gate_performance: Annotated[
        bool, typer.Option("--gate-performance", help="End with 4 if a layout got slower than in --history.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out DIR: layouts that have a verdict keep it.")
    ] = False,
    hang_limit: Annotated[float, typer.Option(metavar="SECONDS", help="Silence that counts as a hang.")] = 300.0,
    plant: Annotated[
        str | None,
        typer.Option(metavar="FAULT[@LAYOUT]", help="Plant a fault of `selftest`; an unknown name lists all."),
    ] = None,
) -> None:
    """Train every layout, judge each against the baseline, write the record and the report."""
    from mimo_bench.bench import Asked, plan

    asked = Asked(
        files=tuple(files),
        layouts=tuple(dict.fromkeys(layout or ())),
        device=device.value,
        modes=modes,
        out=out,
        hang_limit=hang_limit,
        launches=launches,
        history=history,
        gate_performance=gate_performance,
        resume=resume,
        plant=plant,
        command=("mimo-bench", *sys.argv[1:]),
    )
    plans = plan(asked)

    from mimo_bench.bench import run_matrix
    from mimo_bench.report import live

    records: list[RunRecord] = []
    for scenario, options in plans:
        with live() as on_event:
            records.append(run_matrix(scenario, options=options, on_event=on_event))
    raise typer.Exit(exit_status(records, gate_performance=gate_performance))


@app.command()
def selftest(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="A scenario whose layouts are to be broken; --list can do without.", show_default=False
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="What ranks run on; auto: GPUs where there are any.")] = Device.auto,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New directory for logs and table.", show_default="by time")
    ] = None,
    only_list: Annotated[
        bool, typer.Option("--list", help="Only print every fault, its layout and its check; starts nothing.")
    ] = False,
) -> None:
    """Plant every known fault; each must be caught by its check, and the clean runs must pass.

    On GPUs, those faults are planted whose layouts the GPUs at hand can hold.
    """
    from mimo_bench.bench import run_options
    from mimo_bench.launch import num_places
    from mimo_bench.scenario import load_scenario
    from mimo_bench.util import UsageError

    scenario = None if file is None else load_scenario(file)
    kind = run_options.device_kind(device.value)
    from mimo_bench.bench.gate import selftest as gate
    from mimo_bench.report import describe_finding

    parts = gate.plan(scenario, num_ranks=num_places() if kind == "cuda" else None)
    if only_list:
        print("\n".join(gate.list_faults(parts)))
        return
    if file is None or scenario is None:
        raise UsageError("selftest: name a FILE, such as scenarios/cpu_smoke.toml, or give --list")
    if kind == "cuda":
        run_options.check_fits(scenario, file, (scenario.baseline,), available=num_places())
    if too_large := gate.left_out(parts):
        print(f"left out, as their layouts need more GPUs: {', '.join(too_large)}")
    (directory,) = run_options.run_directories(out, [file])
    found = gate.run_selftest(
        parts,
        device_kind=kind,
        directory=directory,
        command=("mimo-bench", *sys.argv[1:]),
        on_finding=lambda finding: print(describe_finding(finding), flush=True),
    )
    print(f"{found.summary}; table: {directory / 'selftest.md'}")
    raise typer.Exit(0 if found.is_right else PARITY_FAILED)


@app.command()
def overhead(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A scenario file.")],
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="The layout to measure in.", show_default="the baseline")
    ] = None,
    device: Annotated[Device, typer.Option(help="What ranks run on; auto: GPUs where there are any.")] = Device.auto,
    turns: Annotated[int, typer.Option(min=2, help="Turns of bare, instrumented, instrumented, bare.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Steps between two changes.")] = 5,
    record: RecordToExtend = None,
) -> None:
    """Measure what the instruments of each mode cost, against bare steps in turns."""
    from mimo_bench.bench import run_options
    from mimo_bench.launch import num_gpus
    from mimo_bench.scenario import load_scenario

    scenario = load_scenario(file, with_fingerprint=record is not None)
    name = scenario.baseline if layout is None else scenario.table(layout).name
    kind = run_options.device_kind(device.value)
    if kind == "cuda":
        run_options.check_fits(scenario, file, (name,), available=num_gpus())
    from mimo_bench.bench import add_to_record, check_record, describe_overhead, measure_overhead

    if record is not None:
        check_record(record, device_kind=kind, scenario=scenario)
    found = measure_overhead(scenario, name, device_kind=kind, num_turns=turns, num_steps=steps)
    print("\n".join(map(describe_overhead, found)))
    if record is not None:
        add_to_record(record, overhead={each.mode: each.share for each in found})


@app.command()
def linkspeed(
    ranks: Annotated[
        int | None, typer.Option(min=2, help="How many ranks.", show_default="all GPUs, or 2 CPU ranks")
    ] = None,
    device: Annotated[Device, typer.Option(help="What ranks run on; auto: GPUs where there are any.")] = Device.auto,
    record: RecordToExtend = None,
) -> None:
    """Measure this machine's bandwidth between ranks, by collective and size."""
    from mimo_bench.bench import run_options
    from mimo_bench.launch import num_gpus
    from mimo_bench.util import UsageError

    kind = run_options.device_kind(device.value)
    available = num_gpus() if kind == "cuda" else None
    num_ranks = ranks if ranks is not None else (available or 2)
    if available is not None and not 2 <= num_ranks <= available:
        raise UsageError(f"--ranks: {num_ranks} ranks and {available} GPUs; it takes 2 or more, each with a GPU")
    from mimo_bench.bench import add_to_record, check_record, describe_links, measure_links

    known = check_record(record, device_kind=kind).links if record is not None else ()
    found = measure_links(num_ranks=num_ranks, device_kind=kind)
    print("\n".join(describe_links(found)))
    if record is not None:
        # Groups of another size are measured by another call.
        add_to_record(record, links=(*(link for link in known if link.num_ranks != num_ranks), *found))


@app.command()
def alarms(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A scenario whose layouts all pass.")],
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="How many seeds: as many runs of each layout.")] = 30,
    first_seed: Annotated[int, typer.Option(metavar="SEED", min=0, help="The first of them.")] = 0,
    as_timed: Annotated[
        bool, typer.Option("--as-timed", help="Judge them as timed, too: in the scenario's precision and settings.")
    ] = False,
    device: Annotated[Device, typer.Option(help="What ranks run on; auto: GPUs where there are any.")] = Device.auto,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New directory for the account.", show_default="by time")
    ] = None,
    resume: Resume = False,
) -> None:
    """Judge clean layouts over many seeds, and count those that fail.

    In parity mode; with --as-timed over their timed steps, too.
    """
    from mimo_bench.bench import run_options
    from mimo_bench.launch import num_places
    from mimo_bench.scenario import load_scenario

    scenario = load_scenario(file, with_fingerprint=True)
    kind = run_options.device_kind(device.value)
    if kind == "cuda":
        run_options.check_fits(scenario, file, (), available=num_places())
    directory = run_options.account_directory(out, file, resume=resume)
    from mimo_bench.bench import CleanRun, count_alarms, read_account
    from mimo_bench.report import stopped_early

    known = read_account(directory, scenario, as_timed=as_timed) if resume else None

    def show(run: CleanRun) -> None:
        print(f"seed {run.seed}, {run.layout}: {run.status}: {run.reason}", flush=True)

    try:
        found = count_alarms(
            scenario,
            range(first_seed, first_seed + seeds),
            device_kind=kind,
            directory=directory,
            command=("mimo-bench", *sys.argv[1:]),
            on_run=show,
            known=known,
            as_timed=as_timed,
        )
    except (KeyboardInterrupt, Stopped):
        print(stopped_early(directory), flush=True)
        raise
    print(
        f"{found.num_alarms} of {found.num_runs} clean runs failed: a rate of at most "
        f"{found.rate_upper_bound:.2%} at 95 % confidence; account: {directory / 'alarms.md'}"
    )
    raise typer.Exit(PARITY_FAILED if found.num_alarms else 0)


@app.command()
def mutants(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A scenario whose layouts are to be broken.")],
    layout: Annotated[
        list[str], typer.Option(metavar="NAME", help="Break the collectives of this layout; may be repeated.")
    ],
    device: Annotated[Device, typer.Option(help="What ranks run on; auto: GPUs where there are any.")] = Device.auto,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New directory for the account.", show_default="by time")
    ] = None,
    resume: Resume = False,
    hang_limit: Annotated[float, typer.Option(metavar="SECONDS", help="Silence that counts as a hang.")] = 15.0,
    seconds: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Begin no mutant after this time.", show_default="no end")
    ] = None,
) -> None:
    """Break every collective call of a training step in every way, and count what the gate catches."""
    from mimo_bench.bench import run_options
    from mimo_bench.launch import num_places
    from mimo_bench.scenario import load_scenario

    scenario = load_scenario(file)
    kind = run_options.device_kind(device.value)
    for name in layout:
        scenario.table(name)
    if kind == "cuda":
        run_options.check_fits(scenario, file, tuple(layout), available=num_places())
    directory = run_options.account_directory(out, file, resume=resume)
    from mimo_bench.bench.gate import mutants as mutation

    known = mutation.read_trials(directory) if resume else []

    def show(trial: mutation.Trial) -> None:
        call = trial.mutant.call
        print(f"{trial.ended}: {trial.mutant.how} {call.collective} of {call.role} at {call.site}", flush=True)

    trials = mutation.run_mutants(
        scenario,
        tuple(layout),
        device_kind=kind,
        directory=directory,
        hang_seconds=run_options.parse_hang_limit(hang_limit),
        command=("mimo-bench", *sys.argv[1:]),
        seconds=seconds,
        on_trial=show,
        known=known,
    )
    num_tried = mutation.count(trials)
    num_caught = num_tried - mutation.count(mutation.survivors_of(trials))
    print(f"{num_caught} of {num_tried} mutants caught; account: {directory / 'mutants.md'}")


@app.command()
def train(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A scenario.")],
    layout: Annotated[str, typer.Option(metavar="NAME", help="The layout to train in.")],
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Optimizer steps.", show_default="the scenario's parity + learning")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="New directory for the weights after the last step, as `export` takes it. Weights alone: to go on "
            "later, save checkpoints.",
        ),
    ] = None,
    load: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Directory of weights, or checkpoint, to start from, in place of the scenario's own."
        ),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Directory for checkpoints; training goes on from the newest one there, if any, in whatever layout it "
            "was saved.",
        ),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(metavar="N", help="Steps between two checkpoints.", show_default="one after the last step"),
    ] = None,
    validate_every: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Steps between two evaluations of the scenario's held-out batches.", show_default="none"
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="What ranks run on; auto: GPUs where there are any.")] = Device.auto,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New directory for metrics.jsonl and logs.", show_default="by time"),
    ] = None,
    hang_limit: Annotated[float, typer.Option(metavar="SECONDS", help="Silence that counts as a hang.")] = 300.0,
) -> None:
    """Train in one layout, without the bench; save weights, and checkpoints to go on from."""
    from mimo_bench.bench import WORKER, how_to_go_on, plan_training, run_training

    options = plan_training(
        file,
        layout=layout,
        steps=steps,
        save=save,
        load=load,
        checkpoints=checkpoints,
        checkpoint_every=checkpoint_every,
        validate_every=validate_every,
        device=device.value,
        out=out,
        hang_limit=hang_limit,
    )
    from mimo_bench.launch import Launcher  # only now: bad input is answered at once
    from mimo_bench.trainer import METRICS, path_of, saved_in

    num_taken = 0

    def show(told: dict[str, Any]) -> None:
        nonlocal num_taken
        if "passed_over" in told:
            for line in _missing_lines(told):
                print(line, flush=True)
            return
        if "validation_loss" in told:
            print(_validation_line(told), flush=True)
            return
        num_taken += 1
        if num_taken == 1 and told["step"] > 1 and checkpoints is not None:
            # Told by what the ranks did: where the newest checkpoint is damaged, they take the one before.
            print(f"going on from {path_of(checkpoints, told['step'] - 1)}")
        print(_step_line(told, options.num_steps), flush=True)

    try:
        with Launcher(device_kind=options.device_kind, preload=(WORKER,)) as launcher:
            run_training(options, launcher=launcher, on_line=show)
    except TrainingError as error:
        print(f"mimo-bench: {error}", file=sys.stderr)
        raise typer.Exit(NO_RECORD) from None
    except (KeyboardInterrupt, Stopped):
        print(f"mimo-bench: stopped: {how_to_go_on(options, names_out=out is not None)}", file=sys.stderr)
        raise
    if not num_taken and checkpoints is not None:
        print(f"no step of {options.num_steps} was left to take after {saved_in(checkpoints)[0]}; raise --steps")
    if save is not None:
        print(f"weights: {save} (no optimizer state, no place in the data)")
    if checkpoints is not None:
        print(f"checkpoints: {checkpoints}")
    print(f"log: {options.directory / METRICS}")


def _missing_lines(told: dict[str, Any]) -> Iterator[str]:
    """What a training does without, as its log has it, in words."""
    from mimo_bench.report import words

    if said := words.skipped_samples(told["skipped_samples"]):
        yield said
    yield from told["passed_over"]


def _step_line(told: dict[str, Any], num_steps: int) -> str:
    """A step's line of the log in words."""
    loss = _loss(told["loss"])
    norms = ", ".join(f"{name} {'-' if norm is None else f'{norm:.4g}'}" for name, norm in told["grad_norms"].items())
    left = timedelta(seconds=round(told["step_seconds"] * (num_steps - told["step"])))
    return (
        f"step {told['step']}/{num_steps}: loss {loss}, gradient norms: {norms}; {told['tokens_per_second']:,.0f} "
        f"tokens/s, {told['step_seconds']:.3g} s/step, ends in {left}"
    )


def _validation_line(told: dict[str, Any]) -> str:
    """An evaluation's line of the log in words."""
    accuracy = told["validation_answer_accuracy"]
    right = "" if accuracy is None else f", {accuracy:.1%} of answer tokens right"
    return f"step {told['step']}: validation loss {_loss(told['validation_loss'])}{right}"


def _loss(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.6g}"


def exit_status(records: Iterable[RunRecord], *, gate_performance: bool = False) -> int:
    """3 if a layout ended without a record, else 1 if one failed parity, else 4 if one got slower and that is asked.

    A failure that was written down as expected does not count.
    """
    from mimo_bench.report import regressions, unexpected

    records = list(records)
    statuses = {layout.status for record in records for layout in unexpected(record.layouts, record.history)}
    if statuses & {"crashed", "oom", "timeout", "interrupted", "not_run"}:
        return NO_RECORD
    if "parity_failed" in statuses:
        return PARITY_FAILED
    has_regressed = any(regressions(record.history) for record in records)
    return SLOWER if gate_performance and has_regressed else 0


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A run's directory.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Another run's directory, of the same scenario.")],
) -> None:
    """Two runs side by side, with noise; refused, with the reasons, where they may not be compared."""
    from mimo_bench.record import read_run

    before, after = read_run(old), read_run(new)
    from mimo_bench.report import compare_runs, notes, pair_table

    print(pair_table(compare_runs(before, after)))
    for note in notes(before, after):
        print(f"- {note}")


@history_app.command("add")
def history_add(
    history: HistoryDirectory,
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Runs to keep.")],
) -> None:
    """Keep runs: each is copied into the history, and the trend page is written anew."""
    from mimo_bench.report import History, write_trend

    kept = History(history)
    for directory in directories:
        print(f"{directory}: kept as {kept.add(directory)}")
    write_trend(kept)


@history_app.command("list")
def history_list(history: HistoryDirectory) -> None:
    """Print every layout that is followed: its nights, its last step time, and on which kind of machine."""
    from mimo_bench.report import History, list_table

    kept = History.existing(history)
    print(list_table(kept.nights()))
    for damaged in kept.damaged():
        print(f"mimo-bench: {damaged}: its record cannot be read; mend or remove it", file=sys.stderr)


@history_app.command("trend")
def history_trend(history: HistoryDirectory) -> None:
    """Write the trend page."""
    from mimo_bench.report import History, write_trend

    print(f"trend: {write_trend(History.existing(history))}")


@history_app.command("accept")
def history_accept(
    history: HistoryDirectory,
    scenario: Annotated[str, typer.Option(metavar="NAME", help="The scenario file's name, without .toml.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why this is how it should be from now on.")],
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this layout.", show_default="every layout")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(metavar="TIME", help="UTC.", show_default="the last run's start")
    ] = None,
) -> None:
    """Begin anew: runs are held only against those from the last one on. Written into expectations.toml."""
    from mimo_bench.report import History, accept_since

    entry = accept_since(History.existing(history), scenario=scenario, layout=layout, since=since, reason=reason)
    print(f"{history}: {scenario}: accepted since {entry.since:%Y-%m-%d %H:%M} UTC")


@app.command()
def report(directory: Directory) -> None:
    """Render the report again from its record."""
    from mimo_bench.record import read_run

    record = read_run(directory)
    from mimo_bench.report import write_report  # only now, so that bad input is answered at once

    write_report(directory, record)
    print(f"{directory}: report written")


@app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="HF_DIR", help="What save_pretrained of `transformers` wrote.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New directory of weights.")],
) -> None:
    """Make a directory of weights of a LLaVA or a Voxtral of `transformers`: config.json and safetensors."""
    from mimo_bench.models import import_weights

    converted = import_weights(source, target)
    print(f"{target}: {_told(converted)}; set model and weights of a scenario to it")


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A directory of weights.")],
    target: Annotated[Path, typer.Argument(metavar="HF_DIR", help="New directory for `transformers`.")],
) -> None:
    """Write a directory of weights as a checkpoint that from_pretrained of `transformers` loads."""
    from mimo_bench.models import export_weights

    converted = export_weights(source, target)
    print(f"{target}: {_told(converted)}; from_pretrained of `transformers` loads it")


def _told(converted: Converted) -> str:
    aside = f", {converted.num_aside} more of layers that are not built" if converted.num_aside else ""
    return f"{converted.num_tensors} tensors{aside}, {converted.num_bytes / 1e9:.3g} GB"


@app.command()
def validate(directory: Directory) -> None:
    """Hold a record against its schema and its own identities."""
    from mimo_bench.predict import validate as validate_record

    validate_record(directory)
    print(f"{directory}: the record is valid")


class Schema(StrEnum):
    """The formats that others may build on."""

    scenario = "scenario"
    run = "run"


@app.command()
def schema(of: Annotated[Schema, typer.Argument(help="A scenario file, or run.json.")] = Schema.scenario) -> None:
    """Print the JSON Schema of a scenario or of run.json."""
    from mimo_bench.record import RunRecord
    from mimo_bench.scenario import Scenario

    model = Scenario if of is Schema.scenario else RunRecord
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    print(json.dumps(dialect | model.model_json_schema(), indent=2))
