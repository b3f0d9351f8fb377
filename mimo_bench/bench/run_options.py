"""What `mimo-bench run` was asked for, checked in full before anything starts or is written.

The command line is read once, here; behind it are scenarios that are valid and options that can be met.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from mimo_bench.launch import num_gpus, num_places
from mimo_bench.parity import Planting
from mimo_bench.record import RUN_FILE, Mode, is_temporary
from mimo_bench.scenario import Scenario, load_scenario
from mimo_bench.util import ScenarioError, UsageError, choices

if TYPE_CHECKING:
    from mimo_bench.bench.matrix import MatrixOptions

DeviceKind = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The command line of `run` as it was typed; nothing in it is checked yet."""

    files: tuple[Path, ...]
    layouts: tuple[str, ...]
    device: str
    modes: str
    out: Path | None
    hang_limit: float
    launches: int
    history: Path | None
    gate_performance: bool
    resume: bool
    plant: str | None
    command: tuple[str, ...]


def plan(asked: Asked) -> list[tuple[Scenario, MatrixOptions]]:
    """Every scenario with what its matrix needs to know, once all of them are known to be good.

    Raises:
        MimoBenchError: a file, a name or an option that cannot be met.
    """
    scenarios = [load_scenario(file, with_fingerprint=True) for file in asked.files]
    check_history(asked)
    planting = Planting.of(asked.plant)
    modes = parse_modes(asked.modes)
    hang_seconds = parse_hang_limit(asked.hang_limit)
    kind = device_kind(asked.device)
    if asked.resume and asked.out is None:
        raise UsageError("--resume: say which run to go on with: --out DIR, as it was given then")
    directories = run_directories(asked.out, asked.files, resume=asked.resume)
    for file, scenario in zip(asked.files, scenarios, strict=True):
        check_names(scenario, file, layouts=asked.layouts, planting=planting)
        if kind == "cuda":
            check_fits(scenario, file, asked.layouts, available=num_places())

    # pandas comes with it, so only now: bad input is answered at once.
    from mimo_bench.bench.matrix import MatrixOptions, earlier_record

    def options(file: Path, directory: Path) -> MatrixOptions:
        return MatrixOptions(
            scenario_file=file,
            layouts=asked.layouts,
            device_kind=kind,
            modes=modes,
            directory=directory,
            hang_seconds=hang_seconds,
            num_timing_launches=asked.launches,
            history=asked.history,
            resume=asked.resume,
            plant=asked.plant,
            command=asked.command,
        )

    plans = [
        (scenario, options(file, directory))
        for scenario, file, directory in zip(scenarios, asked.files, directories, strict=True)
    ]
    for scenario, each in plans:
        # Before the first of them starts, all of them are known to fit what they go on from.
        earlier_record(scenario, each)
    return plans


def check_history(asked: Asked) -> None:
    """Refuse a gate without a history, a history that cannot be written, and expectations that cannot be read.

    Raises:
        UsageError: one of the first two.
        HistoryError: the last.
    """
    if asked.history is None:
        if asked.gate_performance:
            raise UsageError("--gate-performance: slower than what? Say where runs are kept: --history HISTORY")
        return
    check_usable(asked.history, option="--history")
    # pydantic only, but also pyarrow's index: only where it is asked for.
    from mimo_bench.report import History, read_expectations

    read_expectations(History(asked.history).expectations_file)


def parse_modes(text: str) -> tuple[Mode, ...]:
    """The modes named in `text`, separated by commas, each once and in the order in which they run.

    Raises:
        UsageError: a mode is unknown.
    """
    known: tuple[Mode, ...] = get_args(Mode)
    wanted = [word.strip() for word in text.split(",")]
    for word in wanted:
        if word not in known:
            raise UsageError(f"--modes: {word!r} is no mode; {choices(word, known)}")
    return tuple(mode for mode in known if mode in wanted)


def parse_hang_limit(seconds: float) -> float:
    """How long ranks may be silent before they are taken for hung.

    Raises:
        UsageError: it is no positive, finite number of seconds.
    """
    if not (seconds > 0 and math.isfinite(seconds)):
        raise UsageError(f"--hang-limit: {seconds}: give a positive number of seconds")
    return seconds


def check_names(scenario: Scenario, path: Path, *, layouts: Sequence[str], planting: Planting) -> None:
    """Refuse names of `--layout` and `--plant FAULT@LAYOUT` that the scenario does not have.

    Raises:
        ScenarioError: there is no such layout.
        UsageError: a fault is to be planted in the baseline, where no verdict could catch it, or where nothing runs.
    """
    for name in layouts:
        _known_layout(scenario, path, name, option="--layout")
    if (planted := planting.layout) is None:
        return
    _known_layout(scenario, path, planted, option="--plant")
    if planted == scenario.baseline:
        raise UsageError(f"--plant: {planted!r} is the baseline of {path}; plant in a layout that is held against it")
    if layouts and planted not in layouts:
        raise UsageError(f"--plant: {planted!r} is not among the layouts to run; add --layout {planted}")


def _known_layout(scenario: Scenario, path: Path, name: str, *, option: str) -> None:
    try:
        scenario.table(name)
    except ScenarioError as error:
        raise ScenarioError(f"{option}: {path}: {error}") from None


def device_kind(asked: str) -> DeviceKind:
    """The kind of rank to start for `auto`, `cpu` or `cuda`; auto takes GPUs where there are any.

    Raises:
        UsageError: GPUs were asked for and there are none.
    """
    if asked == "cpu":
        return "cpu"
    if num_gpus():
        return "cuda"
    if asked == "cuda":
        raise UsageError("--device cuda: no GPU is visible; use --device cpu, or look at `nvidia-smi`")
    return "cpu"


def check_fits(scenario: Scenario, path: Path, names: Sequence[str], *, available: int) -> None:
    """Refuse layouts that need more GPUs than are `available`.

    Raises:
        UsageError: naming the layout, both numbers and what does fit.
    """
    sizes = {name: scenario.table(name).grids().world_size for name in scenario.names}
    largest = max({scenario.baseline, *(names or scenario.names)}, key=lambda name: sizes[name])
    if sizes[largest] <= available:
        return
    remedy = "use --device cpu"
    # The baseline always runs, so without room for it no choice of layouts helps.
    if sizes[scenario.baseline] <= available:
        fitting = [name for name in scenario.names if sizes[name] <= available]
        remedy += f", or pick with --layout from {', '.join(fitting)}"
    raise UsageError(f"{path}: layout {largest!r} needs {sizes[largest]} GPUs, {available} are visible; {remedy}")


def run_directories(out: Path | None, files: Sequence[Path], *, resume: bool = False) -> list[Path]:
    """Where each scenario's record goes: `out` itself for one file, `out/<stem>` for several. Nothing is made yet.

    To `resume`, a directory may hold a record.

    Raises:
        UsageError: a directory would be used twice, holds something, or cannot be written.
    """
    root = out if out is not None else Path("reports", "local", datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    directories = [root] if len(files) == 1 else [root / file.stem for file in files]
    if len(set(directories)) < len(directories):
        raise UsageError(f"two of the scenarios {', '.join(map(str, files))} have the same name; run them one by one")
    for directory in {root, *directories}:
        check_usable(directory)
        if not _is_free(directory) and not (resume and _can_go_on(directory, directories)):
            raise UsageError(f"--out: {directory} is not empty; {_remedy(directory)}")
    return directories


def check_usable(directory: Path, *, option: str = "--out") -> None:
    """Refuse a directory in which nothing can be written, new or not.

    Raises:
        UsageError: naming the option.
    """
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{option}: {directory} is a file; name a directory")
    existing = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"{option}: {directory} cannot be made, {existing} is not a writable directory; name another")


def account_directory(out: Path | None, file: Path, *, resume: bool) -> Path:
    """Where an account of the gate goes; to `resume`, where one lies. Nothing is made yet.

    Raises:
        UsageError: a new one would go where something lies, or it is not said which one to go on with.
    """
    if not resume:
        (directory,) = run_directories(out, [file])
        return directory
    if out is None:
        raise UsageError("--resume: say which account to go on with: --out DIR, as it was given then")
    check_usable(out)
    return out


def _is_free(directory: Path) -> bool:
    return not directory.exists() or not any(directory.iterdir())


def _can_go_on(directory: Path, directories: Sequence[Path]) -> bool:
    """Whether it holds a record, or nothing but what runs of ours leave: unfinished files, other scenarios' records."""
    return (directory / RUN_FILE).exists() or all(
        is_temporary(path) or path in directories for path in directory.iterdir()
    )


def _remedy(directory: Path) -> str:
    remedy = "name a new directory, or remove what is in it"
    return f"{remedy}, or go on with its run by --resume" if (directory / RUN_FILE).exists() else remedy
