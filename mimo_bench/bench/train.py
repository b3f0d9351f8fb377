"""`mimo-bench train`: the packaged trainer by itself, in one layout of a scenario.

It leaves weights for `mimo-bench export`, and checkpoints from which the same training resumes.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mimo_bench.bench.attempt import environment_of
from mimo_bench.bench.request import TRAINING_FILE, TrainRequest, held_fixed_of
from mimo_bench.launch import Job, Launcher
from mimo_bench.models import complete
from mimo_bench.trainer import METRICS, processor_of, saved_in
from mimo_bench.util import TrainingError, new_directory, write_atomically

WORKER = "mimo_bench.bench.ranks.train"
POLL_SECONDS = 0.1

OnLine = Callable[[dict[str, Any]], None]


def run_training(request: TrainRequest, *, launcher: Launcher, on_line: OnLine) -> None:
    """Train to the end and save; `on_line` gets every line of the log as it is written.

    Raises:
        TrainingError: a rank crashed, ran out of memory or hung; nothing was saved.
        LaunchError: no rank could be started.
    """
    request.directory.mkdir(parents=True, exist_ok=True)
    if request.checkpoints is not None:
        write_atomically(request.directory / TRAINING_FILE, json.dumps(held_fixed_of(request)).encode())
    with new_directory(request.save) if request.save is not None else nullcontext() as place:
        _train(request, launcher=launcher, place=place, on_line=on_line)
        if place is not None:
            complete(place, start=request.start, config=request.config, processor=processor_of(request.scenario.data))


def resume_hint(request: TrainRequest) -> str:
    """Return how to resume a training that was stopped."""
    if request.checkpoints is None:
        return "nothing was saved; --checkpoints DIR --checkpoint-every N makes a training resumable"
    if saved := saved_in(request.checkpoints):
        return f"to resume from {saved[0]}, give the same command"
    earlier = " and --checkpoint-every N" if request.checkpoint_every is None else ""
    return f"no checkpoint was saved yet; the same command{earlier} begins anew"


def _train(request: TrainRequest, *, launcher: Launcher, place: Path | None, on_line: OnLine) -> None:
    log = request.directory / METRICS
    log.touch()
    job = Job(
        entry=f"{WORKER}:main",
        # Ranks write into the new directory's temporary place, which gets its name when it is whole.
        arguments=request.model_copy(update={"save": place}).arguments(),
        world_size=request.scenario.case(request.layout).world_size,
        log_dir=request.directory,
        hang_seconds=request.hang_seconds,
        environment=environment_of("timing", request.device_kind),
    )
    with _followed(log, on_line):
        outcome = launcher.launch(job)
    if outcome.ended != "finished":
        saved = "" if place is None else "; no weights were saved"
        raise TrainingError(f"{request.layout}: {outcome.ended}: {outcome.reason}{saved}")


@contextmanager
def _followed(log: Path, on_line: OnLine) -> Iterator[None]:
    """Pass every new line of `log` to `on_line` while it grows; none is left when the block ends."""
    over = threading.Event()
    earlier = log.read_text(encoding="utf-8").splitlines()
    thread = threading.Thread(target=_follow, args=(log, earlier, on_line, over), name="follow-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(log: Path, earlier: list[str], on_line: OnLine, over: threading.Event) -> None:
    """Follow `log`, which a training that resumes replaces by one with some of the `earlier` lines."""
    file, held, known = log.open(encoding="utf-8"), "", iter(earlier)
    is_last = False
    while not is_last:
        is_last = over.wait(POLL_SECONDS)
        if not os.path.samestat(os.fstat(file.fileno()), log.stat()):
            file.close()
            file, held, known = log.open(encoding="utf-8"), "", iter(earlier)
        *lines, held = (held + file.read()).split("\n")
        for line in lines:
            if line != next(known, None):
                known = iter(())
                on_line(json.loads(line))
    file.close()
