"""The trainer of one layout as one rank holds it: assembled once, then stepped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from zlib import crc32

import torch
from megatron.core.models.mimo.model.base import MimoModel

from mimo_bench.data import Dataset
from mimo_bench.layout import BatchPlan, Layout, Precision, Settings
from mimo_bench.models import DTYPES, ModelShape
from mimo_bench.scenario import LoaderTable, Scenario, Training
from mimo_bench.trainer.device import RankDevice
from mimo_bench.trainer.gradients import Totals, finish_gradients, items_total
from mimo_bench.trainer.loader import Loader, MicroBatch, refuse_other_models
from mimo_bench.trainer.logging import EvaluationTotals, StepResult
from mimo_bench.trainer.model import Provider, compile_layers, provider_of, wrap_data_parallel
from mimo_bench.trainer.optimizer import ModuleNorms, ScheduledOptimizer, build_optimizer
from mimo_bench.trainer.step import Schedule, build_schedule
from mimo_bench.trainer.stored import StoredWeights, unread_parameter
from mimo_bench.trainer.topology import Topology, build_topology
from mimo_bench.trainer.weights import Start, drawn, fill_weights, freeze_weights
from mimo_bench.util import WeightsError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerConfig:
    """Configuration of a training run, apart from its data."""

    shape: ModelShape
    layout: Layout
    plan: BatchPlan
    settings: Settings
    training: Training
    precision: Precision
    seq_length: int
    seed: int
    weights: Path | None = None
    """A directory of weights to start from; None draws them from the seed."""
    loader: LoaderTable = field(default_factory=LoaderTable)

    @classmethod
    def of(
        cls, scenario: Scenario, name: str, *, weights: Path | None = None, for_parity: bool = False
    ) -> TrainerConfig:
        """Return the configuration of a scenario's layout.

        Args:
            scenario: what is held fixed.
            name: of a layout.
            weights: directory of the weights that the scenario names; None if it names none.
            for_parity: in fp32 with nothing overlapped, instead of as declared.
        """
        case = scenario.case(name)
        return cls(
            shape=scenario.shape,
            layout=case.layout,
            plan=case.plan,
            settings=case.settings.for_parity() if for_parity else case.settings,
            training=scenario.training_for_parity if for_parity else scenario.training,
            precision="fp32" if for_parity else scenario.precision,
            seq_length=scenario.seq_length,
            seed=scenario.seed,
            weights=weights,
            loader=scenario.loader,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTaken:
    """A step whose numbers may still be on the device."""

    totals: Totals
    norms: ModuleNorms
    encoders: Iterable[str]

    def result(self) -> StepResult:
        """Read the result; waits for the device."""
        totals = self.totals.read()
        return StepResult(
            loss=_mean(totals["loss"], totals["scored_tokens"]),
            grad_norms=self.norms.read(),
            num_tokens=round(totals["tokens"]),
            num_token_pairs=round(totals["token_pairs"]),
            num_items={name: round(totals[items_total(name)]) for name in self.encoders},
            num_scored=round(totals["scored_tokens"]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainer:
    """Everything a rank needs to train its part."""

    config: TrainerConfig
    topology: Topology
    model: MimoModel
    optimizer: ScheduledOptimizer
    loader: Loader
    totals: Totals
    schedule: Schedule
    start: Start
    """Starting weights."""

    def train_step(self, batch: Sequence[MicroBatch], inspect: Callable[[], None] | None = None) -> StepTaken:
        """Forward, backward and one optimizer step over a global batch; collective over the world.

        A GPU may still be running when this returns: read the result a step later, and it never idles.
        `inspect` is called in between: gradients are then reduced and normalised, and not yet clipped.
        """
        seed_step(self.topology, seed=self.config.seed, step=self.optimizer.num_steps)
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        self.totals.reset()
        self.schedule(batch, forward_only=False)
        if inspect is not None:
            inspect()
        self.optimizer.step()
        return StepTaken(
            totals=copy(self.totals), norms=self.optimizer.module_grad_norms, encoders=self.config.layout.encoders
        )

    def rehearse(self, batch: Sequence[MicroBatch]) -> None:
        """Run forward and backward over a global batch and leave weights and optimizer as they are; collective.

        Kernels are then chosen and loaded, and memory is reserved, as for a step on this batch.
        """
        self.model.zero_grad_buffer()
        self.totals.reset()
        self.schedule(batch, forward_only=False)

    def evaluate(self, batches: Iterable[Sequence[MicroBatch]]) -> EvaluationTotals:
        """Score global batches without a gradient; collective over the world."""
        self.totals.reset()
        num_batches = 0
        with torch.no_grad(), _evaluating(self.model):
            for batch in batches:
                self.schedule(batch, forward_only=True)
                num_batches += 1
        self.totals.reduce()
        totals = self.totals.read()
        return EvaluationTotals(
            loss=_mean(totals["loss"], totals["scored_tokens"]),
            answer_accuracy=_mean(totals["correct_tokens"], totals["scored_tokens"]),
            num_samples=num_batches * self.config.plan.global_batch_size,
            num_scored=round(totals["scored_tokens"]),
        )


def build_trainer(
    config: TrainerConfig,
    *,
    dataset: Dataset,
    device: RankDevice,
    provider: Provider | None = None,
    topology: Topology | None = None,
) -> Trainer:
    """Assemble one rank's trainer, on the groups of `topology` or on new ones; collective over the world."""
    topology = topology or build_topology(config.layout, backend=device.backend)
    assert topology.layout == config.layout
    provider = provider or provider_of(config.shape)
    model = provider(config.shape, topology=topology, settings=config.settings, precision=config.precision)
    refuse_other_models(model)
    loader = Loader(
        dataset=dataset,
        plan=config.plan,
        topology=topology,
        shape=config.shape,
        seq_length=config.seq_length,
        input_dtype=DTYPES[config.precision],
        device=device.torch_device,
        background=config.loader,
    )
    start = start_of(seed=config.seed, weights=config.weights)
    fill_weights(model, topology, start)
    if config.weights is not None and (problem := unread_parameter(config.weights, model, topology)) is not None:
        raise WeightsError(problem)
    freeze_weights(model, topology, training=config.training)
    if config.settings.compile_layers:
        compile_layers(model)
    wrap_data_parallel(model, topology=topology, settings=config.settings)
    totals = Totals(device.torch_device, encoders=config.layout.encoders)
    model.config.finalize_model_grads_func = partial(
        finish_gradients, totals=totals, topology=topology, training=config.training
    )
    model.config.grad_scale_func = lambda loss: loss
    model.config.no_sync_func = model.no_sync if config.settings.overlap_grad_reduce else None
    return Trainer(
        config=config,
        topology=topology,
        model=model,
        optimizer=build_optimizer(
            model,
            topology=topology,
            training=config.training,
            settings=config.settings,
            precision=config.precision,
        ),
        loader=loader,
        totals=totals,
        schedule=build_schedule(
            model, topology=topology, totals=totals, plan=config.plan, seq_length=config.seq_length
        ),
        start=start,
    )


def start_of(*, seed: int, weights: Path | None) -> Start:
    """Return the starting weights: those stored in the directory `weights`, or drawn from `seed`."""
    return partial(drawn, seed=seed) if weights is None else StoredWeights(weights)


def seed_step(topology: Topology, *, seed: int, step: int) -> None:
    """Make what a step draws a function of seed, step and replica: a resumed training draws the same numbers.

    Built-in models draw nothing; a user's own may have dropout.
    """
    spans = [topology.layout.modules[module] for module in topology.modules]
    # Ranks of a tensor-parallel group hold the same activations, and must drop the same ones.
    offset, tp = spans[0].rank_offset, max(grid.tp for grid in spans)
    replica = offset + (topology.rank - offset) // tp
    torch.manual_seed(crc32(f"{seed}/{step}/{replica}".encode()))


@contextmanager
def _evaluating(model: MimoModel) -> Iterator[None]:
    """Evaluation mode, without dropout; training mode again afterwards."""
    model.eval()
    try:
        yield
    finally:
        model.train()


def _mean(total: float, count: float) -> float:
    """Return the mean; NaN if nothing was counted."""
    return total / count if count else math.nan
