"""Runs `oracle_entries` on the ranks of a layout, and reads what they leave under the names of the referee."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from mimo_bench.data.dataset import Dataset
from mimo_bench.data.prepare import build_dataset
from mimo_bench.launch import DeviceKind, Job, Launcher
from mimo_bench.layout.tables import LayoutTable
from mimo_bench.models import ModelShape, read_model_shape
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.scenario.training import Training
from tests.support import oracle
from tests.support.checkpoints import CONFIGS

NUM_STEPS = 3
TRAINING = Training(learning_rate=1e-2, adam_epsilon=1e-4)
"""Epsilon is a twentieth of a typical gradient: with 1e-8, Adam's first step is the sign of the gradient, and where
that ought to be zero, of rounding. The rate is one at which float32 holds a norm weight to 1e-5 of its update.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Results of a layout's ranks, by the names of `transformers`."""

    result: oracle.Pass
    weights: oracle.Tensors
    losses: list[float]
    """Losses of every optimizer step."""
    updates: oracle.Tensors
    """Changes that the steps made to the weights that have a gradient."""


Renaming = Callable[[ModelShape, oracle.Tensors], dict[str, torch.Tensor]]
"""From our full tensors to those of `transformers`."""


def scenario_of(family: str, layouts: tuple[LayoutTable, ...]) -> Scenario:
    """Layouts, the first of them one rank, with the model that the family's config.json describes."""
    config = CONFIGS / f"{family}.json"
    return Scenario(
        question="Does the trainer compute what transformers computes?",
        model=str(config),
        configured=read_model_shape(config),
        global_batch_size=8,
        global_micro_batch_size=4,
        seq_length=48,
        training=TRAINING,
        baseline=layouts[0].name,
        layout=layouts,
    )


def run_layout(
    launcher: Launcher,
    scenario: Scenario,
    layout: str,
    folder: Path,
    *,
    device_kind: DeviceKind = "cpu",
    to_transformers: Renaming = oracle.to_transformers,
) -> Run:
    """Run a layout on ranks of its own, which leave their files in `folder`."""
    outcome = launcher.launch(
        Job(
            entry="tests.ranks.oracle_entries:pass_and_steps",
            arguments={
                "scenario": scenario.model_dump(mode="json"),
                "layout": layout,
                "device_kind": device_kind,
                "num_steps": NUM_STEPS,
                "folder": str(folder),
            },
            world_size=scenario.table(layout).grids().world_size,
            log_dir=folder,
            hang_seconds=120.0,
        )
    )
    assert outcome.ended == "finished", outcome
    parts = [torch.load(path) for path in sorted(folder.glob("rank*.pt"))]
    (loss,) = {part["loss"] for part in parts}
    (losses,) = {tuple(part["losses"]) for part in parts}
    weights, gradients, trained = (
        to_transformers(scenario.shape, whole(parts, kind)) for kind in ("weights", "gradients", "trained")
    )
    return Run(
        result=oracle.Pass(
            loss=loss,
            gradients=gradients,
            logits=_without_padding(scenario, whole(parts, "logits")),
        ),
        weights=weights,
        losses=list(losses),
        updates={name: trained[name].double() - weights[name].double() for name in gradients},
    )


def whole[Key](parts: Iterable[Mapping[str, Mapping[Key, torch.Tensor]]], kind: str) -> dict[Key, torch.Tensor]:
    """The tensors of all ranks by name; ranks that hold the same parameter must agree on it."""
    tensors: dict[Key, torch.Tensor] = {}
    for part in parts:
        for name, tensor in part[kind].items():
            assert torch.equal(tensors.setdefault(name, tensor), tensor), f"{kind} of {name} differ between ranks"
    return tensors


def _without_padding(scenario: Scenario, logits: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    dataset = dataset_of(scenario)
    return {k: whole[: len(dataset.text("train", k).tokens)] for k, whole in logits.items()}


def dataset_of(scenario: Scenario) -> Dataset:
    """Return the dataset of the scenario."""
    return build_dataset(scenario.data, shape=scenario.shape, seq_length=scenario.seq_length, seed=scenario.seed)


def ids_of(scenario: Scenario, step: int) -> range:
    """The samples of a step's global batch, by number."""
    return range(step * scenario.global_batch_size, (step + 1) * scenario.global_batch_size)


def samples_of(scenario: Scenario, step: int = 0) -> oracle.Samples:
    """The samples of a step's global batch."""
    dataset = dataset_of(scenario)
    return [
        (dataset.encoder_inputs("vision", "train", sample_id), dataset.text("train", sample_id))
        for sample_id in ids_of(scenario, step)
    ]
