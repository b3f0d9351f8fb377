"""`mimo-bench train`: the packaged trainer by itself, in one layout of a scenario, on ranks of this machine.

    [command: train_command] -> launch -> rank: train_worker -> trainer

It leaves weights, for `mimo-bench export`, and checkpoints, from which the same training goes on.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimo_bench.bench.attempt import environment_of
from mimo_bench.launch import DeviceKind, Job, Launcher
from mimo_bench.models import complete, new_directory
from mimo_bench.scenario import Scenario
from mimo_bench.trainer import METRICS, saved_in
from mimo_bench.util import TrainingError

WORKER = "mimo_bench.bench.ranks.train"
POLL_SECONDS = 0.1

OnLine = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingOptions:
    """What one invocation asks for; all of it was checked."""

    scenario: Scenario
    layout: str
    num_steps: int
    device_kind: DeviceKind
    directory: Path
    """Takes the log and what ranks print."""
    hang_seconds: float
    start: Path | None
    """A directory of weights to start from; None draws them from the seed."""
    save: Path | None
    """A new directory for the weights after the last step."""
    checkpoints: Path | None
    """Where training goes on from, and saves to; None for no checkpoints."""
    checkpoint_every: int | None
    """Steps between two checkpoints; None for one after the last step alone."""
    validate_every: int | None
    """Steps between two evaluations of the scenario's held-out batches; None for none."""
    config: Path | None
    """The model's config.json; None where a preset names the model."""


def run_training(options: TrainingOptions, *, launcher: Launcher, on_line: OnLine) -> None:
    """Train to the end and save; `on_line` gets every line of the log as it is written.

    Raises:
        TrainingError: a rank crashed, ran out of memory or hung; nothing was saved.
        LaunchError: no rank could be started.
    """
    options.directory.mkdir(parents=True, exist_ok=True)
    with new_directory(options.save) if options.save is not None else nullcontext() as place:
        _train(options, launcher=launcher, place=place, on_line=on_line)
        if place is not None:
            complete(place, start=options.start, config=options.config)


def how_to_go_on(options: TrainingOptions, *, names_out: bool) -> str:
    """What is left of a training that was stopped, and what to type for the rest of it."""
    if options.checkpoints is None:
        return "nothing was saved; with --checkpoints DIR --checkpoint-every N a training can be gone on with"
    again = "the same command with another --out" if names_out else "the same command"
    if saved := saved_in(options.checkpoints):
        return f"to go on from {saved[0]}, give {again}"
    earlier = " and --checkpoint-every N" if options.checkpoint_every is None else ""
    return f"no checkpoint was saved yet; {again}{earlier} begins anew"


def _train(options: TrainingOptions, *, launcher: Launcher, place: Path | None, on_line: OnLine) -> None:
    log = options.directory / METRICS
    log.touch()
    job = Job(
        entry=f"{WORKER}:main",
        arguments={
            "scenario": options.scenario.model_dump(mode="json"),
            "layout": options.layout,
            "weights": _told(options.start),
            "num_steps": options.num_steps,
            "device_kind": options.device_kind,
            "directory": _told(options.directory),
            "save": _told(place),
            "checkpoints": _told(options.checkpoints),
            "checkpoint_every": options.checkpoint_every,
            "validate_every": options.validate_every,
        },
        world_size=options.scenario.table(options.layout).grids().world_size,
        log_dir=options.directory,
        hang_seconds=options.hang_seconds,
        environment=environment_of("timing", options.device_kind),
    )
    with _followed(log, on_line):
        outcome = launcher.launch(job)
    if outcome.ended != "finished":
        saved = "" if place is None else "; no weights were saved"
        raise TrainingError(f"{options.layout}: {outcome.ended}: {outcome.reason}{saved}")


def _told(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


@contextmanager
def _followed(log: Path, on_line: OnLine) -> Iterator[None]:
    """Hand every line of `log` on while it grows; all that stands there has been handed on when the block ends."""
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(log, on_line, over), name="follow-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(log: Path, on_line: OnLine, over: threading.Event) -> None:
    with log.open(encoding="utf-8") as file:
        is_last = False
        held = ""
        while not is_last:
            is_last = over.wait(POLL_SECONDS)
            *lines, held = (held + file.read()).split("\n")
            for line in lines:
                on_line(json.loads(line))
