"""Compare the loss and gradients of the baseline with those that `transformers` computes, on one rank."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from mimo_bench.data import build_dataset, prepare
from mimo_bench.launch import beat
from mimo_bench.layout import Grid, Layout, Settings
from mimo_bench.models import config_of, digest, to_transformers
from mimo_bench.parity.fingerprints import FINGERPRINT, Fingerprint
from mimo_bench.parity.probes.gradients import GRADIENTS
from mimo_bench.parity.probes.referee import Pass, Samples, build_referee, deviation, run_referee
from mimo_bench.parity.probes.tensors import path_of, stream
from mimo_bench.parity.verdict import MEASURED, Measured
from mimo_bench.scenario import Scenario
from mimo_bench.trainer import RankDevice, build_model, build_topology, join, shards, start_of
from mimo_bench.util import write_atomically

_AT_ONCE = 2
"""Samples that go through the referee together: float64 activations of a long one fill a good part of a GPU."""


class OracleArguments(BaseModel):
    """One baseline, and its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario: Scenario
    weights: Path | None
    """Directory of the weights that the scenario names."""
    loss: float
    """Loss of the baseline's first parity step."""
    baseline: Path
    """Folder with its fingerprint and the gradients of that step."""
    place: Path
    """Folder for the measurements."""
    device_kind: Literal["cpu", "cuda"]


def main(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Run `transformers` over the first global batch on one rank, and leave the errors of the baseline."""
    assert (rank, world_size) == (0, 1)
    # Through JSON, whose lists may fill a tuple even where types are strict.
    asked = OracleArguments.model_validate_json(json.dumps(arguments))
    device, shape = join(asked.device_kind), asked.scenario.shape
    weights = starting_weights(asked, device)
    config = config_of(shape)
    assert config is not None, "a model without a counterpart is not compared"
    referee = build_referee(config, to_transformers(shape, weights), device=device.torch_device)
    frozen = {name: weight for name, weight in weights.items() if not asked.scenario.training.trains(name)}
    for name in to_transformers(shape, frozen):
        referee.get_parameter(name).requires_grad_(False)
    beat()
    expected = run_referee(referee, first_samples(asked.scenario), at_once=_AT_ONCE, keep_logits=False, on_part=beat)
    gradients = {
        name: _read(path_of(asked.baseline / GRADIENTS, name)).view(weight.shape)
        for name, weight in weights.items()
        if name not in frozen
    }
    ours = {
        name: gradient
        for name, gradient in to_transformers(shape, gradients).items()
        # A parameter that no sample of the batch reaches is zero here, and has no gradient there.
        if name in expected.gradients or gradient.any()
    }
    found = deviation(Pass(loss=asked.loss, gradients=ours), expected)
    parameter, error = found.worst_gradient
    measured = Measured(
        loss_rel=found.loss, parameter=parameter, gradient_rel=error, num_gradients=len(found.gradients)
    )
    write_atomically(asked.place / MEASURED, measured.model_dump_json().encode())


@torch.no_grad()
def starting_weights(asked: OracleArguments, device: RankDevice) -> dict[str, torch.Tensor]:
    """Return the starting weights of the baseline, on the host, checked by its fingerprint."""
    scenario = asked.scenario
    topology = build_topology(Layout(modules=dict.fromkeys(scenario.shape.modules, Grid())), backend=device.backend)
    model = build_model(scenario.shape, topology=topology, settings=Settings(), precision="fp32")
    start = start_of(seed=scenario.seed, weights=asked.weights)
    weights = {shard.name: start(shard).float().cpu() for shard in shards(model, topology)}
    known = Fingerprint.model_validate_json((asked.baseline / FINGERPRINT).read_text(encoding="utf-8")).weights
    assert known == {name: digest(weight) for name, weight in weights.items()}, "the baseline starts from other weights"
    return weights


def first_samples(scenario: Scenario) -> Samples:
    """Return pixels and text of every sample of the first global batch."""
    dataset = build_dataset(scenario.data, shape=scenario.shape, seq_length=scenario.seq_length, seed=scenario.seed)
    prepare(dataset, {"train": scenario.global_batch_size})
    return [
        (dataset.encoder_inputs("vision", "train", sample_id), dataset.text("train", sample_id))
        for sample_id in range(scenario.global_batch_size)
    ]


def _read(path: Path) -> torch.Tensor:
    return torch.cat(list(stream(path, torch.device("cpu"))))
