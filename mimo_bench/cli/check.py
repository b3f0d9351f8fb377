"""`mimo-bench check`: imports neither torch nor pandas, but for samples of a user's own files."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
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
    # Layouts and predictions stay until the end: the collector finds no garbage among them, and of 100,000 takes 5 s.
    gc.disable()
    try:
        status = check_files(files, quiet=quiet, device_memory=device_memory)
    finally:
        gc.enable()
    if status:
        raise typer.Exit(status)


def check_files(files: Sequence[Path], *, quiet: bool, device_memory: float | None) -> int:
    """Check each file, print what is found, and return the exit status; `device_memory` is in GiB."""
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
        needs = layout_needs(scenario) if quiet and device_memory is not None else []
        if not quiet:
            print(f"{scenario.question}\n")
            described = describe_layouts(scenario, device_bytes=device_bytes, on_need=needs.append)
            sys.stdout.writelines(f"{line}\n" for line in described)
            try:
                samples = read_samples(scenario)
            except MimoBenchError as error:
                samples = SampleNotes(lines=(), problems=(str(error),))
            sys.stdout.writelines(f"{line}\n" for line in samples.lines)
            sys.stderr.writelines(f"mimo-bench: {file}: {problem}\n" for problem in samples.problems)
            is_bad = is_bad or bool(samples.problems)
        if needs and not quiet:
            sys.stdout.writelines(f"{line}\n" for line in ("", *needs_table(needs, device_bytes=device_bytes)))
        if device_memory is not None and (
            misfits := [need.layout for need in needs if need.device_bytes > round(device_memory * (1 << 30))]
        ):
            print(f"mimo-bench: {file}: do not fit {device_memory:g} GiB: {', '.join(misfits)}", file=sys.stderr)
            fits = False
    if is_bad:
        return BAD_INPUT
    return 0 if fits else DOES_NOT_FIT
