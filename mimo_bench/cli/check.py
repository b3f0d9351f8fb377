"""`mimo-bench check`: imports neither torch nor pandas, but for samples of a user's own files."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mimo_bench.cli.exits import BAD_INPUT, DOES_NOT_FIT
from mimo_bench.cli.options import Files
from mimo_bench.launch import device_memory_bytes
from mimo_bench.report import SampleNotes, describe_layouts, layout_needs, needs_table, read_samples
from mimo_bench.scenario import load_scenario
from mimo_bench.util import MimoBenchError, counted

app = typer.Typer()


@app.command()
def check(
    files: Files,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only say whether the files are valid.")] = False,
    device_memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", min=0.0, help="Memory of each device.", show_default="of this machine's GPUs"),
    ] = None,
) -> None:
    """Validate scenarios and print which rank holds what, and the memory it needs. Starts nothing.

    With --device-memory it ends with 1 if a layout does not fit.
    """
    is_bad, fits = False, True
    device_bytes = device_memory_bytes() if device_memory is None else round(device_memory * (1 << 30))
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
            sys.stdout.writelines(f"{line}\n" for line in describe_layouts(scenario, device_bytes=device_bytes))
            try:
                samples = read_samples(scenario)
            except MimoBenchError as error:
                samples = SampleNotes(lines=(), problems=(str(error),))
            sys.stdout.writelines(f"{line}\n" for line in samples.lines)
            sys.stderr.writelines(f"mimo-bench: {file}: {problem}\n" for problem in samples.problems)
            is_bad = is_bad or bool(samples.problems)
        needs = [] if quiet and device_memory is None else layout_needs(scenario)
        if needs and not quiet:
            sys.stdout.writelines(f"{line}\n" for line in ("", *needs_table(needs, device_bytes=device_bytes)))
        if device_memory is not None and (
            misfits := [need.layout for need in needs if need.device_bytes > round(device_memory * (1 << 30))]
        ):
            print(f"mimo-bench: {file}: do not fit {device_memory:g} GiB: {', '.join(misfits)}", file=sys.stderr)
            fits = False
    if is_bad or not fits:
        raise typer.Exit(BAD_INPUT if is_bad else DOES_NOT_FIT)
