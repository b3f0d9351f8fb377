"""Dataset, trainer, batches and faults, as every mode needs them on a rank."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

from mimo_bench.bench.request import LaunchRequest
from mimo_bench.data import Dataset, Split, build_dataset, prepare
from mimo_bench.launch import beat
from mimo_bench.parity import FaultContext
from mimo_bench.scenario import Scenario
from mimo_bench.trainer import MicroBatch, RankDevice, Topology, Trainer, TrainerConfig, build_trainer


def open_dataset(scenario: Scenario) -> tuple[Dataset, dict[Split, dict[int, str]]]:
    """The samples of a scenario, and by split the rows that are left out of them; collective over the world."""
    dataset = build_dataset(scenario.data, shape=scenario.shape, seq_length=scenario.seq_length, seed=scenario.seed)
    return dataset, prepare(dataset, num_samples(scenario))


def num_samples(scenario: Scenario) -> dict[Split, int]:
    """Return the number of samples of each split that the longest mode of a scenario reads."""
    steps = scenario.steps
    num_steps = max(steps.parity + steps.learning, steps.warmup + steps.timed + num_watched(scenario))
    num_batches: dict[Split, int] = {"train": num_steps, "validation": scenario.evaluation.num_batches}
    return {split: count * scenario.global_batch_size for split, count in num_batches.items()}


def num_watched(scenario: Scenario) -> int:
    """Steps behind the timed window, the one included that is waited for, and what is made ahead of the last."""
    loader = scenario.loader
    return 1 + loader.num_watched_steps + loader.num_ahead + 1 if loader.num_watched_steps else 0


def build(
    scenario: Scenario,
    layout: str,
    *,
    dataset: Dataset,
    device: RankDevice,
    weights: Path | None,
    for_parity: bool = False,
    topology: Topology | None = None,
) -> Trainer:
    """Return the trainer of a layout: for parity in fp32 with nothing overlapped, otherwise as declared.

    Process groups come from `topology` if an earlier trainer of the same layout made them.
    """
    config = TrainerConfig.of(scenario, layout, weights=weights, for_parity=for_parity)
    return build_trainer(config, dataset=dataset, device=device, topology=topology)


def held_ready(trainer: Trainer, num_steps: int) -> list[list[MicroBatch]]:
    """The global batches of the first steps, on the device, so that the loader is not what is timed."""
    batches = [trainer.loader.global_batch("train", step) for step in range(num_steps)]
    beat()
    return batches


def plant(trainer: Trainer, request: LaunchRequest, undo: ExitStack) -> None:
    """Plant the requested fault, if any."""
    if request.fault is not None:
        module, function, *argument = request.fault.split(":", 2)
        topology = trainer.topology
        steps = request.scenario.steps
        num_steps = steps.parity if request.mode == "parity" else steps.warmup + steps.timed
        context = FaultContext(
            trainer=trainer, layout=topology.layout, rank=topology.rank, num_steps=num_steps, undo=undo
        )
        getattr(import_module(module), function)(context, *argument)
