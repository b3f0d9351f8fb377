"""What `mimo-bench train` was asked for, checked in full before anything starts or is written."""

from __future__ import annotations

from pathlib import Path

from mimo_bench.bench import run_options
from mimo_bench.bench.train import TrainingOptions
from mimo_bench.launch import num_gpus
from mimo_bench.models import MANIFEST, check_new, check_shape, read_manifest
from mimo_bench.scenario import Scenario, find_config, load_scenario
from mimo_bench.trainer import Pretraining, check_directory, saved_in
from mimo_bench.util import CheckpointError, ScenarioError, UsageError, WeightsError


def plan_training(
    file: Path,
    *,
    layout: str,
    steps: int | None,
    save: Path | None,
    load: Path | None,
    checkpoints: Path | None,
    checkpoint_every: int | None,
    validate_every: int | None,
    device: str,
    out: Path | None,
    hang_limit: float,
) -> TrainingOptions:
    """The training of one layout, once all that was typed is known to be good.

    Raises:
        MimoBenchError: a file, a name or an option that cannot be met.
    """
    scenario = load_scenario(file, with_fingerprint=checkpoints is not None)
    try:
        world_size = scenario.table(layout).grids().world_size
    except ScenarioError as error:
        raise ScenarioError(f"--layout: {file}: {error}") from None
    if steps is not None and steps < 1:
        raise UsageError(f"--steps: {steps}: give a whole number of at least 1")
    kind = run_options.device_kind(device)
    if kind == "cuda" and world_size > (available := num_gpus()):
        raise UsageError(
            f"{file}: layout {layout!r} needs {world_size} GPUs, {available} are visible; use --device cpu, or another"
        )
    num_steps = scenario.steps.parity + scenario.steps.learning if steps is None else steps
    if save is not None:
        _check_save(save)
    if checkpoint_every is not None and (checkpoints is None or checkpoint_every < 1):
        remedy = "name their directory with --checkpoints" if checkpoints is None else "give at least 1"
        raise UsageError(f"--checkpoint-every: {checkpoint_every}: {remedy}")
    if checkpoints is not None:
        _check_checkpoints(checkpoints, Pretraining.of(scenario, layout, num_steps=num_steps), scenario)
    if validate_every is not None:
        _check_validation(validate_every, scenario)
    (directory,) = run_options.run_directories(out, [file])
    return TrainingOptions(
        scenario=scenario,
        layout=layout,
        num_steps=num_steps,
        device_kind=kind,
        directory=directory,
        hang_seconds=run_options.parse_hang_limit(hang_limit),
        start=_start(scenario, load),
        save=save,
        checkpoints=checkpoints,
        checkpoint_every=checkpoint_every,
        validate_every=validate_every,
        config=find_config(file, scenario.model) if scenario.configured is not None else None,
    )


def _check_save(save: Path) -> None:
    try:
        check_new(save)
    except WeightsError as error:
        raise UsageError(f"--save: {error}") from None


def _check_checkpoints(directory: Path, run: Pretraining, scenario: Scenario) -> None:
    run_options.check_usable(directory, option="--checkpoints")
    try:
        check_directory(directory, run.held_fixed(scenario.data))
    except CheckpointError as error:
        raise UsageError(f"--checkpoints: {error}") from None


def _check_validation(every: int, scenario: Scenario) -> None:
    if every < 1:
        raise UsageError(f"--validate-every: {every}: give at least 1")
    if not scenario.evaluation.num_batches:
        raise UsageError("--validate-every: evaluation.num_batches = 0 in the scenario; raise it")


def _start(scenario: Scenario, load: Path | None) -> Path | None:
    """Where the weights lie that training starts from; those asked for come before the scenario's own."""
    if load is None:
        return None if scenario.weights_directory is None else Path(scenario.weights_directory)
    if not (load / MANIFEST).exists() and (checkpoints := saved_in(load)):
        raise UsageError(f"--load: {load}: holds checkpoints; name one of them: the newest is {checkpoints[0]}")
    try:
        check_shape(load, read_manifest(load), scenario.shape)
    except WeightsError as error:
        raise UsageError(f"--load: {error}") from None
    return load
