"""`mimo-bench train`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from mimo_bench.bench import HANG_SECONDS, device_kind, parse_hang_limit, plan_training
from mimo_bench.cli.exits import NO_RECORD, Stopped
from mimo_bench.cli.options import Device, DeviceOption, File, HangLimit
from mimo_bench.util import TrainingError

app = typer.Typer()


@app.command()
def train(
    file: File,
    layout: Annotated[str, typer.Option(metavar="NAME", help="The layout to train in.")],
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Optimizer steps.", show_default="the scenario's parity + learning")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="New directory for the weights after the last step, as `export` takes it. Weights alone: to resume "
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
            help="Directory for checkpoints; training resumes from the newest one there, if any, in whatever layout it "
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
    device: DeviceOption = Device.auto,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Directory for the log: new, or with --checkpoints that of the same training.",
            show_default="by time",
        ),
    ] = None,
    hang_limit: HangLimit = HANG_SECONDS,
) -> None:
    """Train in one layout, without the bench; save weights, and checkpoints to resume from."""
    request = plan_training(
        file,
        layout=layout,
        steps=steps,
        load=load,
        out=out,
        save=save,
        checkpoints=checkpoints,
        checkpoint_every=checkpoint_every,
        validate_every=validate_every,
        device_kind=device_kind(device.value),
        hang_seconds=parse_hang_limit(hang_limit),
    )
    # Bad input is answered at once.
    from mimo_bench.bench import WORKER, resume_hint, run_training
    from mimo_bench.launch import Launcher
    from mimo_bench.trainer import METRICS, path_of, saved_in

    num_taken = 0

    def show(line: dict[str, Any]) -> None:
        nonlocal num_taken
        if "passed_over" in line:
            print(*_missing_lines(line), sep="\n", flush=True)
            return
        if "validation_loss" in line:
            print(_validation_line(line), flush=True)
            return
        num_taken += 1
        if num_taken == 1 and line["step"] > 1 and checkpoints is not None:
            # The ranks decide: if the newest checkpoint is damaged they resume from the previous one.
            print(f"resuming from {path_of(checkpoints, line['step'] - 1)}")
        print(_step_line(line, request.num_steps), flush=True)

    try:
        with Launcher(device_kind=request.device_kind, preload=(WORKER,)) as launcher:
            run_training(request, launcher=launcher, on_line=show)
    except TrainingError as error:
        print(f"mimo-bench: {error}", file=sys.stderr)
        raise typer.Exit(NO_RECORD) from None
    except (KeyboardInterrupt, Stopped):
        print(f"mimo-bench: stopped: {resume_hint(request)}", file=sys.stderr)
        raise
    if not num_taken and checkpoints is not None:
        print(f"no step of {request.num_steps} was left to take after {saved_in(checkpoints)[0]}; raise --steps")
    if save is not None:
        print(f"weights: {save} (no optimizer state, no place in the data)")
    if checkpoints is not None:
        print(f"checkpoints: {checkpoints}")
    print(f"log: {request.directory / METRICS}")


def _missing_lines(line: dict[str, Any]) -> Iterator[str]:
    """Yield in words the samples and checkpoints that a line of the log calls bad."""
    from mimo_bench.report import skipped_samples

    if said := skipped_samples(line["skipped_samples"]):
        yield said
    yield from line["passed_over"]


def _step_line(line: dict[str, Any], num_steps: int) -> str:
    """A step's line of the log in words."""
    loss = _loss(line["loss"])
    norms = ", ".join(f"{name} {'-' if norm is None else f'{norm:.4g}'}" for name, norm in line["grad_norms"].items())
    left = timedelta(seconds=round(line["step_seconds"] * (num_steps - line["step"])))
    return (
        f"step {line['step']}/{num_steps}: loss {loss}, gradient norms: {norms}; {line['tokens_per_second']:,.0f} "
        f"tokens/s, {line['step_seconds']:.3g} s/step, ends in {left}"
    )


def _validation_line(line: dict[str, Any]) -> str:
    """An evaluation's line of the log in words."""
    accuracy = line["validation_answer_accuracy"]
    right = "" if accuracy is None else f", {accuracy:.1%} of answer tokens right"
    return f"step {line['step']}: validation loss {_loss(line['validation_loss'])}{right}"


def _loss(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.6g}"
