"""Requests: what one invocation asks of the bench, from the command line to the ranks.

Everything that the user can get wrong is checked here, before anything starts or is written.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict

from mimo_bench.bench.selection import match_expression, match_globs
from mimo_bench.launch import DeviceKind, num_gpus, num_places, ranks_per_gpu
from mimo_bench.models import MANIFEST, check_new, check_shape, read_manifest
from mimo_bench.parity import Planting
from mimo_bench.record import PLANTED, RUN_FILE, Mode, VariantName
from mimo_bench.scenario import LayoutCase, Scenario, find_config, load_scenario
from mimo_bench.util import (
    LOCK_FILE,
    CheckpointError,
    ScenarioError,
    UsageError,
    WeightsError,
    choices,
    first_difference,
    is_temporary,
)

TRAINING_FILE = "training.json"
"""What a training with checkpoints leaves in `--out`, so that the same command may use the directory again."""

HANG_SECONDS = 300.0
"""Default silence of a rank that counts as a hang."""


class Request(BaseModel):
    """A request: constructed by a command, read again by every rank that serves it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def arguments(self) -> dict[str, Any]:
        """Return the request as a job's arguments: JSON with absolute paths."""
        content = self.model_dump(mode="json")
        paths = {name: str(value.absolute()) for name in content if isinstance(value := getattr(self, name), Path)}
        return content | paths

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """Return the request that `arguments` hold."""
        # Through JSON, whose lists may fill a tuple even if types are strict.
        return cls.model_validate_json(json.dumps(arguments))


class RunRequest(Request):
    """`mimo-bench run` over one scenario."""

    scenario: Scenario
    scenario_file: Path
    layouts: tuple[str, ...] = ()
    """Layouts to run; empty for all. The baseline always runs, since there is no verdict without it."""
    device_kind: DeviceKind
    modes: tuple[Mode, ...]
    directory: Path
    hang_seconds: float = HANG_SECONDS
    num_timing_launches: int = 1
    """Launches that time a layout."""
    history: Path | None = None
    """History to compare with and add to; None to skip."""
    resume: bool = False
    """Resume the record in `directory`, if there is one."""
    plant: str | None = None
    """`FAULT` for every layout but the baseline, or `FAULT@LAYOUT` for one."""
    command: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Layouts to run: the baseline first, the others in the order of the file."""
        baseline = self.scenario.baseline
        others = (name for name in self.scenario.names if name != baseline)
        return (baseline, *(name for name in others if not self.layouts or name in self.layouts))

    @property
    def planting(self) -> Planting:
        """The fault to plant, if any.

        Raises:
            FaultError: there is no such fault.
        """
        return Planting.of(self.plant)

    @property
    def tainted(self) -> str | None:
        """Reason why the run's numbers must not be compared."""
        if self.plant is not None:
            return f"{self.plant} {PLANTED}"
        if self.device_kind == "cuda" and (sharers := ranks_per_gpu()) > 1:
            return f"up to {sharers} ranks shared a GPU"
        return None


class LaunchRequest(Request):
    """One layout in one mode, on every rank of one launch."""

    scenario: Scenario
    weights: Path | None
    """Directory of the weights that the scenario names."""
    layout: str
    mode: Mode
    device_kind: DeviceKind
    directory: Path
    """Takes the ranks' records, `rank<k>.json`."""
    baseline: Path
    """Folder in which the baseline leaves fingerprint and gradients, with which every other layout is compared."""
    fault: str | None = None
    """Fault to plant, as `module:function` or `module:function:argument`."""
    variant: VariantName | None = None
    """Variant of the baseline to train; None for the layout itself."""
    is_traced: bool = False
    """Take one parity step under hooks, to find the first difference from the baseline."""

    @property
    def is_baseline(self) -> bool:
        """True for the training that others are compared with."""
        return self.layout == self.scenario.baseline and self.variant is None


class OverheadRequest(Request):
    """`mimo-bench overhead` in one mode: turns of bare, instrumented, instrumented and bare blocks of steps."""

    scenario: Scenario
    weights: Path | None
    layout: str
    mode: Mode
    device_kind: DeviceKind
    directory: Path
    num_turns: int
    num_steps: int
    """Steps of a block."""


class TrainRequest(Request):
    """`mimo-bench train`: one layout, without the bench."""

    scenario: Scenario
    layout: str
    num_steps: int
    """Counted from the very first; steps that a checkpoint holds are not taken again."""
    device_kind: DeviceKind
    directory: Path
    """Takes metrics.jsonl and the ranks' logs."""
    hang_seconds: float = HANG_SECONDS
    start: Path | None = None
    """Directory of weights to start from; None draws them from the seed."""
    save: Path | None = None
    """New directory for the weights after the last step."""
    checkpoints: Path | None = None
    """Directory to resume from and to save to; None for no checkpoints."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints; None for one after the last step alone."""
    validate_every: int | None = None
    """Steps between two evaluations of the scenario's held-out batches; None for none."""
    config: Path | None = None
    """The model's config.json; None if a preset names the model."""


def plan_runs(
    files: Sequence[Path],
    *,
    out: Path | None,
    layouts: Sequence[str] = (),
    expression: str | None = None,
    resume: bool = False,
    gate_performance: bool = False,
    **common: Any,
) -> list[RunRequest]:
    """Return one checked request for each scenario file.

    Args:
        files: the scenarios.
        out: directory for what the runs write; None for one by time.
        layouts: names or globs of the layouts to run; empty for all.
        expression: expression over names, which narrows them further; None for none.
        resume: whether to resume the runs in `out`.
        gate_performance: whether the runs must be compared with a history.
        common: the other fields of `RunRequest`.

    Raises:
        MimoBenchError: a file, a name or an option that cannot be met; nothing was started or written.
    """
    scenarios = [load_scenario(file, with_fingerprint=True) for file in files]
    _check_history(common.get("history"), gate_performance=gate_performance)
    if resume and out is None:
        raise UsageError("--resume: name the run to resume: --out DIR")
    directories = run_directories(out, files, resume=resume)
    requests = [
        RunRequest(
            scenario=scenario,
            scenario_file=file,
            layouts=_selected(scenario, file, layouts, expression),
            directory=directory,
            resume=resume,
            **common,
        )
        for scenario, file, directory in zip(scenarios, files, directories, strict=True)
    ]
    for request in requests:
        _check_names(request)
        check_fits(request.scenario, request.scenario_file, request.layouts, device_kind=request.device_kind)
    return requests


def plan_training(
    file: Path, *, layout: str, steps: int | None, load: Path | None, out: Path | None, **fields: Any
) -> TrainRequest:
    """Return the checked request to train one layout of the scenario in `file`.

    Args:
        file: the scenario.
        layout: the layout's name.
        steps: optimizer steps; None for the scenario's parity and learning steps.
        load: directory of weights, or checkpoint, to start from in place of the scenario's own.
        out: directory for the log, new or of the same training with checkpoints; None for one by time.
        fields: the other fields of `TrainRequest`.

    Raises:
        MimoBenchError: a file, a name or an option that cannot be met; nothing was started or written.
    """
    scenario = load_scenario(file, with_fingerprint=fields["checkpoints"] is not None)
    _known(scenario, file, layout, option="--layout")
    if steps is not None and steps < 1:
        raise UsageError(f"--steps: {steps}: give a whole number of at least 1")
    check_fits(scenario, file, (layout,), device_kind=fields["device_kind"], ranks_share=False, with_baseline=False)
    is_again = out is not None and fields["checkpoints"] is not None and (out / TRAINING_FILE).is_file()
    directory = out if out is not None and is_again else run_directories(out, [file])[0]
    request = TrainRequest(
        scenario=scenario,
        layout=layout,
        num_steps=scenario.steps.parity + scenario.steps.learning if steps is None else steps,
        directory=directory,
        start=_start(scenario, load),
        config=find_config(file, scenario.model) if scenario.configured is not None else None,
        **fields,
    )
    _check_training(request)
    return request


def _check_training(request: TrainRequest) -> None:
    from mimo_bench.trainer import check_directory

    scenario, every = request.scenario, request.checkpoint_every
    if request.save is not None:
        try:
            check_new(request.save)
        except WeightsError as error:
            raise UsageError(f"--save: {error}") from None
    if every is not None and (request.checkpoints is None or every < 1):
        remedy = "name their directory with --checkpoints" if request.checkpoints is None else "give at least 1"
        raise UsageError(f"--checkpoint-every: {every}: {remedy}")
    if request.checkpoints is not None:
        check_usable(request.checkpoints, option="--checkpoints")
        held_fixed = held_fixed_of(request)
        try:
            check_directory(request.checkpoints, held_fixed)
        except CheckpointError as error:
            raise UsageError(f"--checkpoints: {error}") from None
        if (begun := request.directory / TRAINING_FILE).is_file() and (
            found := first_difference(json.loads(begun.read_text(encoding="utf-8")), held_fixed)
        ):
            raise UsageError(
                f"--out: {request.directory}: is of another training: {found.key} = {found.now!r}, and it was "
                f"{found.before!r}; name a new directory"
            )
    if request.validate_every is not None:
        if request.validate_every < 1:
            raise UsageError(f"--validate-every: {request.validate_every}: give at least 1")
        if not scenario.evaluation.num_batches:
            raise UsageError("--validate-every: evaluation.num_batches = 0 in the scenario; raise it")


def held_fixed_of(request: TrainRequest) -> dict[str, Any]:
    """Return what a training that resumes shares with the one that `request` describes, as JSON."""
    from mimo_bench.trainer import Pretraining

    run = Pretraining.of(request.scenario, request.layout, num_steps=request.num_steps)
    return run.held_fixed(request.scenario.data)


def _start(scenario: Scenario, load: Path | None) -> Path | None:
    """Return the directory of weights to start from; `load` comes before the scenario's own."""
    from mimo_bench.trainer import saved_in

    if load is None:
        return None if scenario.weights_directory is None else Path(scenario.weights_directory)
    if not (load / MANIFEST).exists() and (checkpoints := saved_in(load)):
        raise UsageError(f"--load: {load}: holds checkpoints; name one of them: the newest is {checkpoints[0]}")
    try:
        check_shape(load, read_manifest(load), scenario.shape)
    except WeightsError as error:
        raise UsageError(f"--load: {error}") from None
    return load


def _check_history(history: Path | None, *, gate_performance: bool) -> None:
    if history is None:
        if gate_performance:
            raise UsageError("--gate-performance needs a history to compare with; add --history HISTORY")
        return
    check_usable(history, option="--history")
    from mimo_bench.report import History, read_expectations

    read_expectations(History(history).expectations_file)


def _selected(scenario: Scenario, path: Path, layouts: Sequence[str], expression: str | None) -> tuple[str, ...]:
    """Return the names of the layouts to run; empty for all."""
    names = match_globs(scenario.names, layouts, option=f"--layout: {path}") if layouts else scenario.names
    if expression is not None:
        return match_expression(names, expression)
    return names if layouts else ()


def _check_names(request: RunRequest) -> None:
    """Refuse layouts of `--plant FAULT@LAYOUT` that the scenario does not have or that do not run."""
    scenario, path = request.scenario, request.scenario_file
    if (planted := request.planting.layout) is None:
        return
    _known(scenario, path, planted, option="--plant")
    if planted == scenario.baseline:
        raise UsageError(f"--plant: {planted!r} is the baseline of {path}; plant in a layout that is compared with it")
    if request.layouts and planted not in request.layouts:
        raise UsageError(f"--plant: {planted!r} is not among the layouts to run; add --layout {planted}")


def _known(scenario: Scenario, path: Path, name: str, *, option: str) -> LayoutCase:
    try:
        return scenario.case(name)
    except ScenarioError as error:
        raise ScenarioError(f"{option}: {path}: {error}") from None


def parse_modes(text: str) -> tuple[Mode, ...]:
    """Return the modes named in `text`, separated by commas, each once and in the order in which they run.

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
    """Return the silence in seconds after which a rank counts as hung.

    Raises:
        UsageError: it is no positive, finite number.
    """
    if not (seconds > 0 and math.isfinite(seconds)):
        raise UsageError(f"--hang-limit: {seconds}: give a positive number of seconds")
    return seconds


def device_kind(device: str) -> DeviceKind:
    """Return the kind of rank to start for `auto`, `cpu` or `cuda`; auto takes GPUs if there are any.

    Raises:
        UsageError: `device` is cuda and no GPU is visible.
    """
    if device == "cpu":
        return "cpu"
    if num_gpus():
        return "cuda"
    if device == "cuda":
        raise UsageError("--device cuda: no GPU is visible; use --device cpu, or look at `nvidia-smi`")
    return "cpu"


def check_fits(
    scenario: Scenario,
    path: Path,
    names: Sequence[str],
    *,
    device_kind: DeviceKind,
    ranks_share: bool = True,
    with_baseline: bool = True,
) -> None:
    """Refuse layouts that need more GPUs than are visible.

    Args:
        scenario: the layouts.
        path: its file.
        names: layouts that will run; empty for all.
        device_kind: what ranks run on; CPU ranks always fit.
        ranks_share: whether several ranks may share a GPU.
        with_baseline: whether the baseline runs in any case.

    Raises:
        UsageError: naming the layout, both numbers and what does fit.
    """
    if device_kind == "cpu":
        return
    available = num_places() if ranks_share else num_gpus()
    sizes = {name: scenario.case(name).world_size for name in scenario.names}
    running = {*(names or scenario.names), *((scenario.baseline,) if with_baseline else ())}
    largest = max(running, key=lambda name: sizes[name])
    if sizes[largest] <= available:
        return
    remedy = "use --device cpu"
    # The baseline always runs, so without room for it no choice of layouts helps.
    if not with_baseline or sizes[scenario.baseline] <= available:
        fitting = [name for name in scenario.names if sizes[name] <= available]
        remedy += f", or pick with --layout from {', '.join(fitting)}" if fitting else ""
    raise UsageError(f"{path}: layout {largest!r} needs {sizes[largest]} GPUs, {available} are visible; {remedy}")


def run_directories(out: Path | None, files: Sequence[Path], *, resume: bool = False) -> list[Path]:
    """Return the directory of each scenario's record: `out` itself for one file, `out/<stem>` for several.

    Nothing is made yet. To `resume`, a directory may hold a record.

    Raises:
        UsageError: a directory would be used twice, holds something, or cannot be written.
    """
    root = out if out is not None else Path("reports", "local", datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    directories = [root] if len(files) == 1 else [root / file.stem for file in files]
    if len(set(directories)) < len(directories):
        raise UsageError(f"two of the scenarios {', '.join(map(str, files))} have the same name; run them one by one")
    for directory in {root, *directories}:
        check_usable(directory)
        is_free = not directory.exists() or all(path.name == LOCK_FILE for path in directory.iterdir())
        if not is_free and not (resume and _can_resume(directory, directories)):
            remedy = "name a new directory, or remove what is in it"
            if (directory / RUN_FILE).exists():
                remedy += ", or resume its run with --resume"
            raise UsageError(f"--out: {directory} is not empty; {remedy}")
    return directories


def _can_resume(directory: Path, directories: Sequence[Path]) -> bool:
    """Return whether it holds a record, or only what our runs leave: unfinished files, other scenarios' records."""
    return (directory / RUN_FILE).exists() or all(
        is_temporary(path) or path in directories for path in directory.iterdir()
    )


def account_directory(out: Path | None, file: Path, *, resume: bool) -> Path:
    """Return the directory of a campaign's account; to `resume`, an existing one. Nothing is made yet.

    Raises:
        UsageError: a new account would overwrite something, or the one to resume is not named.
    """
    if not resume:
        (directory,) = run_directories(out, [file])
        return directory
    if out is None:
        raise UsageError("--resume: name the account to resume: --out DIR")
    check_usable(out)
    return out


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
